//! The gRPC services: one for people and their programs, one for trainers.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use imprint_access::{Caller, Grant, GrantSigner};
use imprint_core::Settled;
use imprint_proto::pb::attempts_server::Attempts;
use imprint_proto::pb::orchestrator_server::Orchestrator;
use imprint_proto::status::{internal, invalid, not_found, refused, unavailable};
use imprint_proto::{check_text, pb};
use imprint_store::Store;
use imprint_store::runs::{
    AttemptEnd, Begin, ExperimentSummary, Process, Progress, RunState, RunView, SavedState, Segment,
};
use tokio::sync::{Notify, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use crate::Limits;
use crate::series::Series;
use crate::status::from_store;
use crate::submit::submit;

/// How often a watched experiment is looked at.
const WATCH_EVERY: Duration = Duration::from_millis(300);

/// The longest that a run can be taken offline for.
const MAX_OFFLINE_SECONDS: u32 = 60 * 24 * 60 * 60;

/// Both services; cheap to clone.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) store: Store,
    pub(crate) limits: Limits,
    pub(crate) metrics_url: String,
    /// Signs what attempts show to the metrics service, where it asks.
    pub(crate) signer: Option<Arc<GrantSigner>>,
    pub(crate) runs_dir: PathBuf,
    pub(crate) series: Series,
    /// Wakes the scheduler.
    pub(crate) wake: Arc<Notify>,
    /// Turns true when the orchestrator shuts down.
    pub(crate) stopping: watch::Receiver<bool>,
}

fn no_experiment(name: &str) -> Status {
    not_found(format!("there is no experiment `{name}`"))
}

impl Service {
    /// Leave to write an attempt's readings; empty where nobody asks for it.
    fn attempt_token(&self, run_id: i32, attempt: u32) -> String {
        let Some(signer) = &self.signer else {
            return String::new();
        };
        let expires = SystemTime::now() + self.limits.attempt_token;
        let grant = Grant::for_attempt(run_id, attempt, expires);
        signer.sign(&grant).expose().to_owned()
    }

    async fn look(&self, name: &str) -> Result<pb::Experiment, Status> {
        check_text("name", name)?;
        let runs = self.store.experiment_runs(name).await.map_err(from_store)?;
        let runs = runs.ok_or_else(|| no_experiment(name))?;
        Ok(pb::Experiment {
            name: name.to_owned(),
            runs: runs.into_iter().map(to_run).collect(),
        })
    }

    /// Sends the experiment whenever it changed, until all its runs have ended.
    async fn watch(
        mut self,
        name: String,
        mut sent: pb::Experiment,
        to: mpsc::Sender<Result<pb::WatchExperimentResponse, Status>>,
    ) {
        let message = |experiment: &pb::Experiment| pb::WatchExperimentResponse {
            experiment: Some(experiment.clone()),
        };
        let mut changed = true;
        loop {
            if changed && to.send(Ok(message(&sent))).await.is_err() {
                return;
            }
            if sent.runs.iter().all(|run| run.state().has_ended()) {
                return;
            }
            let stopped = tokio::select! {
                () = tokio::time::sleep(WATCH_EVERY) => false,
                () = to.closed() => return,
                _ = self.stopping.wait_for(|&stopping| stopping) => true,
            };
            let now = match stopped {
                true => Err(unavailable(
                    "SHUTTING_DOWN",
                    "the orchestrator is shutting down",
                )),
                false => self.look(&name).await,
            };
            match now {
                Ok(now) => {
                    changed = now != sent;
                    sent = now;
                }
                Err(status) => {
                    // Nobody may be listening any more.
                    let _ = to.send(Err(status)).await;
                    return;
                }
            }
        }
    }
}

#[tonic::async_trait]
impl Orchestrator for Service {
    type WatchExperimentStream = ReceiverStream<Result<pb::WatchExperimentResponse, Status>>;

    async fn submit_experiment(
        &self,
        request: Request<pb::SubmitExperimentRequest>,
    ) -> Result<Response<pb::SubmitExperimentResponse>, Status> {
        let answer = submit(&self.store, request.into_inner()).await?;
        self.wake.notify_one();
        Ok(Response::new(answer))
    }

    async fn list_experiments(
        &self,
        _: Request<pb::ListExperimentsRequest>,
    ) -> Result<Response<pb::ListExperimentsResponse>, Status> {
        let experiments = self.store.experiments().await.map_err(from_store)?;
        Ok(Response::new(pb::ListExperimentsResponse {
            experiments: experiments.into_iter().map(to_summary).collect(),
        }))
    }

    async fn get_experiment(
        &self,
        request: Request<pb::GetExperimentRequest>,
    ) -> Result<Response<pb::GetExperimentResponse>, Status> {
        let experiment = Some(self.look(&request.into_inner().name).await?);
        Ok(Response::new(pb::GetExperimentResponse { experiment }))
    }

