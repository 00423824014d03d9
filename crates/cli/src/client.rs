//! Calls of the services, and their failures in one clear line.

use std::future::Future;
use std::time::Duration;

use imprint_proto::pb;
use imprint_proto::pb::attempts_client::AttemptsClient;
use imprint_proto::pb::metrics_client::MetricsClient;
use imprint_proto::pb::orchestrator_client::OrchestratorClient;
use imprint_proto::{Channel, Error, MAX_MESSAGE_BYTES, Target, answer};
use tokio::time::timeout;
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

/// How long a broken watch is taken up again before the service counts as gone.
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

    pub(crate) async fn experiments(&self) -> Result<Vec<pb::ExperimentSummary>, Failure> {
        let response = self
            .call(|mut c| async move { c.list_experiments(pb::ListExperimentsRequest {}).await })
            .await?;
        Ok(response.experiments)
    }

    pub(crate) async fn experiment(&self, name: &str) -> Result<pb::Experiment, Failure> {
        let response = self
            .call(|mut c| {
                let name = name.to_owned();
                async move { c.get_experiment(pb::GetExperimentRequest { name }).await }
            })
            .await?;
        response
            .experiment
            .ok_or_else(|| Failure::failed(format!("{}: an empty answer", self.url)))
    }

    pub(crate) async fn cancel(&self, name: &str, run: &str) -> Result<Vec<String>, Failure> {
        let response = self
            .call(|mut c| {
                let (name, run) = (name.to_owned(), run.to_owned());
                async move {
                    c.cancel_experiment(pb::CancelExperimentRequest { name, run })
                        .await
                }
            })
            .await?;
        Ok(response.cancelled)
    }

    pub(crate) async fn retry(&self, name: &str) -> Result<Vec<String>, Failure> {
        let response = self
            .call(|mut c| {
                let name = name.to_owned();
                async move {
                    c.retry_experiment(pb::RetryExperimentRequest { name })
                        .await
                }
            })
            .await?;
        Ok(response.queued)
    }

    /// Hands every change of an experiment to `seen`, and returns its last state.
    ///
    /// A stream that breaks is taken up again: each message is complete in itself.
    pub(crate) async fn follow(
        &self,
        name: &str,
        mut seen: impl FnMut(&pb::Experiment),
    ) -> Result<pb::Experiment, Failure> {
        let mut last = None;
        let mut gone_since: Option<tokio::time::Instant> = None;
        loop {
            let request = pb::WatchExperimentRequest {
                name: name.to_owned(),
            };
            let ended = match self.client.clone().watch_experiment(request).await {
                Ok(stream) => {
                    let mut stream = stream.into_inner();
                    loop {
                        match stream.message().await {
                            Ok(Some(message)) => {
                                gone_since = None;
                                if let Some(experiment) = message.experiment {
                                    seen(&experiment);
                                    last = Some(experiment);
                                }
                            }
                            Ok(None) => break None,
                            Err(status) => break Some(status),
                        }
                    }
                }
                Err(status) => Some(status),
            };
            match (ended, last.take()) {
                (None, Some(experiment)) if has_ended(&experiment) => return Ok(experiment),
                (Some(status), _) if !is_broken(&status) => {
                    return Err(Failure::of_call(&status, "orchestrator", &self.url));
                }
                (_, so_far) => last = so_far,
            }
            let since = *gone_since.get_or_insert_with(tokio::time::Instant::now);
            if since.elapsed() > RECONNECT_FOR {
                return Err(gone("orchestrator", &self.url));
            }
            tokio::time::sleep(FIRST_PAUSE).await;
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

/// Whether all runs of an experiment have ended.
pub(crate) fn has_ended(experiment: &pb::Experiment) -> bool {
    experiment.runs.iter().all(|r| r.state().has_ended())
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
