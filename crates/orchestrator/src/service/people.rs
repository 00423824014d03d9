//! What people and their programs ask for.

use chrono::{DateTime, Utc};
use imprint_proto::page::{Listing, Sizes, cut};
use imprint_proto::pb::orchestrator_server::Orchestrator;
use imprint_proto::status::invalid;
use imprint_proto::{check_text, pb};
use imprint_store::runs::{
    AttemptView, Event, ExperimentPage, ExperimentSummary, JobView, ParentView, RunDetails,
    RunPage, RunRef, RunState, RunView, Runs,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::nearest::not_found;
use super::{Service, left, logs};
use crate::status::from_store;

/// Runs of one message: with reasons of hundreds of letters, within the 4 MiB that clients take
/// unless told otherwise.
pub(super) const RUNS_AT_ONCE: usize = 1_000;

const PAGES: Sizes = Sizes {
    default: 100,
    most: 1_000,
};

/// So many names are compared with one that is not known.
const MAX_COMPARED: usize = 10_000;

/// So many logs of a run are told of.
const MAX_LOGS: usize = 100;

/// Pieces of a log that wait for who reads them.
const PIECES_WAITING: usize = 4;

/// An experiment as of one moment.
pub(super) struct Picture {
    experiment_id: i32,
    pub(super) name: String,
    pub(super) created_at: DateTime<Utc>,
    pub(super) runs: Vec<RunView>,
}

impl Service {
    async fn look(&self, name: &str) -> Result<Picture, Status> {
        check_text("name", name)?;
        let (experiment_id, created_at) = self.find_experiment(name).await?;
        let mut picture = Picture {
            experiment_id,
            name: name.to_owned(),
            created_at,
            runs: Vec::new(),
        };
        self.look_again(&mut picture).await?;
        Ok(picture)
    }

    pub(super) async fn look_again(&self, picture: &mut Picture) -> Result<(), Status> {
        let runs = self
            .store
            .experiment_runs(picture.experiment_id, RunPage::ALL);
        picture.runs = runs.await.map_err(from_store)?;
        Ok(())
    }

    async fn find_experiment(&self, name: &str) -> Result<(i32, DateTime<Utc>), Status> {
        match self.store.experiment(name).await.map_err(from_store)? {
            Some(found) => Ok(found),
            None => Err(self.no_experiment(name).await),
        }
    }

    async fn no_experiment(&self, name: &str) -> Status {
        match self.store.experiment_names(MAX_COMPARED).await {
            Ok(known) => not_found(&format!("there is no experiment `{name}`"), name, known).await,
            Err(error) => from_store(error),
        }
    }

    async fn no_run(&self, label: &str) -> Status {
        let Some((experiment, _)) = label.split_once('/') else {
            let line = format!("`{label}` is no run: their names are `experiment/cell`");
            return not_found(&line, "", Vec::new()).await;
        };
        match self.store.run_labels(experiment, MAX_COMPARED).await {
            Ok(known) if known.is_empty() => self.no_experiment(experiment).await,
            Ok(known) => not_found(&format!("there is no run `{label}`"), label, known).await,
            Err(error) => from_store(error),
        }
    }

    /// What was not found of an experiment, or of one of its runs.
    async fn none_of(&self, runs: Runs<'_>) -> Status {
        let Some(label) = runs.label else {
            return self.no_experiment(runs.experiment).await;
        };
        match self.store.run_labels(runs.experiment, MAX_COMPARED).await {
            Ok(known) if known.is_empty() => self.no_experiment(runs.experiment).await,
            Ok(known) => {
                let line = format!("experiment `{}` has no run `{label}`", runs.experiment);
                not_found(&line, label, known).await
            }
            Err(error) => from_store(error),
        }
    }

    async fn find_run(&self, label: &str) -> Result<RunView, Status> {
        check_text("run", label)?;
        let found = self.store.run(RunRef::Label(label)).await;
        match found.map_err(from_store)? {
            Some(run) => Ok(run),
            None => Err(self.no_run(label).await),
        }
    }
}

/// The runs that a request means.
fn meant<'a>(name: &'a str, run: &'a str) -> Result<Runs<'a>, Status> {
    check_text("name", name)?;
    check_text("run", run)?;
    Ok(Runs {
        experiment: name,
        label: (!run.is_empty()).then_some(run),
    })
}

#[tonic::async_trait]
impl Orchestrator for Service {
    type WatchExperimentStream = ReceiverStream<Result<pb::WatchExperimentResponse, Status>>;
    type ReadLogStream = ReceiverStream<Result<pb::ReadLogResponse, Status>>;

    async fn submit_experiment(
        &self,
        request: Request<pb::SubmitExperimentRequest>,
    ) -> Result<Response<pb::SubmitExperimentResponse>, Status> {
        let answer = self.intake.submit(request.into_inner()).await?;
        self.wake.notify_one();
        Ok(Response::new(answer))
    }

    async fn list_experiments(
        &self,
        request: Request<pb::ListExperimentsRequest>,
    ) -> Result<Response<pb::ListExperimentsResponse>, Status> {
        let request = request.into_inner();
        let listing = Listing::<1> {
            call: "ListExperiments",
            of: if request.open { "open" } else { "" },
        };
        let page = listing.page(PAGES, request.page_size, &request.page_token)?;
        let experiments = self.store.experiments(ExperimentPage {
            before: page.after.map(|[experiment]| experiment),
            limit: page.size + 1,
            open: request.open,
        });
        let mut experiments = experiments.await.map_err(from_store)?;
        let has_more = cut(&mut experiments, page.size);
        let last = experiments.last().map(|x| [x.experiment_id]);
        Ok(Response::new(pb::ListExperimentsResponse {
            next_page_token: listing.next(last, has_more),
            experiments: experiments.into_iter().map(to_summary).collect(),
        }))
    }

    async fn get_experiment(
        &self,
        request: Request<pb::GetExperimentRequest>,
    ) -> Result<Response<pb::GetExperimentResponse>, Status> {
        let picture = self.look(&request.into_inner().name).await?;
        let runs = &picture.runs[..picture.runs.len().min(RUNS_AT_ONCE)];
        let of = of_runs(&picture.name, "");
        let listing = runs_listing(&of);
        let last = runs.last().map(|run| [run.run_id]);
        let next_page_token = listing.next(last, runs.len() < picture.runs.len());
        let experiment = pb::Experiment {
            name: picture.name.clone(),
            runs: runs.iter().map(to_run).collect(),
            summary: Some(picture.summary()),
        };
        Ok(Response::new(pb::GetExperimentResponse {
            next_page_token,
            experiment: Some(experiment),
        }))
    }

    async fn list_experiment_runs(
        &self,
        request: Request<pb::ListExperimentRunsRequest>,
    ) -> Result<Response<pb::ListExperimentRunsResponse>, Status> {
        let request = request.into_inner();
        check_text("name", &request.name)?;
        let states = states(&request.states, &RunState::ALL)?;
        let names: Vec<&str> = states.iter().map(|state| state.as_str()).collect();
        let of = of_runs(&request.name, &names.join(" "));
        let listing = runs_listing(&of);
        let page = listing.page(PAGES, request.page_size, &request.page_token)?;
        let (experiment_id, _) = self.find_experiment(&request.name).await?;
        let asked = RunPage {
            after: page.after.map(|[run]| run),
            limit: page.size + 1,
            states: &states,
        };
        let runs = self.store.experiment_runs(experiment_id, asked).await;
        let mut runs = runs.map_err(from_store)?;
        let has_more = cut(&mut runs, page.size);
        let last = runs.last().map(|run| [run.run_id]);
        Ok(Response::new(pb::ListExperimentRunsResponse {
            next_page_token: listing.next(last, has_more),
            runs: runs.iter().map(to_run).collect(),
        }))
    }

    async fn watch_experiment(
        &self,
        request: Request<pb::WatchExperimentRequest>,
    ) -> Result<Response<Self::WatchExperimentStream>, Status> {
        let picture = self.look(&request.into_inner().name).await?;
        let (to, from) = mpsc::channel(1);
        tokio::spawn(self.clone().watch(picture, to));
        Ok(Response::new(ReceiverStream::new(from)))
    }

    async fn get_run(
        &self,
        request: Request<pb::GetRunRequest>,
    ) -> Result<Response<pb::GetRunResponse>, Status> {
        let request = request.into_inner();
        check_text("run", &request.run)?;
        let run = match request.run.as_str() {
            "" => RunRef::Id(request.run_id),
            label => RunRef::Label(label),
        };
        let details = self.store.run_details(run).await.map_err(from_store)?;
        let Some(details) = details else {
            return Err(match run {
                RunRef::Label(label) => self.no_run(label).await,
                RunRef::Id(run_id) => {
                    not_found(&format!("there is no run {run_id}"), "", Vec::new()).await
                }
            });
        };
        let logs = logs::list_soon(&self.logs_of(details.view.run_id)).await?;
        Ok(Response::new(to_details(details, logs)))
    }

    async fn list_run_events(
        &self,
        request: Request<pb::ListRunEventsRequest>,
    ) -> Result<Response<pb::ListRunEventsResponse>, Status> {
        let request = request.into_inner();
        let listing = Listing::<1> {
            call: "ListRunEvents",
            of: &request.run,
        };
        let page = listing.page(PAGES, request.page_size, &request.page_token)?;
        let run = self.find_run(&request.run).await?;
        let before = page.after.map(|[event]| event);
        let events = self.store.run_events(run.run_id, before, page.size + 1);
        let mut events = events.await.map_err(from_store)?;
        let has_more = cut(&mut events, page.size);
        let last = events.last().map(|event| [event.event as i32]);
        Ok(Response::new(pb::ListRunEventsResponse {
            next_page_token: listing.next(last, has_more),
            events: events.into_iter().map(to_event).collect(),
        }))
    }

    async fn read_log(
        &self,
        request: Request<pb::ReadLogRequest>,
    ) -> Result<Response<Self::ReadLogStream>, Status> {
        let request = request.into_inner();
        let run = self.find_run(&request.run).await?;
        let (to, from) = mpsc::channel(PIECES_WAITING);
        self.read_log_of(run, request, to).await?;
        Ok(Response::new(ReceiverStream::new(from)))
    }

    async fn cancel_experiment(
        &self,
        request: Request<pb::CancelExperimentRequest>,
    ) -> Result<Response<pb::CancelExperimentResponse>, Status> {
        let request = request.into_inner();
        let runs = meant(&request.name, &request.run)?;
        let cancelled = self.store.request_cancel(runs).await;
        let Some(cancelled) = cancelled.map_err(from_store)? else {
            return Err(self.none_of(runs).await);
        };
        self.wake.notify_one();
        Ok(Response::new(pb::CancelExperimentResponse { cancelled }))
    }

    async fn retry_experiment(
        &self,
        request: Request<pb::RetryExperimentRequest>,
    ) -> Result<Response<pb::RetryExperimentResponse>, Status> {
        let request = request.into_inner();
        let runs = meant(&request.name, &request.run)?;
        let can_retry = [RunState::Failed, RunState::Cancelled];
        let mut states = states(&request.states, &can_retry)?;
        if states.is_empty() {
            states.extend(can_retry);
        }
        let queued = self.store.retry(runs, &states).await;
        let Some(queued) = queued.map_err(from_store)? else {
            return Err(self.none_of(runs).await);
        };
        self.wake.notify_one();
        Ok(Response::new(pb::RetryExperimentResponse { queued }))
    }

    async fn set_priority(
        &self,
        request: Request<pb::SetPriorityRequest>,
    ) -> Result<Response<pb::SetPriorityResponse>, Status> {
        let request = request.into_inner();
        let runs = meant(&request.name, &request.run)?;
        let changed = self.store.set_priority(runs, request.priority).await;
        let Some(changed) = changed.map_err(from_store)? else {
            return Err(self.none_of(runs).await);
        };
        self.wake.notify_one();
        Ok(Response::new(pb::SetPriorityResponse { changed }))
    }
}

/// What chooses the rows of `ListExperimentRuns`.
fn of_runs(name: &str, states: &str) -> String {
    format!("{name} {states}")
}

fn runs_listing(of: &str) -> Listing<'_, 1> {
    Listing {
        call: "ListExperimentRuns",
        of,
    }
}

