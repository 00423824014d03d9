//! `imprint watch`: an experiment's runs while they go on.

use std::process::ExitCode;

use imprint_proto::pb;

use crate::client::Orchestrator;
use crate::failure::{Failure, Outcome};
use crate::place::Place;
use crate::progress::{Progress, note, state_word};

/// Watch an experiment until all its runs have ended.
///
/// One live bar a run, with its step, its speed and the time left, and one for all together; where
/// there are more runs than lines, bars for those that run. Where stderr is no terminal, a line a
/// change. Ending the watch ends no run. Exits with 1 when a run failed or was cancelled.
///
/// Example: `imprint watch mine && imprint results mine`
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Arguments {
    experiment: String,
}

pub(crate) async fn run(place: &Place, arguments: Arguments) -> Outcome {
    let orchestrator = Orchestrator::connect(place).await?;
    until_ended(&orchestrator, &arguments.experiment).await
}

/// Shows the experiment until all its runs have ended.
///
/// # Errors
/// When a run failed or was cancelled, with the first one's reason.
pub(crate) async fn until_ended(orchestrator: &Orchestrator, experiment: &str) -> Outcome {
    let mut progress = Progress::new();
    let last = orchestrator
        .follow(experiment, |now| progress.show(now))
        .await?;
    let unfinished: Vec<&pb::Run> = last
        .runs
        .iter()
        .filter(|r| r.state() != pb::RunState::Complete)
        .collect();
    let Some(run) = unfinished.first() else {
        return Ok(ExitCode::SUCCESS);
    };
    let mut line = format!(
        "{} of {} runs did not complete; {} {}",
        unfinished.len(),
        last.runs.len(),
        run.run,
        state_word(run.state()),
    );
    let note = note(run);
    if !note.is_empty() {
        line += &format!(": {note}");
    }
    Err(Failure::failed(line))
}
