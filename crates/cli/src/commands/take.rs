//! `imprint take`: a run for a machine that cannot reach the services.

use std::path::{PathBuf, absolute};
use std::process::ExitCode;

use imprint_proto::pb;
use imprint_telemetry::one_line;

use super::tell;
use crate::client::Orchestrator;
use crate::failure::{Failure, Outcome};
use crate::place::Place;

/// Take a run offline: write a ticket with which a trainer works without the services.
///
/// The ticket holds all that the trainer would be told; the run's directory must be where the
/// trainer can reach it. Until the time is over nobody else begins the run. Afterwards
/// `imprint import` delivers what the trainer read; one that was stopped half-way is imported too,
/// and its run goes on from its last saved state.
///
/// Example: `imprint take mine/late-once-b32-s0 --hours 72 --ticket late.ticket`,
/// on the node `imprint-trainer run --ticket late.ticket`,
/// and afterwards `imprint import data/runs/7/attempts/1`
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Arguments {
    /// The run (`experiment/cell`).
    run: String,
    /// How long the run is kept for the trainer.
    #[arg(long)]
    hours: u32,
    /// The file to write; it must not exist yet. It is for its owner's eyes only.
    #[arg(long, value_name = "FILE")]
    ticket: PathBuf,
}

pub(crate) async fn run(place: &Place, arguments: Arguments) -> Outcome {
    let Arguments { run, hours, ticket } = arguments;
    let ticket = absolute(&ticket).map_err(Failure::doing(ticket.display()))?;
    // Before the run is taken: a ticket that cannot be written would keep it from everybody.
    let writable = ticket.parent().is_some_and(|dir| dir.is_dir());
    if !writable || ticket.exists() {
        return Err(Failure::bad_input(format!(
            "--ticket {}: not a new file in a directory that exists",
            ticket.display()
        )));
    }
    let orchestrator = Orchestrator::connect(place).await?;
    let name = run.split_once('/').map_or(run.as_str(), |(name, _)| name);
    let experiment = orchestrator.experiment(name).await?;
    let Some(found) = experiment.runs.iter().find(|r| r.run == run) else {
        return Err(Failure::bad_input(format!(
            "{name} has no run {run}; `imprint status {name}` lists them"
        )));
    };
    let begun = orchestrator
        .begin_attempt(pb::BeginAttemptRequest {
            run_id: found.run_id,
            host: "offline".to_owned(),
            pid: 0,
            machine: "not known before it delivers".to_owned(),
            offline_seconds: Some(hours.saturating_mul(3600)),
        })
        .await?;
    let attempt = format!("{}/attempts/{}", begun.run_dir, begun.attempt);
    imprint_spool::write_ticket(&ticket, found.run_id, begun)
        .map_err(|e| Failure::failed(one_line(&e)))?;
    tell(format_args!(
        "{run} is taken for {hours} hours; on the node:\n\
         \x20 imprint-trainer run --ticket {}\n\
         and afterwards, where the services are:\n\
         \x20 imprint import {attempt}",
        ticket.display()
    ))?;
    Ok(ExitCode::SUCCESS)
}
