//! `imprint status`: how far runs are, why they wait and why they failed.

mod page;

use std::process::ExitCode;

use clap::ValueEnum;
use imprint_proto::pb;
use serde::Serialize;

use super::{print_json, tell};
use crate::arguments::Output;
use crate::client::Orchestrator;
use crate::failure::{Failure, Outcome};
use crate::place::Place;
use crate::progress::{STATES, note, of_all, speed, state_word};
use crate::table::{Column, number, table_with_notes, time};

/// Runs of an experiment's table, unless told otherwise.
const MAX_ROWS: usize = 100;

/// Show how far runs are, why they wait and why they failed.
///
/// `why` says why a run waits or has failed, and since which step its readings could not be
/// delivered: they are kept on the trainer's disk and follow when the services are back. Of an
/// experiment with more than 100 runs the table has those that run, then those that failed, wait,
/// were cancelled and are complete. Of one run everything is shown: its job, its attempts with what
/// ended them, its logs and what happened to it.
///
/// Example: `imprint status mine --state failed` or `imprint status mine/late-once-b32-s0`
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Arguments {
    /// An experiment, or one of its runs (`experiment/cell`); where absent, all experiments that have
    /// runs to do.
    name: Option<String>,
    /// Only runs in this state; may be repeated. Not with a run's name.
    #[arg(long = "state", value_enum, value_name = "STATE")]
    states: Vec<State>,
    /// All runs, however many there are; of one run all that happened to it.
    #[arg(long)]
    all: bool,
    /// A table for people, or JSON for programs (always of all runs).
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum State {
    Queued,
    Running,
    Delivering,
    Complete,
    Failed,
    Cancelled,
}

impl From<State> for pb::RunState {
    fn from(state: State) -> Self {
        match state {
            State::Queued => Self::Queued,
            State::Running => Self::Running,
            State::Delivering => Self::Delivering,
            State::Complete => Self::Complete,
            State::Failed => Self::Failed,
            State::Cancelled => Self::Cancelled,
        }
    }
}

#[derive(Serialize)]
struct Row<'a> {
    run: &'a str,
    state: &'static str,
    step: u32,
    n_updates: u32,
    steps_per_second: f32,
    seconds_left: Option<u64>,
    attempts: u32,
    readings_stored: u32,
    readings_expected: u32,
    undelivered_since_step: Option<u32>,
    priority: i32,
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
            seconds_left: run.seconds_left,
            attempts: run.attempts,
            readings_stored: run.readings_stored,
            readings_expected: run.readings_expected,
            undelivered_since_step: run.undelivered_since_step,
            priority: run.priority,
            reason: &run.reason,
        }
    }
}

pub(crate) async fn run(place: &Place, arguments: Arguments) -> Outcome {
    let a_run = arguments.name.as_ref().filter(|name| name.contains('/'));
    if let Some(run) = a_run
        && !arguments.states.is_empty()
    {
        return Err(Failure::bad_input(format!(
            "--state chooses among the runs of an experiment, and {run} is one run; leave it out"
        )));
    }
    let orchestrator = Orchestrator::connect(place).await?;
    if let Some(name) = a_run {
        return page::run(&orchestrator, name, arguments.all, arguments.output).await;
    }
    let names = match arguments.name {
        Some(name) => vec![name],
        None => {
            let (open, _) = orchestrator.experiments(true, usize::MAX).await?;
            open.into_iter().map(|summary| summary.name).collect()
        }
    };
    let states: Vec<pb::RunState> = match arguments.states.as_slice() {
        [] => STATES.to_vec(),
        states => states.iter().map(|&state| state.into()).collect(),
    };
    let most = match arguments.output {
        Output::Table if !arguments.all => MAX_ROWS,
        Output::Table | Output::Json => usize::MAX,
    };
    let mut chosen: Vec<pb::Run> = Vec::new();
    let mut n_left_out = 0;
    let mut so_far = Vec::new();
    for name in &names {
        let summary = orchestrator.summary(name).await?;
        let n_of = |state| {
            summary
                .runs_by_state
                .get(state_word(state))
                .copied()
                .unwrap_or(0)
        };
        let n_runs = states.iter().map(|&state| n_of(state) as usize).sum();
        let runs = some(&orchestrator, name, &states, n_runs, most).await?;
        n_left_out += n_runs.saturating_sub(runs.len());
        chosen.extend(runs);
        if STATES
            .iter()
            .any(|&state| !state.has_ended() && n_of(state) > 0)
        {
            so_far.push(format!("{name}: {}", of_all(&summary)));
        }
    }
    match arguments.output {
        Output::Json => print_json(&chosen.iter().map(Row::from).collect::<Vec<_>>())?,
        Output::Table if chosen.is_empty() && names.is_empty() => {
            tell("all runs have ended; `imprint list` shows the experiments")?;
        }
        Output::Table if chosen.is_empty() => tell("no such run")?,
        Output::Table => {
            tell(as_table(&chosen))?;
            if n_left_out > 0 {
                eprintln!("there are {n_left_out} more runs; `--all` shows them");
            }
            for line in so_far {
                tell(line)?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The `n_runs` runs of an experiment that are in one of `states`, as they were asked for; where they
/// are more than `most`, those of the first states.
async fn some(
    orchestrator: &Orchestrator,
    name: &str,
    states: &[pb::RunState],
    n_runs: usize,
    most: usize,
) -> Result<Vec<pb::Run>, Failure> {
    if n_runs <= most {
        return orchestrator.runs(name, states, most).await;
    }
    let mut runs = Vec::new();
    for state in STATES.into_iter().filter(|state| states.contains(state)) {
        let room = most - runs.len();
        if room > 0 {
            runs.extend(orchestrator.runs(name, &[state], room).await?);
        }
    }
    Ok(runs)
}

fn as_table(runs: &[pb::Run]) -> String {
    let columns = [
        Column::Name("run"),
        Column::Left("state"),
        Column::Right("step"),
        Column::Right("steps/s"),
        Column::Right("left"),
        Column::Right("readings"),
    ];
    let rows = runs.iter().map(|run| {
        let cells = vec![
            run.run.clone(),
            state_word(run.state()).to_owned(),
            format!("{}/{}", run.step, run.n_updates),
            number(speed(run), 1),
            run.seconds_left.map_or_else(|| "–".to_owned(), time),
            format!("{}/{}", run.readings_stored, run.readings_expected),
        ];
        (cells, why(run))
    });
    table_with_notes(&columns, "why", rows)
}

/// Why it waits or failed, and at which attempt it is where that is not the first.
fn why(run: &pb::Run) -> String {
    let attempt = (run.attempts > 1).then(|| format!("attempt {}", run.attempts));
    let note = Some(note(run)).filter(|note| !note.is_empty());
    let words: Vec<String> = [attempt, note].into_iter().flatten().collect();
    words.join("; ")
}

#[cfg(test)]
mod tests;
