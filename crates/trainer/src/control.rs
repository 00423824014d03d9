//! The trainer's side of an attempt: begin, heartbeat, record states, end.
//!
//! Offline nothing can be asked and nobody told: the trainer decides alone, and its spool says later
//! what it decided.

use std::collections::VecDeque;
use std::error::Error as _;
use std::mem::{replace, take};
use std::path::{Path, PathBuf};
use std::time::Duration;

use imprint_core::Settled;
use imprint_proto::pb::{self, attempts_client::AttemptsClient};
use imprint_proto::{Channel, Secret, Target, answer, is_passing};
use imprint_telemetry::one_line;
use tokio::sync::{mpsc, watch};
use tonic::{Code, Status};

use crate::stop::{Stop, StopSignal};

const PAUSE: Duration = Duration::from_millis(500);

/// A line to the orchestrator for one attempt.
#[derive(Clone)]
pub(crate) struct Control {
    /// `None` offline.
    client: Option<AttemptsClient<Channel>>,
    url: String,
    run_id: i32,
    attempt: u32,
    metrics: Target,
}

/// Calls of one kind while they fail: said once, like their end.
struct Outage {
    /// What cannot be done.
    what: &'static str,
    url: String,
    is_on: bool,
}

impl Outage {
    fn none(what: &'static str, url: &str) -> Self {
        Self {
            what,
            url: url.to_owned(),
            is_on: false,
        }
    }

    fn failed(&mut self, status: &Status) {
        if !replace(&mut self.is_on, true) {
            tracing::warn!("cannot {} at {}: {}", self.what, self.url, cause(status));
        }
    }

    fn answered(&mut self) {
        if take(&mut self.is_on) {
            tracing::info!("can {} again at {}", self.what, self.url);
        }
    }
}

/// Why a call failed.
pub(crate) fn cause(status: &Status) -> String {
    match status.source() {
        _ if status.code() == Code::Unimplemented => {
            "what answers there is no orchestrator".to_owned()
        }
        // A broken connection says why only there.
        Some(cause) => one_line(cause),
        None => status.message().to_owned(),
    }
}

/// What heartbeats tell.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Progress {
    pub(crate) step: u32,
    pub(crate) steps_per_second: f32,
    pub(crate) undelivered_since_step: Option<u32>,
}

/// A state that waits to be recorded.
pub(crate) struct Unrecorded {
    pub(crate) state: pb::SavedState,
    pub(crate) keep: bool,
}

/// Begins an attempt, or nothing once the process is `asked` to stop.
///
/// Waits for an orchestrator that is away, however long: a process that ended for that would count
/// against its run. One that is there ends those that it does not hear of.
///
/// # Errors
/// When the orchestrator does not let this run begin.
pub(crate) async fn begin(
    orchestrator: Target,
    request: pb::BeginAttemptRequest,
    asked: &StopSignal,
) -> anyhow::Result<Option<(Control, pb::BeginAttemptResponse)>> {
    let Target { url, credentials } = orchestrator.clone();
    let mut client = AttemptsClient::new(imprint_proto::connect_lazy(orchestrator)?)
        .max_decoding_message_size(imprint_proto::MAX_MESSAGE_BYTES);
    let run_id = request.run_id;
    let mut outage = Outage::none("begin an attempt", &url);
    while asked.raised().is_none() {
        match answer("orchestrator", client.begin_attempt(request.clone())).await {
            Ok(mut begun) => {
                outage.answered();
                // Taken out: what is left of the answer may be kept and shown.
                let token = take(&mut begun.attempt_token);
                let token = (!token.is_empty()).then(|| Secret::new(token));
                let metrics = Target {
                    url: begun.metrics_url.clone(),
                    credentials: credentials.with_token(token.as_ref())?,
                };
                let control = Control {
                    client: Some(client),
                    url,
                    run_id,
                    attempt: begun.attempt,
                    metrics,
                };
                return Ok(Some((control, begun)));
            }
            Err(s) if is_passing(&s) && s.code() != Code::Unauthenticated => {
                outage.failed(&s);
                tokio::select! {
                    () = tokio::time::sleep(PAUSE) => {}
                    _ = asked.wait() => {}
                }
            }
            Err(s) => {
                let cause = cause(&s);
                anyhow::bail!("cannot begin an attempt of run {run_id} at {url}: {cause}")
            }
        }
    }
    Ok(None)
}

impl Control {
    /// Of an attempt that was begun for this process elsewhere.
    pub(crate) fn offline(run_id: i32, attempt: u32) -> Self {
        Self {
            client: None,
            url: String::new(),
            run_id,
            attempt,
            metrics: Target::from(""),
        }
    }

    pub(crate) fn is_offline(&self) -> bool {
        self.client.is_none()
    }

    /// Where readings go; its token is renewed by the heartbeats.
    pub(crate) fn metrics(&self) -> Target {
        self.metrics.clone()
    }