/// The states that a request names, of those that it may.
fn states(named: &[i32], allowed: &[RunState]) -> Result<Vec<RunState>, Status> {
    let find = |&number: &i32| {
        let found = allowed
            .iter()
            .find(|&&state| to_state(state) as i32 == number);
        found.copied().ok_or_else(|| {
            let names: Vec<&str> = allowed.iter().map(|state| state.as_str()).collect();
            invalid(
                "states",
                &format!("{number} is none of {}", names.join(", ")),
            )
        })
    };
    let mut states: Vec<RunState> = named.iter().map(find).collect::<Result<_, _>>()?;
    states.sort();
    states.dedup();
    Ok(states)
}

pub(super) fn to_run(run: &RunView) -> pb::Run {
    pb::Run {
        run_id: run.run_id,
        run: run.label.clone(),
        state: to_state(run.state).into(),
        reason: run.reason.clone(),
        n_updates: run.n_updates,
        step: run.step,
        attempts: run.n_attempts,
        steps_per_second: run.steps_per_second,
        readings_expected: run.readings_expected,
        readings_stored: run.readings_stored,
        undelivered_since_step: run.undelivered_since_step,
        priority: run.priority,
        seconds_left: left::of_run(run),
    }
}

pub(crate) fn to_state(state: RunState) -> pb::RunState {
    match state {
        RunState::Queued => pb::RunState::Queued,
        RunState::Running => pb::RunState::Running,
        RunState::Delivering => pb::RunState::Delivering,
        RunState::Complete => pb::RunState::Complete,
        RunState::Failed => pb::RunState::Failed,
        RunState::Cancelled => pb::RunState::Cancelled,
    }
}