    async fn watch_experiment(
        &self,
        request: Request<pb::WatchExperimentRequest>,
    ) -> Result<Response<Self::WatchExperimentStream>, Status> {
        let name = request.into_inner().name;
        let experiment = self.look(&name).await?;
        let (to, from) = mpsc::channel(1);
        tokio::spawn(self.clone().watch(name, experiment, to));
        Ok(Response::new(ReceiverStream::new(from)))
    }

    async fn cancel_experiment(
        &self,
        request: Request<pb::CancelExperimentRequest>,
    ) -> Result<Response<pb::CancelExperimentResponse>, Status> {
        let pb::CancelExperimentRequest { name, run } = request.into_inner();
        check_text("name", &name)?;
        check_text("run", &run)?;
        let run = (!run.is_empty()).then_some(run);
        let cancelled = self.store.request_cancel(&name, run.as_deref()).await;
        let cancelled = cancelled.map_err(from_store)?.ok_or_else(|| match run {
            Some(run) => not_found(format!("experiment `{name}` has no run `{run}`")),
            None => no_experiment(&name),
        })?;
        self.wake.notify_one();
        Ok(Response::new(pb::CancelExperimentResponse { cancelled }))
    }

    async fn retry_experiment(
        &self,
        request: Request<pb::RetryExperimentRequest>,
    ) -> Result<Response<pb::RetryExperimentResponse>, Status> {
        let name = request.into_inner().name;
        check_text("name", &name)?;
        let queued = self.store.retry(&name).await.map_err(from_store)?;
        let queued = queued.ok_or_else(|| no_experiment(&name))?;
        self.wake.notify_one();
        Ok(Response::new(pb::RetryExperimentResponse { queued }))
    }
}