    /// What the run's configuration leaves open, settled for all attempts: `settled`, unless an
    /// earlier attempt has done it.
    ///
    /// Waits for an orchestrator that is away.
    ///
    /// # Errors
    /// When this attempt is over, or the orchestrator refuses.
    pub(crate) async fn settle(&mut self, settled: &Settled) -> Result<Settled, Stop> {
        let mut outage = Outage::none("settle the run", &self.url);
        let Some(client) = &mut self.client else {
            return Ok(settled.clone());
        };
        let failed = |what: &str, e: &dyn std::fmt::Display| Stop::Failed(format!("{what}: {e}"));
        let request = pb::SettleRunRequest {
            run_id: self.run_id,
            attempt: self.attempt,
            settled_json: serde_json::to_string(settled)
                .map_err(|e| failed("write what is settled", &e))?,
            // Said when it began.
            record_json: String::new(),
        };
        loop {
            match answer("orchestrator", client.settle_run(request.clone())).await {
                Ok(answer) => {
                    outage.answered();
                    return serde_json::from_str(&answer.settled_json)
                        .map_err(|e| failed("read what is settled", &e));
                }
                Err(s) if s.code() == Code::Aborted => {
                    return Err(Stop::Stale(s.message().to_owned()));
                }
                Err(s) if is_passing(&s) => {
                    outage.failed(&s);
                    tokio::time::sleep(PAUSE).await;
                }
                Err(s) => {
                    return Err(failed(
                        "the orchestrator does not settle the run",
                        &cause(&s),
                    ));
                }
            }
        }
    }

    /// Sends heartbeats until the attempt ends; a cancellation raises `asked`, a lost run `stop`.
    pub(crate) async fn heartbeats(
        mut self,
        every: Duration,
        progress: watch::Receiver<Progress>,
        asked: StopSignal,
        stop: StopSignal,
    ) {
        let mut outage = Outage::none("send heartbeats", &self.url);
        let Some(client) = &mut self.client else {
            return;
        };
        let mut due = tokio::time::interval(every);
        due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            due.tick().await;
            let now = *progress.borrow();
            let request = pb::HeartbeatRequest {
                run_id: self.run_id,
                attempt: self.attempt,
                step: now.step,
                steps_per_second: now.steps_per_second,
                undelivered_since_step: now.undelivered_since_step,
            };
            match answer("orchestrator", client.heartbeat(request)).await {
                Ok(answer) => {
                    outage.answered();
                    if !answer.attempt_token.is_empty()
                        && let Err(e) = (self.metrics.credentials.token)
                            .renew(&Secret::new(answer.attempt_token))
                    {
                        tracing::warn!("the orchestrator sends no token that can be used: {e}");
                    }
                    if answer.stop {
                        asked.raise(Stop::Asked);
                    }
                }
                Err(s) if s.code() == Code::Aborted => {
                    return stop.raise(Stop::Stale(s.message().to_owned()));
                }
                // An orchestrator that is down is no reason to stop.
                Err(s) => outage.failed(&s),
            }
        }
    }

    /// Records states as they come, each until it is recorded; deletes those that became obsolete.
    pub(crate) async fn record_states(
        mut self,
        mut states: mpsc::UnboundedReceiver<Unrecorded>,
        run_dir: PathBuf,
        keep_last: u32,
        stop: StopSignal,
    ) {
        let mut outage = Outage::none("record states", &self.url);
        let Some(client) = &mut self.client else {
            return keep_newest(states, &run_dir, keep_last).await;
        };
        while let Some(Unrecorded { state, keep }) = states.recv().await {
            let request = pb::RecordStateRequest {
                run_id: self.run_id,
                attempt: self.attempt,
                state: Some(state),
                keep,
            };
            loop {
                match answer("orchestrator", client.record_state(request.clone())).await {
                    Ok(answer) => {
                        outage.answered();
                        answer
                            .obsolete
                            .iter()
                            .for_each(|s| imprint_spool::delete_state(&run_dir, &s.path));
                        break;
                    }
                    Err(s) if s.code() == Code::Aborted => {
                        return stop.raise(Stop::Stale(s.message().to_owned()));
                    }
                    Err(s) if is_passing(&s) => {
                        outage.failed(&s);
                        tokio::time::sleep(PAUSE).await;
                    }
                    Err(s) => {
                        let reason = format!("the orchestrator refuses a state: {}", cause(&s));
                        return stop.raise(Stop::Failed(reason));
                    }
                }
            }
        }
    }

    /// Ends the attempt, trying until `patience` is over.
    pub(crate) async fn end(
        mut self,
        outcome: pb::AttemptOutcome,
        reason: String,
        step: u32,
        patience: Duration,
    ) -> Result<(), Status> {
        let Some(client) = &mut self.client else {
            return Ok(());
        };
        let request = pb::EndAttemptRequest {
            run_id: self.run_id,
            attempt: self.attempt,
            outcome: outcome.into(),
            reason,
            step,
        };
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            match answer("orchestrator", client.end_attempt(request.clone())).await {
                Ok(_) => return Ok(()),
                Err(s) if is_passing(&s) && tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(PAUSE).await;
                }
                Err(s) => return Err(s),
            }
        }
    }
}

/// Deletes states that nothing needs any more, as the orchestrator would say: all that is not durable
/// is in this attempt's own spool, so its newest states will do.
async fn keep_newest(
    mut states: mpsc::UnboundedReceiver<Unrecorded>,
    run_dir: &Path,
    keep_last: u32,
) {
    let mut kept = VecDeque::new();
    while let Some(Unrecorded { state, keep }) = states.recv().await {
        if keep {
            continue;
        }
        kept.push_back(state.path);
        if kept.len() > keep_last as usize
            && let Some(path) = kept.pop_front()
        {
            imprint_spool::delete_state(run_dir, &path);
        }
    }
}
