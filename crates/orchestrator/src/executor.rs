//! Where trainers run: one small interface, whatever is behind it.

use std::collections::BTreeMap;
use std::time::Duration;

use imprint_store::runs::Job;

use crate::trainer::TrainerCommand;

/// What can start trainers, watch them and end them.
///
/// Calls are made one at a time and may take long; each has a deadline of its own. Nothing is kept
/// that the engine or the job does not say: an executor may be another one at the next call.
#[tonic::async_trait]
pub(crate) trait Executor: Send + 'static {
    /// How long what was observed stands before it is looked at again.
    fn poll_every(&self) -> Duration;

    /// Asks for a job to be started and gives the engine's own name for it.
    ///
    /// Asked again for the same job, it finds the one that is there by its request id.
    async fn submit(&mut self, job: &Job, command: &TrainerCommand) -> Result<String, Refused>;

    /// What is known of these jobs, by their runs; a job that is missing in the answer is not known.
    ///
    /// # Errors
    /// When nothing can be said now, in one line.
    async fn observe(&mut self, jobs: &[Job]) -> Result<BTreeMap<i32, Seen>, String>;

    /// Asks a job's process to save and end; a job that waits in a queue leaves it.
    async fn stop(&mut self, job: &Job) -> Result<(), String>;

    /// Ends a job at once.
    async fn kill(&mut self, job: &Job) -> Result<(), String>;

    /// Asks what would not outlive this process to save and end, and ends what has not within
    /// `grace`.
    async fn shut_down(&mut self, grace: Duration);
}

/// Does what may wait for a disk or take its time where nothing else waits for it.
pub(crate) async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(e) => std::panic::resume_unwind(e.into_panic()),
    }
}

/// A job that was asked for just now.
#[cfg(test)]
pub(crate) fn asked_job(run_id: i32, job: u32, request_id: &str) -> Job {
    Job {
        run_id,
        job,
        executor: "cluster".to_owned(),
        slot: None,
        request_id: request_id.to_owned(),
        external_id: None,
        asked_for: Duration::ZERO,
        n_asked: 1,
        alive_for: None,
        stopping_for: None,
        killing_for: None,
        began: false,
        idle_for: Duration::ZERO,
    }
}

/// A job as its engine has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The engine's name for it.
    pub(crate) external_id: String,
    pub(crate) phase: Phase,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// In the engine's queue: why, in the engine's words.
    Waiting { reason: String },
    /// Its process lives, as far as the engine knows.
    Alive,
    /// For good, in words that follow "the trainer".
    Ended { how: String },
}

/// Why a job was not started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It will not be: in words that follow "the trainer", such as "could not be started: …".
    Ended(String),
    /// It may have been, or may yet be: in a line.
    Unclear(String),
}
