//! Calls of the services, and their failures in one clear line.

use std::collections::BTreeMap;
use std::future::Future;
use std::ops::ControlFlow;
use std::time::Duration;

use imprint_proto::pb;
use imprint_proto::pb::attempts_client::AttemptsClient;
use imprint_proto::pb::metrics_client::MetricsClient;
use imprint_proto::pb::orchestrator_client::OrchestratorClient;
use imprint_proto::{Channel, Error, MAX_MESSAGE_BYTES, Target, answer};
use tokio::time::{Instant, timeout};
use tonic::{Code, Response, Status};

use crate::failure::{Failure, Kind};
use crate::place::Place;

/// How long an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// How long one may take that is looked for in files, or in all readings of a run.
const LONG_ANSWER_WITHIN: Duration = Duration::from_secs(600);

/// How often a call is repeated while the service says that it cannot answer now.
const N_TRIES: u32 = 6;

/// The pause before the second try; it doubles from try to try.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// Rows of a page: as many as the service gives.
const MAX_PAGE: i32 = 1_000;

/// How long a broken stream is taken up again before the service counts as gone.
const RECONNECT_FOR: Duration = Duration::from_secs(60);

/// A connection to the orchestrator.
pub(crate) struct Orchestrator {
    url: String,
    channel: Channel,
    client: OrchestratorClient<Channel>,
}

impl Orchestrator {
    /// # Errors
    /// When nothing answers at the place's address.
    pub(crate) async fn connect(place: &Place) -> Result<Self, Failure> {
        let target = place.orchestrator()?;
        let url = target.url.clone();
        let channel = connect("orchestrator", target).await?;
        let client =
            OrchestratorClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
        Ok(Self {
            url,
            channel,
            client,
        })
    }

    /// Submits; repeated with the same request id while the service cannot answer, so that it
    /// happens once.
    pub(crate) async fn submit(
        &self,
        request: pb::SubmitExperimentRequest,
    ) -> Result<pb::SubmitExperimentResponse, Failure> {
        repeat("orchestrator", &self.url, LONG_ANSWER_WITHIN, || {
            let (mut client, request) = (self.client.clone(), request.clone());
            async move { client.submit_experiment(request).await }
        })
        .await
    }

    /// Begins an attempt for a process that cannot do it itself.
    ///
    /// Not repeated: each call that succeeds begins another attempt.
    pub(crate) async fn begin_attempt(
        &self,
        request: pb::BeginAttemptRequest,
    ) -> Result<pb::BeginAttemptResponse, Failure> {
        let mut client =
            AttemptsClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
        answer("orchestrator", client.begin_attempt(request))
            .await
            .map_err(|status| Failure::of_call(&status, "orchestrator", &self.url))
    }

    /// Ends an attempt that was begun for another process; repeated while the service cannot answer.
    pub(crate) async fn end_attempt(&self, request: pb::EndAttemptRequest) -> Result<(), Failure> {
        repeat("orchestrator", &self.url, ANSWER_WITHIN, || {
            let mut client = AttemptsClient::new(self.channel.clone());
            let request = request.clone();
            async move { client.end_attempt(request).await }
        })
        .await
        .map(drop)
    }

