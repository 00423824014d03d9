//! `imprint cancel`: ends runs.

use std::process::ExitCode;

use super::tell_each;
use crate::client::Orchestrator;
use crate::failure::Outcome;
use crate::place::Place;

/// End an experiment's runs, or one of them.
///
/// Runs that another experiment wants too go on. Those that run save their state and end. What was
/// read so far stays; `imprint retry` takes cancelled runs up again where they were, submitting the
/// file again does not.
///
/// Example: `imprint cancel mine` or `imprint cancel mine/late-once-b32-s0`
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Arguments {
    /// An experiment, or one of its runs (`experiment/cell`).
    name: String,
}

pub(crate) async fn run(place: &Place, arguments: Arguments) -> Outcome {
    let orchestrator = Orchestrator::connect(place).await?;
    let cancelled = orchestrator.cancel(&arguments.name).await?;
    tell_each(&cancelled, "cancelled", "nothing to cancel")?;
    Ok(ExitCode::SUCCESS)
}
