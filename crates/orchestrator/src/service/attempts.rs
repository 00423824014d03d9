//! What trainers say.

use std::path::{Component, Path};
use std::time::{Duration, SystemTime};

use imprint_access::{Caller, Grant};
use imprint_core::Settled;
use imprint_proto::pb::attempts_server::Attempts;
use imprint_proto::status::{internal, invalid, refused};
use imprint_proto::{check_text, pb};
use imprint_store::runs::{AttemptEnd, Begin, Process, Progress, SavedState, Segment};
use tonic::{Code, Request, Response, Status};

use super::Service;
use crate::status::from_store;

/// The longest that a run can be taken offline for.
const MAX_OFFLINE_SECONDS: u32 = 60 * 24 * 60 * 60;

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
        check_text("job", &request.job)?;
        let record = record(&request.record_json)?;
        let process = Process {
            host: request.host,
            pid: request.pid,
            machine: request.machine,
            offline: request.offline_seconds.is_some(),
            job: (!request.job.is_empty()).then_some(request.job),
            record,
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
        let record = record(&request.record_json)?;
        let stands = self
            .store
            .settle_run(request.run_id, request.attempt, &settled, record.as_ref())
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

/// What is needed to make an attempt again, where its trainer said it.
fn record(json: &str) -> Result<Option<serde_json::Value>, Status> {
    check_text("record_json", json)?;
    let read = || serde_json::from_str(json).map_err(|e| invalid("record_json", &e.to_string()));
    (!json.is_empty()).then(read).transpose()
}

fn to_json(run_id: i32, value: &impl serde::Serialize) -> Result<String, Status> {
    serde_json::to_string(value)
        .map_err(|e| internal(format!("run {run_id} cannot be written: {e}")))
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