    /// Experiments, the newest first, and whether there are more than the limit.
    pub(crate) async fn experiments(
        &self,
        open: bool,
        limit: usize,
    ) -> Result<(Vec<pb::ExperimentSummary>, bool), Failure> {
        let mut experiments = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = pb::ListExperimentsRequest {
                page_size: MAX_PAGE,
                page_token,
                open,
            };
            let page = self
                .call(|mut c| {
                    let request = request.clone();
                    async move { c.list_experiments(request).await }
                })
                .await?;
            experiments.extend(page.experiments);
            page_token = page.next_page_token;
            let has_more = experiments.len() > limit || !page_token.is_empty();
            if page_token.is_empty() || experiments.len() >= limit {
                experiments.truncate(limit);
                return Ok((experiments, has_more));
            }
        }
    }

    /// An experiment with its first runs, and where the others begin.
    async fn beginning(&self, name: &str) -> Result<(pb::Experiment, String), Failure> {
        let response = self
            .call(|mut c| {
                let name = name.to_owned();
                async move { c.get_experiment(pb::GetExperimentRequest { name }).await }
            })
            .await?;
        let experiment = response
            .experiment
            .ok_or_else(|| Failure::failed(format!("{}: an empty answer", self.url)))?;
        Ok((experiment, response.next_page_token))
    }

    /// An experiment with all its runs.
    pub(crate) async fn experiment(&self, name: &str) -> Result<pb::Experiment, Failure> {
        let (mut experiment, rest) = self.beginning(name).await?;
        if !rest.is_empty() {
            let rest = self.runs_from(name, &[], rest, usize::MAX);
            experiment.runs.extend(rest.await?);
        }
        Ok(experiment)
    }

    /// How an experiment's runs are, all together.
    pub(crate) async fn summary(&self, name: &str) -> Result<pb::ExperimentSummary, Failure> {
        let (experiment, _) = self.beginning(name).await?;
        Ok(experiment.summary.unwrap_or_default())
    }

    /// The first runs of an experiment, so many at most, of some states or of all.
    pub(crate) async fn runs(
        &self,
        name: &str,
        states: &[pb::RunState],
        limit: usize,
    ) -> Result<Vec<pb::Run>, Failure> {
        self.runs_from(name, states, String::new(), limit).await
    }

    async fn runs_from(
        &self,
        name: &str,
        states: &[pb::RunState],
        mut page_token: String,
        limit: usize,
    ) -> Result<Vec<pb::Run>, Failure> {
        let mut runs = Vec::new();
        loop {
            let request = pb::ListExperimentRunsRequest {
                name: name.to_owned(),
                page_size: MAX_PAGE,
                page_token,
                states: states.iter().map(|&state| state.into()).collect(),
            };
            let page = self
                .call(|mut c| {
                    let request = request.clone();
                    async move { c.list_experiment_runs(request).await }
                })
                .await?;
            runs.extend(page.runs);
            page_token = page.next_page_token;
            if page_token.is_empty() || runs.len() >= limit {
                runs.truncate(limit);
                return Ok(runs);
            }
        }
    }

    /// All that is known of a run.
    pub(crate) async fn run(&self, label: &str) -> Result<pb::GetRunResponse, Failure> {
        self.call(|mut c| {
            let run = label.to_owned();
            async move { c.get_run(pb::GetRunRequest { run, run_id: 0 }).await }
        })
        .await
    }

    /// What happened to a run, the newest first, and whether there is more than the limit.
    pub(crate) async fn events(
        &self,
        label: &str,
        limit: usize,
    ) -> Result<(Vec<pb::RunEvent>, bool), Failure> {
        let mut events = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = pb::ListRunEventsRequest {
                run: label.to_owned(),
                page_size: MAX_PAGE,
                page_token,
            };
            let page = self
                .call(|mut c| {
                    let request = request.clone();
                    async move { c.list_run_events(request).await }
                })
                .await?;
            events.extend(page.events);
            page_token = page.next_page_token;
            let has_more = events.len() > limit || !page_token.is_empty();
            if page_token.is_empty() || events.len() >= limit {
                events.truncate(limit);
                return Ok((events, has_more));
            }
        }
    }

    /// Hands a log to `seen`, piece by piece, until that has had enough.
    ///
    /// A stream that breaks is taken up again behind the last piece.
    pub(crate) async fn log(
        &self,
        mut request: pb::ReadLogRequest,
        mut seen: impl FnMut(pb::ReadLogResponse) -> Result<ControlFlow<()>, Failure>,
    ) -> Result<(), Failure> {
        let mut gone_since = None;
        loop {
            let broken = match self.client.clone().read_log(request.clone()).await {
                Ok(stream) => {
                    let mut stream = stream.into_inner();
                    loop {
                        let piece = match stream.message().await {
                            Ok(Some(piece)) => piece,
                            Ok(None) => return Ok(()),
                            Err(status) => break status,
                        };
                        gone_since = None;
                        if !piece.text.is_empty() {
                            request.at = Some(pb::LogPlace {
                                log: piece.log.clone(),
                                offset: piece.offset + piece.text.len() as u64,
                            });
                        }
                        if seen(piece)?.is_break() {
                            return Ok(());
                        }
                    }
                }
                Err(status) => status,
            };
            self.wait_to_reconnect(&broken, &mut gone_since).await?;
        }
    }

    /// Lets some time pass before a broken stream is taken up again.
    ///
    /// # Errors
    /// When that cannot help, or was in vain for too long.
    async fn wait_to_reconnect(
        &self,
        broken: &Status,
        gone_since: &mut Option<Instant>,
    ) -> Result<(), Failure> {
        if !is_broken(broken) {
            return Err(Failure::of_call(broken, "orchestrator", &self.url));
        }
        if gone_since.get_or_insert_with(Instant::now).elapsed() > RECONNECT_FOR {
            return Err(gone("orchestrator", &self.url));
        }
        tokio::time::sleep(FIRST_PAUSE).await;
        Ok(())
    }

    /// Cancels an experiment or a run; the labels of the runs that end.
    pub(crate) async fn cancel(&self, what: &str) -> Result<Vec<String>, Failure> {
        let (name, run) = meant(what);
        let request = pb::CancelExperimentRequest { name, run };
        let response = self
            .call(|mut c| {
                let request = request.clone();
                async move { c.cancel_experiment(request).await }
            })
            .await?;
        Ok(response.cancelled)
    }

    /// Queues an experiment or a run again, of some states or of both that can be; the labels of the
    /// runs that are.
    pub(crate) async fn retry(
        &self,
        what: &str,
        states: &[pb::RunState],
    ) -> Result<Vec<String>, Failure> {
        let (name, run) = meant(what);
        let states = states.iter().map(|&state| state.into()).collect();
        let request = pb::RetryExperimentRequest { name, run, states };
        let response = self
            .call(|mut c| {
                let request = request.clone();
                async move { c.retry_experiment(request).await }
            })
            .await?;
        Ok(response.queued)
    }

    /// Sets the priority of an experiment or a run; the labels of the runs that had another.
    pub(crate) async fn set_priority(
        &self,
        what: &str,
        priority: i32,
    ) -> Result<Vec<String>, Failure> {
        let (name, run) = meant(what);
        let request = pb::SetPriorityRequest {
            name,
            run,
            priority,
        };
        let response = self
            .call(|mut c| {
                let request = request.clone();
                async move { c.set_priority(request).await }
            })
            .await?;
        Ok(response.changed)
    }

    /// Hands every change of an experiment to `seen`, and returns all of it once all runs have ended.
    ///
    /// A stream that breaks is taken up again: it begins with all runs.
    pub(crate) async fn follow(
        &self,
        name: &str,
        mut seen: impl FnMut(&pb::Experiment),
    ) -> Result<pb::Experiment, Failure> {
        let mut runs: BTreeMap<i32, pb::Run> = BTreeMap::new();
        let mut summary = None;
        let mut gone_since = None;
        loop {
            let request = pb::WatchExperimentRequest {
                name: name.to_owned(),
            };
            let broken = match self.client.clone().watch_experiment(request).await {
                Ok(stream) => {
                    let mut stream = stream.into_inner();
                    loop {
                        match stream.message().await {
                            Ok(Some(message)) => {
                                gone_since = None;
                                if let Some(experiment) = message.experiment {
                                    seen(&experiment);
                                    let changed = experiment.runs.into_iter();
                                    runs.extend(changed.map(|run| (run.run_id, run)));
                                    summary = experiment.summary;
                                }
                            }
                            Ok(None) => {
                                return Ok(pb::Experiment {
                                    name: name.to_owned(),
                                    runs: runs.into_values().collect(),
                                    summary,
                                });
                            }
                            Err(status) => break status,
                        }
                    }
                }
                Err(status) => status,
            };
            self.wait_to_reconnect(&broken, &mut gone_since).await?;
        }
    }

    async fn call<R, F>(
        &self,
        call: impl Fn(OrchestratorClient<Channel>) -> F,
    ) -> Result<R, Failure>
    where
        F: Future<Output = Result<Response<R>, Status>>,
    {
        repeat("orchestrator", &self.url, ANSWER_WITHIN, || {
            call(self.client.clone())
        })
        .await
    }
}