fn to_summary(experiment: ExperimentSummary) -> pb::ExperimentSummary {
    let by_state = experiment.n_runs_by_state.into_iter();
    pb::ExperimentSummary {
        name: experiment.name,
        runs_by_state: by_state
            .map(|(state, n)| (state.as_str().to_owned(), n))
            .collect(),
        created_unix_ms: experiment.created_at.timestamp_millis(),
        seconds_left: None,
    }
}

fn to_details(run: RunDetails, logs: Vec<logs::Log>) -> pb::GetRunResponse {
    let unix_ms = |at: DateTime<Utc>| at.timestamp_millis();
    let names = run.names.into_iter();
    let logs = logs.into_iter().rev().take(MAX_LOGS);
    pb::GetRunResponse {
        run: Some(to_run(&run.view)),
        names: names
            .map(|(run, wanted)| pb::RunName { run, wanted })
            .collect(),
        cancel_requested: run.cancel_requested,
        created_unix_ms: unix_ms(run.created_at),
        started_unix_ms: run.started_at.map(unix_ms),
        finished_unix_ms: run.finished_at.map(unix_ms),
        parent: run.parent.map(to_parent),
        job: run.job.map(to_job),
        attempts: run.attempts.into_iter().map(to_attempt).collect(),
        logs: logs.map(logs::Log::into_pb).collect(),
    }
}

