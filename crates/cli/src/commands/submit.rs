//! `imprint submit`: an experiment file becomes runs.

mod estimate;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use imprint_core::ExperimentSpec;
use imprint_proto::pb;
use serde::Serialize;
use uuid::Uuid;

use super::{print_json, tell, watch};
use crate::arguments::Output;
use crate::client::Orchestrator;
use crate::failure::{Failure, Outcome};
use crate::place::Place;
use crate::progress::state_word;
use crate::table::{Column, table, thousands};

/// Submit an experiment file: its matrix becomes runs, and those that are new are queued.
///
/// The file is TOML; `experiments/minimal.toml` is the shortest one and docs/experiments.md explains
/// every key. Everything is checked before anything is stored: the files, the tokenizer, the corpus'
/// length, and that every injection fits its batch. A corpus of text is tokenised now, unless it has
/// been before. What is allowed but looks wrong is warned of on standard error. Submitting the same
/// file twice changes nothing; adding a seed queues only what is missing, and other `resources` are
/// taken over by runs that wait to be started.
///
/// Example: `imprint submit mine.toml --dry-run`, then `imprint submit mine.toml --wait`
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Arguments {
    /// The experiment file; relative paths in it are taken from its directory.
    file: PathBuf,
    /// Check, expand and estimate only; nothing is stored.
    ///
    /// Says of the runs that are new how many tokens, hours and bytes they take, and how much memory.
    #[arg(long)]
    dry_run: bool,
    /// For the hours: tokens that one trainer trains on in a second.
    ///
    /// Where absent, what was measured on complete runs of the same model on the same device.
    #[arg(long, value_name = "N", requires = "dry_run")]
    tokens_per_second: Option<f64>,
    /// Show the runs' progress until all have ended; exits with 1 when one failed.
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
    /// A table for people, or JSON for programs.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

pub(crate) async fn run(place: &Place, arguments: Arguments) -> Outcome {
    let request = pb::SubmitExperimentRequest {
        dry_run: arguments.dry_run,
        tokens_per_second: arguments.tokens_per_second,
        ..request(&arguments.file)?
    };
    let orchestrator = Orchestrator::connect(place).await?;
    let submitted = orchestrator.submit(request).await?;
    match arguments.output {
        Output::Json => print_json(&Answer::from(&submitted))?,
        Output::Table => {
            tell(as_table(&submitted.runs))?;
            if let Some(estimate) = submitted.estimate.as_ref().filter(|e| e.n_runs > 0) {
                tell(format_args!("\n{}", estimate::in_words(estimate)))?;
            }
        }
    }
    for warning in &submitted.warnings {
        eprintln!("warning: {warning}");
    }
    if arguments.wait {
        return watch::until_ended(&orchestrator, &submitted.experiment).await;
    }
    if arguments.output == Output::Table {
        eprintln!("{}", what_next(&submitted, arguments.dry_run));
    }
    Ok(ExitCode::SUCCESS)
}

/// The request to submit an experiment file, with an id that no other request has.
///
/// # Errors
/// When the file cannot be read or is not an experiment file.
pub(crate) fn request(file: &Path) -> Result<pb::SubmitExperimentRequest, Failure> {
    let unreadable = |err| Failure::bad_input(format!("{}: {err}", file.display()));
    let toml = fs::read_to_string(file).map_err(unreadable)?;
    let absolute = fs::canonicalize(file).map_err(unreadable)?;
    let base = absolute.parent().unwrap_or(Path::new("/"));
    // What is wrong with the text alone is told without a service; where files are, it knows.
    ExperimentSpec::parse_with(&toml, file, |path| Ok(path.to_owned()))
        .map_err(|err| Failure::bad_input(err.to_string()))?;
    Ok(pb::SubmitExperimentRequest {
        request_id: Uuid::new_v4().to_string(),
        toml,
        file: file.display().to_string(),
        base_dir: base.display().to_string(),
        dry_run: false,
        tokens_per_second: None,
    })
}

/// What became of the runs, in a line.
fn what_next(submitted: &pb::SubmitExperimentResponse, dry_run: bool) -> String {
    let mut by_state: BTreeMap<&str, usize> = BTreeMap::new();
    for run in submitted.runs.iter().filter(|run| !run.new) {
        *by_state.entry(word(run)).or_default() += 1;
    }
    let states = by_state.iter().map(|(state, n)| format!("{n} {state}"));
    let states = states.collect::<Vec<_>>().join(", ");
    let n_new = submitted.runs.iter().filter(|r| r.new).count();
    let n_known = submitted.runs.len() - n_new;
    let of_known = match n_known {
        0 => String::new(),
        n => format!(", {n} there before ({states})"),
    };
    let n_updated = submitted.runs.iter().filter(|run| run.updated).count();
    let updated = match (n_updated, dry_run) {
        (0, _) => String::new(),
        (n, true) => format!("; {n} would get the file's `resources`"),
        (n, false) => format!("; updated {n}, which get the file's `resources`"),
    };
    let name = &submitted.experiment;
    match (n_new, dry_run) {
        (0, _) if n_known == 1 => format!("nothing new: the run is there ({states}){updated}"),
        (0, _) => format!("nothing new: all {n_known} runs are there ({states}){updated}"),
        (_, true) => format!("{n_new} new{of_known}{updated}; nothing was stored (--dry-run)"),
        (_, false) => {
            format!("{n_new} queued{of_known}{updated}; `imprint watch {name}` shows them")
        }
    }
}

/// The state of a run, in output.
fn word(run: &pb::SubmittedRun) -> &'static str {
    match run.state() {
        _ if run.new => "new",
        pb::RunState::Unspecified => "there",
        state => state_word(state),
    }
}