/// Which readings of a run are stored and which are missing.
///
/// # Errors
/// When nothing answers at the place's address, or the run is not known.
pub(crate) async fn verify(place: &Place, run: &str) -> Result<pb::VerifyRunResponse, Failure> {
    let target = place.metrics()?;
    let url = target.url.clone();
    let channel = connect("metrics", target).await?;
    let client = MetricsClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
    repeat("metrics", &url, LONG_ANSWER_WITHIN, || {
        let mut client = client.clone();
        let run = run.to_owned();
        async move { client.verify_run(pb::VerifyRunRequest { run }).await }
    })
    .await
}

/// The experiment and, where it is one of its runs, the label of what is named.
fn meant(what: &str) -> (String, String) {
    match what.split_once('/') {
        Some((experiment, _)) => (experiment.to_owned(), what.to_owned()),
        None => (what.to_owned(), String::new()),
    }
}

async fn connect(service: &'static str, target: Target) -> Result<Channel, Failure> {
    let url = target.url.clone();
    imprint_proto::connect(service, target)
        .await
        .map_err(|error| match error {
            Error::Unreachable { .. } if url.starts_with("https://") => {
                Failure::unreachable(imprint_telemetry::one_line(&error))
            }
            Error::Unreachable { .. } => gone(service, &url),
            other => Failure::bad_input(imprint_telemetry::one_line(&other)),
        })
}

fn gone(service: &str, url: &str) -> Failure {
    Failure::unreachable(format!(
        "no {service} service answers at {url}; start one with `imprint up`"
    ))
}

/// The connection broke, or the service said that it cannot answer now.
fn is_broken(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::Cancelled | Code::Unknown
    )
}

/// The answer to a call, repeated while the service says that it cannot answer now.
async fn repeat<R, F>(
    service: &str,
    url: &str,
    within: Duration,
    call: impl Fn() -> F,
) -> Result<R, Failure>
where
    F: Future<Output = Result<Response<R>, Status>>,
{
    let mut pause = FIRST_PAUSE;
    let mut n_tries = 1;
    loop {
        match timeout(within, call()).await {
            Ok(Ok(response)) => return Ok(response.into_inner()),
            Err(_) => {
                return Err(Failure::unreachable(format!(
                    "the {service} service at {url} has not answered for {within:?}"
                )));
            }
            Ok(Err(status)) => {
                let failure = Failure::of_call(&status, service, url);
                if failure.kind() != Kind::Unreachable || n_tries == N_TRIES {
                    return Err(failure);
                }
            }
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
        n_tries += 1;
    }
}
