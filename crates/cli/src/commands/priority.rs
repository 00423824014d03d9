//! `imprint priority`: which runs start first.

use std::process::ExitCode;

use super::tell_each;
use crate::client::Orchestrator;
use crate::failure::Outcome;
use crate::place::Place;

/// Say how urgent an experiment's runs are, or one of them.
///
/// Of the runs that wait, those with the highest priority start first; 0 is what a run has of which
/// nobody said anything, and negative ones start last. What runs goes on.
///
/// Example: `imprint priority mine 10` or `imprint priority mine/late-once-b32-s0 -1`
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Arguments {
    /// An experiment, or one of its runs (`experiment/cell`).
    name: String,
    #[arg(allow_negative_numbers = true)]
    priority: i32,
}

pub(crate) async fn run(place: &Place, arguments: Arguments) -> Outcome {
    let Arguments { name, priority } = arguments;
    let orchestrator = Orchestrator::connect(place).await?;
    let changed = orchestrator.set_priority(&name, priority).await?;
    let what = format!("priority {priority}");
    tell_each(&changed, &what, "nothing to change")?;
    Ok(ExitCode::SUCCESS)
}