fn to_parent(parent: ParentView) -> pb::ParentRun {
    pb::ParentRun {
        run: parent.label,
        step: parent.step,
        state: to_state(parent.state).into(),
    }
}

fn to_job(job: JobView) -> pb::Job {
    let unix_ms = |at: DateTime<Utc>| at.timestamp_millis();
    pb::Job {
        job: job.job,
        executor: job.executor,
        slot: job.slot,
        external_id: job.external_id.unwrap_or_default(),
        asked_unix_ms: unix_ms(job.asked_at),
        alive_unix_ms: job.alive_at.map(unix_ms),
        stop_asked_unix_ms: job.stop_asked_at.map(unix_ms),
        kill_asked_unix_ms: job.kill_asked_at.map(unix_ms),
        ended_unix_ms: job.ended_at.map(unix_ms),
        outcome: job.outcome,
    }
}

fn to_attempt(attempt: AttemptView) -> pb::Attempt {
    pb::Attempt {
        attempt: attempt.attempt,
        job: attempt.job,
        host: attempt.host,
        pid: attempt.pid,
        device: attempt.device,
        machine: attempt.machine,
        offline: attempt.offline,
        step: attempt.step,
        steps_per_second: attempt.steps_per_second,
        began_unix_ms: attempt.began_at.timestamp_millis(),
        heartbeat_age_ms: attempt.silent_for.as_millis() as u64,
        ended_unix_ms: attempt.ended_at.map(|at| at.timestamp_millis()),
        outcome: attempt.outcome.unwrap_or_default(),
        reason: attempt.reason,
    }
}

fn to_event(event: Event) -> pb::RunEvent {
    pb::RunEvent {
        event: event.event,
        happened_unix_ms: event.happened_at.timestamp_millis(),
        kind: event.kind,
        attempt: event.attempt,
        job: event.job,
        detail: event.detail,
    }
}
