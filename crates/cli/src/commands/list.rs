//! `imprint list`: experiments.

use std::collections::BTreeMap;
use std::process::ExitCode;

use chrono::{DateTime, Utc};
use imprint_proto::pb;
use serde::Serialize;

use super::{minute, print_json, tell};
use crate::arguments::Output;
use crate::client::Orchestrator;
use crate::failure::Outcome;
use crate::place::Place;
use crate::progress::counts;
use crate::table::{Column, table_with_notes};

/// Experiments of a table, unless told otherwise.
const DEFAULT_LIMIT: usize = 20;

/// List experiments, the newest first, with how many of their runs are in which state.
///
/// The table has the newest 20 unless told otherwise; JSON has all.
///
/// Example: `imprint list --output json | jq '.[].name'`
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Arguments {
    /// So many at most.
    #[arg(long, short = 'n', value_name = "NUMBER")]
    limit: Option<usize>,
    /// All of them.
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    /// Only those with runs that have not ended.
    #[arg(long)]
    open: bool,
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
    let default = match arguments.output {
        Output::Table if !arguments.all => DEFAULT_LIMIT,
        Output::Table | Output::Json => usize::MAX,
    };
    let limit = arguments.limit.unwrap_or(default);
    let orchestrator = Orchestrator::connect(place).await?;
    let (experiments, has_more) = orchestrator.experiments(arguments.open, limit).await?;
    match arguments.output {
        Output::Json => print_json(&experiments.into_iter().map(Row::from).collect::<Vec<_>>())?,
        Output::Table if experiments.is_empty() && arguments.open => {
            tell("all runs have ended; `imprint list` shows the experiments")?;
        }
        Output::Table if experiments.is_empty() && !has_more => {
            tell("no experiment yet; `imprint submit FILE` begins one")?;
        }
        Output::Table => {
            tell(as_table(&experiments))?;
            if has_more {
                eprintln!("there are older ones; `imprint list --all` shows them");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn as_table(experiments: &[pb::ExperimentSummary]) -> String {
    let columns = [
        Column::Name("experiment"),
        Column::Left("submitted (UTC)"),
        Column::Right("runs"),
    ];
    let rows = experiments.iter().map(|experiment| {
        let n_runs = experiment.runs_by_state.values().sum::<u32>();
        let cells = vec![
            experiment.name.clone(),
            minute(experiment.created_unix_ms),
            n_runs.to_string(),
        ];
        (cells, counts(&experiment.runs_by_state))
    });
    table_with_notes(&columns, "states", rows)
}

#[cfg(test)]
mod tests;
