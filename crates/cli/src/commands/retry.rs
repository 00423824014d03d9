//! `imprint retry`: takes failed and cancelled runs up again.

use std::process::ExitCode;

use super::tell;
use crate::client::Orchestrator;
use crate::failure::Outcome;
use crate::place::Place;

/// Queue an experiment's failed and cancelled runs again.
///
/// They go on from their last saved state; nothing that is stored is measured again.
///
/// Example: `imprint retry mine && imprint watch mine`
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Arguments {
    experiment: String,
}

pub(crate) async fn run(place: &Place, arguments: Arguments) -> Outcome {
    let orchestrator = Orchestrator::connect(place).await?;
    let queued = orchestrator.retry(&arguments.experiment).await?;
    if queued.is_empty() {
        tell("no run has failed or was cancelled")?;
    }
    for run in queued {
        tell(format_args!("{run}  queued"))?;
    }
    Ok(ExitCode::SUCCESS)
}