#[tonic::async_trait]
impl Attempts for Service {
    async fn begin_attempt(
        &self,
        request: Request<pb::BeginAttemptRequest>,
    ) -> Result<Response<pb::BeginAttemptResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        caller.may_speak_for(request.run_id)?;
        check_text("host", &request.host)?;
        check_text("machine", &request.machine)?;
        let run_id = request.run_id;
        let process = Process {
            host: request.host,
            pid: request.pid,
            machine: request.machine,
            offline: request.offline_seconds.is_some(),
        };
        let lease = match request.offline_seconds {
            Some(seconds) if seconds > MAX_OFFLINE_SECONDS => {
                let problem = format!("{seconds} is longer than 60 days ({MAX_OFFLINE_SECONDS})");
                return Err(invalid("offline_seconds", &problem));
            }
            Some(seconds) => Duration::from_secs(seconds.into()).max(self.limits.lease),
            None => self.limits.lease,
        };
        let begun = self.store.begin_attempt(run_id, &process, lease).await;
        let begun = match begun.map_err(from_store)? {
            Begin::Begun(begun) => begun,
            Begin::Refused(why) => {
                return Err(refused(Code::FailedPrecondition, "CANNOT_BEGIN", why, []));
            }
        };
        self.series.attempt_began();
        let spec_json = to_json(run_id, &begun.spec)?;
        let settled_json = match &begun.settled {
            Some(settled) => to_json(run_id, settled)?,
            None => String::new(),
        };
        Ok(Response::new(pb::BeginAttemptResponse {
            attempt: begun.attempt,
            spec_json,
            run_dir: self.runs_dir.join(run_id.to_string()).display().to_string(),
            metrics_url: self.metrics_url.clone(),
            next_reading: begun.next_reading,
            next_update: begun.next_update,
            segments: begun.segments.into_iter().map(to_segment).collect(),
            states: begun.states.into_iter().map(to_saved_state).collect(),
            parents: begun.parents.into_iter().map(to_saved_state).collect(),
            heartbeat_ms: self.limits.heartbeat.as_millis() as u32,
            deliver_timeout_ms: self.limits.deliver_timeout.as_millis() as u32,
            settled_json,
            attempt_token: self.attempt_token(run_id, begun.attempt),
        }))
    }

    async fn settle_run(
        &self,
        request: Request<pb::SettleRunRequest>,
    ) -> Result<Response<pb::SettleRunResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        caller.may_speak_for(request.run_id)?;
        let settled: Settled = serde_json::from_str(&request.settled_json)
            .map_err(|e| invalid("settled_json", &e.to_string()))?;
        let stands = self
            .store
            .settle_run(request.run_id, request.attempt, &settled)
            .await;
        let stands = stands.map_err(from_store)?;
        Ok(Response::new(pb::SettleRunResponse {
            settled_json: to_json(request.run_id, &stands)?,
        }))
    }

    async fn heartbeat(
        &self,
        request: Request<pb::HeartbeatRequest>,
    ) -> Result<Response<pb::HeartbeatResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        caller.may_speak_for(request.run_id)?;
        let progress = Progress {
            step: request.step,
            steps_per_second: request.steps_per_second,
            undelivered_since_step: request.undelivered_since_step,
        };
        let renewed = self
            .store
            .heartbeat(
                request.run_id,
                request.attempt,
                &progress,
                self.limits.lease,
            )
            .await;
        let stop = renewed.map_err(from_store)?;
        Ok(Response::new(pb::HeartbeatResponse {
            stop,
            attempt_token: self.attempt_token(request.run_id, request.attempt),
        }))
    }

    async fn record_state(
        &self,
        request: Request<pb::RecordStateRequest>,
    ) -> Result<Response<pb::RecordStateResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        caller.may_speak_for(request.run_id)?;
        let state = request
            .state
            .ok_or_else(|| invalid("state", "is missing"))?;
        if state.attempt != request.attempt {
            let (by, attempt) = (state.attempt, request.attempt);
            let problem = format!("was saved by attempt {by}, not by {attempt}");
            return Err(invalid("state", &problem));
        }
        check_text("state.path", &state.path)?;
        let (run_id, step) = (request.run_id, state.step);
        let place = format!("{run_id}/attempts/{}/states/step-{step}", state.attempt);
        let path = Path::new(&state.path);
        let is_plain = |c| matches!(c, Component::RootDir | Component::Normal(_));
        // Others load it, and it is deleted once it is obsolete.
        if !path.is_absolute() || !path.ends_with(&place) || !path.components().all(is_plain) {
            let problem = format!("{:?} does not end in {place}", state.path);
            return Err(invalid("state.path", &problem));
        }
        check_text("state.sha256", &state.sha256)?;
        let state = SavedState {
            step: state.step,
            attempt: state.attempt,
            path: state.path,
            sha256: state.sha256,
            global_step: state.global_step,
        };
        let recorded = self
            .store
            .record_state(request.run_id, request.attempt, &state, request.keep)
            .await;
        let obsolete = recorded.map_err(from_store)?;
        // A child may have waited for it.
        self.wake.notify_one();
        Ok(Response::new(pb::RecordStateResponse {
            obsolete: obsolete.into_iter().map(to_saved_state).collect(),
        }))
    }

    async fn end_attempt(
        &self,
        request: Request<pb::EndAttemptRequest>,
    ) -> Result<Response<pb::EndAttemptResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        caller.may_speak_for(request.run_id)?;
        check_text("reason", &request.reason)?;
        let outcome = request.outcome();
        let reason = request.reason;
        let end = match outcome {
            pb::AttemptOutcome::Finished => AttemptEnd::Finished,
            pb::AttemptOutcome::Stopped => AttemptEnd::Stopped { reason },
            pb::AttemptOutcome::Failed => AttemptEnd::Failed { reason },
            pb::AttemptOutcome::Unspecified => {
                return Err(invalid("outcome", "say how the attempt ended"));
            }
        };
        let ended = self
            .store
            .end_attempt(request.run_id, request.attempt, request.step, &end)
            .await;
        ended.map_err(from_store)?;
        self.series.attempt_ended(match end {
            AttemptEnd::Finished => "finished",
            AttemptEnd::Stopped { .. } => "stopped",
            AttemptEnd::Failed { .. } => "failed",
        });
        self.wake.notify_one();
        Ok(Response::new(pb::EndAttemptResponse {}))
    }
}

fn to_json(run_id: i32, value: &impl serde::Serialize) -> Result<String, Status> {
    serde_json::to_string(value)
        .map_err(|e| internal(format!("run {run_id} cannot be written: {e}")))
}

fn to_run(run: RunView) -> pb::Run {
    pb::Run {
        run_id: run.run_id,
        run: run.label,
        state: to_state(run.state).into(),
        reason: run.reason,
        n_updates: run.n_updates,
        step: run.step,
        attempts: run.n_attempts,
        steps_per_second: run.steps_per_second,
        readings_expected: run.readings_expected,
        readings_stored: run.readings_stored,
        undelivered_since_step: run.undelivered_since_step,
    }
}

fn to_state(state: RunState) -> pb::RunState {
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
    }
}

fn to_segment(segment: Segment) -> pb::Segment {
    pb::Segment {
        attempt: segment.attempt,
        first_step: segment.first_step,
    }
}

fn to_saved_state(state: SavedState) -> pb::SavedState {
    pb::SavedState {
        step: state.step,
        attempt: state.attempt,
        path: state.path,
        sha256: state.sha256,
        global_step: state.global_step,
    }
}
