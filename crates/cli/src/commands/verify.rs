//! `imprint verify`: whether everything that was to be read is stored.

mod against;

use std::process::ExitCode;

use imprint_proto::pb;
use serde::Serialize;

use super::{print_json, tell};
use crate::arguments::Output;
use crate::client::{self, Orchestrator};
use crate::failure::{Failure, Outcome};
use crate::place::Place;
use crate::table::{Column, table};

/// Check that every reading and update of a run, or of all runs of an experiment, is stored.
///
/// Expected is what the run declared when it was submitted; stored is what is in the database and
/// whole; a reading that a later attempt measured again is superseded, not lost. Exits with 1
/// unless every run is complete and clean.
///
/// With `--against` it compares all readings of two complete runs, which should be equal where one
/// does the other again (`imprint reproduce`); it exits with 1 unless they are, bit by bit.
///
/// Example: `imprint verify mine` or `imprint verify mine/late-once-b32-s0`
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Arguments {
    /// A run (`experiment/cell`) or an experiment.
    name: String,
    /// Compare the readings of a run with those of another one, bit by bit.
    #[arg(long, value_name = "RUN")]
    against: Option<String>,
    /// A table for people, or JSON for programs.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

pub(crate) async fn run(place: &Place, arguments: Arguments) -> Outcome {
    if let Some(other) = &arguments.against {
        return against::run(place, &arguments.name, other, arguments.output).await;
    }
    let verified = verify(place, &arguments.name).await?;
    let rows: Vec<Row> = verified.iter().map(Row::from).collect();
    match arguments.output {
        Output::Json => print_json(&rows)?,
        Output::Table => tell(as_table(&rows))?,
    }
    match rows.iter().filter(|r| !r.clean).count() {
        0 => Ok(ExitCode::SUCCESS),
        n => Err(Failure::failed(format!(
            "{n} of {} runs are not clean",
            rows.len()
        ))),
    }
}

/// What is stored of a run, or of each run of an experiment.
pub(crate) async fn verify(
    place: &Place,
    name: &str,
) -> Result<Vec<pb::VerifyRunResponse>, Failure> {
    let runs = if name.contains('/') {
        vec![name.to_owned()]
    } else {
        let experiment = Orchestrator::connect(place).await?.experiment(name).await?;
        experiment.runs.into_iter().map(|r| r.run).collect()
    };
    let mut verified = Vec::new();
    for run in runs {
        verified.push(client::verify(place, &run).await?);
    }
    Ok(verified)
}

#[derive(Serialize)]
pub(crate) struct Row {
    run: String,
    state: String,
    pub(crate) clean: bool,
    n_probes: u32,
    readings_expected: u32,
    readings_stored: u32,
    readings_missing: Vec<u32>,
    readings_damaged: Vec<u32>,
    readings_superseded: u32,
    updates_expected: u32,
    updates_stored: u32,
    updates_missing: Vec<u32>,
    attempts: u32,
}

impl From<&pb::VerifyRunResponse> for Row {
    fn from(v: &pb::VerifyRunResponse) -> Self {
        Self {
            run: v.run.clone(),
            state: v.state.clone(),
            clean: v.state == "complete"
                && v.readings_stored == v.readings_expected
                && v.updates_stored == v.updates_expected
                && v.readings_missing.is_empty()
                && v.readings_damaged.is_empty()
                && v.updates_missing.is_empty(),
            n_probes: v.n_probes,
            readings_expected: v.readings_expected,
            readings_stored: v.readings_stored,
            readings_missing: v.readings_missing.clone(),
            readings_damaged: v.readings_damaged.clone(),
            readings_superseded: v.readings_superseded,
            updates_expected: v.updates_expected,
            updates_stored: v.updates_stored,
            updates_missing: v.updates_missing.clone(),
            attempts: v.attempts,
        }
    }
}

pub(crate) fn as_table(rows: &[Row]) -> String {
    let columns = [
        Column::Left("run"),
        Column::Left("state"),
        Column::Right("probes"),
        Column::Right("readings\nexpected"),
        Column::Right("\nstored"),
        Column::Left("\nmissing"),
        Column::Left("\ndamaged"),
        Column::Right("\nsuperseded"),
        Column::Right("updates\nexpected"),
        Column::Right("\nstored"),
        Column::Left("\nmissing"),
        Column::Left("\nverdict"),
    ];
    let cells = rows.iter().map(|r| {
        vec![
            r.run.clone(),
            r.state.clone(),
            r.n_probes.to_string(),
            r.readings_expected.to_string(),
            r.readings_stored.to_string(),
            ranges(&r.readings_missing),
            ranges(&r.readings_damaged),
            r.readings_superseded.to_string(),
            r.updates_expected.to_string(),
            r.updates_stored.to_string(),
            ranges(&r.updates_missing),
            if r.clean { "clean" } else { "NOT CLEAN" }.to_owned(),
        ]
    });
    table(&columns, cells)
}

/// At most so many ranges are named.
const MAX_RANGES: usize = 4;

/// Ascending steps as `3, 7–9`; `none` where there are none.
fn ranges(steps: &[u32]) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for &step in steps {
        match ranges.last_mut() {
            Some((_, end)) if *end + 1 == step => *end = step,
            _ => ranges.push((step, step)),
        }
    }
    let named = ranges.iter().take(MAX_RANGES).map(|&(from, to)| {
        if from == to {
            from.to_string()
        } else {
            format!("{from}–{to}")
        }
    });
    let mut words: Vec<String> = named.collect();
    match ranges.len() {
        0 => return "none".to_owned(),
        n if n > MAX_RANGES => words.push(format!("… ({} in all)", steps.len())),
        _ => {}
    }
    words.join(", ")
}

#[cfg(test)]
mod tests;
