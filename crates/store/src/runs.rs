//! Experiments, runs and attempts: what was asked for, and how far it is.
//!
//! A run's state changes here and nowhere else, each change in one short transaction that holds the
//! run's row; `docs/runs.md` draws the states.
//! All times are the database's.

mod attempts;
mod details;
mod import;
mod jobs;
mod record;
mod scheduling;
mod submission;
mod views;
mod wishes;

pub use attempts::{AttemptEnd, Begin, BegunAttempt, Process, Progress, SavedState, Segment};
pub use details::{AttemptView, Event, JobView, ParentView, RunDetails, RunRef};
pub use import::{BegunImport, NewImport};
pub use jobs::{Job, Leader, Sighting};
pub use record::{RecordedAttempt, RecordedRun};
pub use scheduling::{LastAttempt, Lost, Next, OpenRun, OpenRuns, Parent};
pub use submission::{
    FoundRun, KnownRun, NewExperiment, NewProbe, NewProbeSet, NewRun, Refusal, Submission,
};
pub(crate) use submission::{ProbeSets, insert_runs};
pub use views::{ExperimentPage, ExperimentSummary, Overview, RunPage, RunView};
pub use wishes::Runs;

/// Where a run is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum RunState {
    /// Ready, or waiting: the reason says for what.
    Queued,
    /// An attempt is open.
    Running,
    /// All updates made; not all readings are durable yet.
    Delivering,
    Complete,
    Failed,
    Cancelled,
}

impl RunState {
    pub const ALL: [Self; 6] = [
        Self::Queued,
        Self::Running,
        Self::Delivering,
        Self::Complete,
        Self::Failed,
        Self::Cancelled,
    ];

    /// The name used in SQL and output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Delivering => "delivering",
            Self::Complete => "complete",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing more happens to the run unless somebody asks for it.
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Complete | Self::Failed | Self::Cancelled)
    }
}

#[cfg(test)]
mod tests;
