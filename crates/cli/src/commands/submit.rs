//! `imprint submit`: an experiment file becomes runs.

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
use crate::table::{Column, table, thousands};

/// Submit an experiment file: its matrix becomes runs, and those that are new are queued.
///
/// The file is TOML; `experiments/minimal.toml` is the shortest one and `experiments/paper.toml`
/// explains every key. Everything is checked before anything is stored: the files, the tokenizer,
/// the corpus' length, and that every injection fits its batch. A corpus of text is tokenised now,
/// unless it has been before. What is allowed but looks wrong is warned of on standard error.
/// Submitting the same file twice changes nothing; adding a seed queues only what is missing.
///
/// Example: `imprint submit mine.toml --dry-run`, then `imprint submit mine.toml --wait`
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Arguments {
    /// The experiment file; relative paths in it are taken from its directory.
    file: PathBuf,
    /// Check and expand only; nothing is stored.
    #[arg(long)]
    dry_run: bool,
    /// Show the runs' progress until all have ended; exits with 1 when one failed.
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
    /// A table for people, or JSON for programs.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

pub(crate) async fn run(place: &Place, arguments: Arguments) -> Outcome {
    let request = request(&arguments.file, arguments.dry_run)?;
    let orchestrator = Orchestrator::connect(place).await?;
    let submitted = orchestrator.submit(request).await?;
    match arguments.output {
        Output::Json => print_json(&Answer::from(&submitted))?,
        Output::Table => tell(as_table(&submitted.runs))?,
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

/// The request for an experiment file, with an id that no other request has.
///
/// # Errors
/// When the file cannot be read or is not an experiment file.
pub(crate) fn request(file: &Path, dry_run: bool) -> Result<pb::SubmitExperimentRequest, Failure> {
    let unreadable = |err| Failure::bad_input(format!("{}: {err}", file.display()));
    let toml = fs::read_to_string(file).map_err(unreadable)?;
    let absolute = fs::canonicalize(file).map_err(unreadable)?;
    let base = absolute.parent().unwrap_or(Path::new("/"));
    // What is wrong with the text alone is told without a service.
    ExperimentSpec::parse(&toml, file, base).map_err(|err| Failure::bad_input(err.to_string()))?;
    Ok(pb::SubmitExperimentRequest {
        request_id: Uuid::new_v4().to_string(),
        toml,
        file: file.display().to_string(),
        base_dir: base.display().to_string(),
        dry_run,
    })
}

fn what_next(submitted: &pb::SubmitExperimentResponse, dry_run: bool) -> String {
    let n_new = submitted.runs.iter().filter(|r| r.new).count();
    let n_known = submitted.runs.len() - n_new;
    if dry_run {
        return format!("{n_new} new runs, {n_known} known ones; nothing was stored (--dry-run)");
    }
    format!(
        "{n_new} runs queued, {n_known} were there; `imprint watch {}` shows them",
        submitted.experiment
    )
}

#[derive(Serialize)]
struct Answer<'a> {
    experiment: &'a str,
    runs: Vec<Row<'a>>,
    warnings: &'a [String],
}

#[derive(Serialize)]
struct Row<'a> {
    run: &'a str,
    hash: &'a str,
    new: bool,
    n_updates: u32,
    n_readings: u32,
    n_probes: u32,
    n_tokens: u64,
    max_injected_share: f32,
}

impl<'a> From<&'a pb::SubmitExperimentResponse> for Answer<'a> {
    fn from(response: &'a pb::SubmitExperimentResponse) -> Self {
        let row = |r: &'a pb::SubmittedRun| Row {
            run: &r.run,
            hash: &r.hash,
            new: r.new,
            n_updates: r.n_updates,
            n_readings: r.n_readings,
            n_probes: r.n_probes,
            n_tokens: r.n_tokens,
            max_injected_share: r.max_injected_share,
        };
        Self {
            experiment: &response.experiment,
            runs: response.runs.iter().map(row).collect(),
            warnings: &response.warnings,
        }
    }
}

pub(crate) fn as_table(runs: &[pb::SubmittedRun]) -> String {
    let columns = [
        Column::Right("#"),
        Column::Left("run"),
        Column::Left("hash"),
        Column::Left("new"),
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
            if run.new { "yes" } else { "no" }.to_owned(),
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
