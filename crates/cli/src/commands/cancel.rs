//! `imprint cancel`: ends runs.

use std::process::ExitCode;

use super::tell;
use crate::client::Orchestrator;
use crate::failure::Outcome;
use crate::place::Place;

/// End an experiment's runs, or one of them.
///
/// Runs that another experiment wants too go on. What was read so far stays; `imprint retry` takes
/// cancelled runs up again where they were.
///
/// Example: `imprint cancel mine mine/late-once-b32-s0`
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Arguments {
    experiment: String,
    /// One run (`experiment/cell`); where absent, all of the experiment.
    run: Option<String>,
}

pub(crate) async fn run(place: &Place, arguments: Arguments) -> Outcome {
    let orchestrator = Orchestrator::connect(place).await?;
    let run = arguments.run.unwrap_or_default();
    let cancelled = orchestrator.cancel(&arguments.experiment, &run).await?;
    if cancelled.is_empty() {
        tell("nothing to cancel")?;
    }
    for run in cancelled {
        tell(format_args!("{run}  cancelled"))?;
    }
    Ok(ExitCode::SUCCESS)
}