#[derive(Serialize)]
struct Answer<'a> {
    experiment: &'a str,
    runs: Vec<Row<'a>>,
    /// What the new runs will take; of a dry run only.
    #[serde(skip_serializing_if = "Option::is_none")]
    estimate: Option<estimate::Answer<'a>>,
    warnings: &'a [String],
}

#[derive(Serialize)]
struct Row<'a> {
    run: &'a str,
    hash: &'a str,
    new: bool,
    /// Was there, and gets the file's resources.
    updated: bool,
    state: &'static str,
    n_updates: u32,
    n_readings: u32,
    n_probes: u32,
    n_tokens: u64,
    n_probe_tokens: u64,
    max_injected_share: f32,
}

impl<'a> From<&'a pb::SubmitExperimentResponse> for Answer<'a> {
    fn from(response: &'a pb::SubmitExperimentResponse) -> Self {
        let row = |r: &'a pb::SubmittedRun| Row {
            run: &r.run,
            hash: &r.hash,
            new: r.new,
            updated: r.updated,
            state: word(r),
            n_updates: r.n_updates,
            n_readings: r.n_readings,
            n_probes: r.n_probes,
            n_tokens: r.n_tokens,
            n_probe_tokens: r.n_probe_tokens,
            max_injected_share: r.max_injected_share,
        };
        Self {
            experiment: &response.experiment,
            runs: response.runs.iter().map(row).collect(),
            estimate: response.estimate.as_ref().map(estimate::Answer::from),
            warnings: &response.warnings,
        }
    }
}

pub(crate) fn as_table(runs: &[pb::SubmittedRun]) -> String {
    let columns = [
        Column::Right("#"),
        Column::Left("run"),
        Column::Left("hash"),
        Column::Left("state"),
        Column::Right("updates"),
        Column::Right("readings"),
        Column::Right("probes"),
        Column::Right("tokens"),
        Column::Right("injected ≤"),
    ];
    let cells = runs.iter().enumerate().map(|(i, run)| {
        vec![
            i.to_string(),
            run.run.clone(),
            run.hash.chars().take(12).collect(),
            word(run).to_owned(),
            run.n_updates.to_string(),
            run.n_readings.to_string(),
            run.n_probes.to_string(),
            thousands(run.n_tokens),
            format!("{:.1} %", 100.0 * run.max_injected_share),
        ]
    });
    table(&columns, cells)
}

#[cfg(test)]
mod tests;
