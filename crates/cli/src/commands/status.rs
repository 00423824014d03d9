//! `imprint status`: how far runs are, why they wait and why they failed.

use std::process::ExitCode;

use imprint_proto::pb;
use serde::Serialize;

use super::{print_json, tell};
use crate::arguments::Output;
use crate::client::{Orchestrator, has_ended};
use crate::failure::Outcome;
use crate::place::Place;
use crate::progress::{note, state_word};
use crate::table::{Column, number, table};

/// Show how far runs are, why they wait and why they failed.
///
/// The last column says why a run waits or has failed, and since which step its readings could not
/// be delivered: they are kept on the trainer's disk and follow when the services are back.
///
/// Example: `imprint status mine`
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Arguments {
    /// One experiment; where absent, all that have runs to do.
    experiment: Option<String>,
    /// A table for people, or JSON for programs.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Serialize)]
struct Row<'a> {
    run: &'a str,
    state: &'static str,
    step: u32,
    n_updates: u32,
    steps_per_second: f32,
    attempts: u32,
    readings_stored: u32,
    readings_expected: u32,
    undelivered_since_step: Option<u32>,
    reason: &'a str,
}

impl<'a> From<&'a pb::Run> for Row<'a> {
    fn from(run: &'a pb::Run) -> Self {
        Self {
            run: &run.run,
            state: state_word(run.state()),
            step: run.step,
            n_updates: run.n_updates,
            steps_per_second: run.steps_per_second,
            attempts: run.attempts,
            readings_stored: run.readings_stored,
            readings_expected: run.readings_expected,
            undelivered_since_step: run.undelivered_since_step,
            reason: &run.reason,
        }
    }
}

pub(crate) async fn run(place: &Place, arguments: Arguments) -> Outcome {
    let orchestrator = Orchestrator::connect(place).await?;
    let experiments = match &arguments.experiment {
        Some(name) => vec![orchestrator.experiment(name).await?],
        None => {
            let mut open = Vec::new();
            for summary in orchestrator.experiments().await? {
                let experiment = orchestrator.experiment(&summary.name).await?;
                if !has_ended(&experiment) {
                    open.push(experiment);
                }
            }
            open
        }
    };
    let runs: Vec<&pb::Run> = experiments.iter().flat_map(|e| &e.runs).collect();
    match arguments.output {
        Output::Json => print_json(&runs.into_iter().map(Row::from).collect::<Vec<_>>())?,
        Output::Table if runs.is_empty() => {
            tell("all runs have ended; `imprint list` shows the experiments")?;
        }
        Output::Table => tell(as_table(&runs))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn as_table(runs: &[&pb::Run]) -> String {
    let columns = [
        Column::Left("run"),
        Column::Left("state"),
        Column::Right("step"),
        Column::Right("steps/s"),
        Column::Right("attempts"),
        Column::Right("readings"),
        Column::Left("why"),
    ];
    let cells = runs.iter().map(|run| {
        let speed = (run.state() == pb::RunState::Running && run.steps_per_second > 0.0)
            .then(|| f64::from(run.steps_per_second));
        vec![
            run.run.clone(),
            state_word(run.state()).to_owned(),
            format!("{}/{}", run.step, run.n_updates),
            number(speed, 1),
            run.attempts.to_string(),
            format!("{}/{}", run.readings_stored, run.readings_expected),
            note(run),
        ]
    });
    table(&columns, cells)
}

#[cfg(test)]
mod tests;
