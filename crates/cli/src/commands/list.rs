//! `imprint list`: every experiment.

use std::collections::BTreeMap;
use std::process::ExitCode;

use chrono::{DateTime, Utc};
use imprint_proto::pb;
use serde::Serialize;

use super::{print_json, tell};
use crate::arguments::Output;
use crate::client::Orchestrator;
use crate::failure::Outcome;
use crate::place::Place;
use crate::table::{Column, table};

/// List every experiment, with how many of its runs are in which state.
///
/// Example: `imprint list --output json | jq '.[].name'`
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Arguments {
    /// A table for people, or JSON for programs.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Serialize)]
struct Row {
    name: String,
    created_at: Option<DateTime<Utc>>,
    runs_by_state: BTreeMap<String, u32>,
}

impl From<pb::ExperimentSummary> for Row {
    fn from(e: pb::ExperimentSummary) -> Self {
        Self {
            name: e.name,
            created_at: DateTime::from_timestamp_millis(e.created_unix_ms),
            runs_by_state: e.runs_by_state.into_iter().collect(),
        }
    }
}

pub(crate) async fn run(place: &Place, arguments: Arguments) -> Outcome {
    let orchestrator = Orchestrator::connect(place).await?;
    let experiments = orchestrator.experiments().await?;
    let rows: Vec<Row> = experiments.into_iter().map(Row::from).collect();
    match arguments.output {
        Output::Json => print_json(&rows)?,
        Output::Table if rows.is_empty() => {
            tell("no experiment yet; `imprint submit FILE` begins one")?;
        }
        Output::Table => tell(as_table(&rows))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn as_table(rows: &[Row]) -> String {
    let columns = [
        Column::Left("experiment"),
        Column::Left("submitted (UTC)"),
        Column::Right("runs"),
        Column::Left("states"),
    ];
    let cells = rows.iter().map(|row| {
        let created = row
            .created_at
            .map(|at| at.format("%Y-%m-%d %H:%M").to_string());
        let states = row.runs_by_state.iter().filter(|(_, n)| **n > 0);
        let states: Vec<String> = states.map(|(state, n)| format!("{n} {state}")).collect();
        vec![
            row.name.clone(),
            created.unwrap_or_default(),
            row.runs_by_state.values().sum::<u32>().to_string(),
            states.join(", "),
        ]
    });
    table(&columns, cells)
}
