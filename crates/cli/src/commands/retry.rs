//! `imprint retry`: takes failed and cancelled runs up again.

use std::process::ExitCode;

use imprint_proto::pb::RunState;

use super::tell_each;
use crate::client::Orchestrator;
use crate::failure::Outcome;
use crate::place::Place;

/// Queue an experiment's failed and cancelled runs again, or one of them.
///
/// They go on from their last saved state; nothing that is stored is measured again. With `--failed`
/// or `--cancelled` only those that failed, or were cancelled.
///
/// Example: `imprint retry mine --failed && imprint watch mine`
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Arguments {
    /// An experiment, or one of its runs (`experiment/cell`).
    name: String,
    /// Only runs that failed.
    #[arg(long, conflicts_with = "cancelled")]
    failed: bool,
    /// Only runs that were cancelled.
    #[arg(long)]
    cancelled: bool,
}

pub(crate) async fn run(place: &Place, arguments: Arguments) -> Outcome {
    let (states, none): (&[RunState], _) = match (arguments.failed, arguments.cancelled) {
        (true, _) => (&[RunState::Failed], "no run has failed"),
        (_, true) => (&[RunState::Cancelled], "no run was cancelled"),
        _ => (&[], "no run has failed or was cancelled"),
    };
    let orchestrator = Orchestrator::connect(place).await?;
    let queued = orchestrator.retry(&arguments.name, states).await?;
    tell_each(&queued, "queued", none)?;
    Ok(ExitCode::SUCCESS)
}
