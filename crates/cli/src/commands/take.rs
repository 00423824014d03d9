//! `imprint take`: a run for a machine that cannot reach the services.

use std::io::ErrorKind;
use std::path::{Path, PathBuf, absolute};
use std::process::ExitCode;

use clap::value_parser;
use imprint_proto::pb::{self, AttemptOutcome, RunState};
use imprint_spool::TicketError;
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
    /// How long the run is kept for the trainer, 60 days at most.
    #[arg(long, value_parser = value_parser!(u32).range(1..=1440))]
    hours: u32,
    /// The file to write; it must not exist yet. It is for its owner's eyes only.
    #[arg(long, value_name = "FILE")]
    ticket: PathBuf,
    /// Take a run that another trainer works on, too: its attempt is over.
    #[arg(long)]
    force: bool,
}

pub(crate) async fn run(place: &Place, arguments: Arguments) -> Outcome {
    let Arguments {
        run,
        hours,
        ticket,
        force,
    } = arguments;
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
    let found = orchestrator.run(&run).await?.run.unwrap_or_default();
    let doing = match found.state() {
        RunState::Running => Some("is running"),
        RunState::Delivering => Some("delivers what it has measured"),
        _ => None,
    };
    if let Some(doing) = doing
        && !force
    {
        return Err(Failure::bad_input(format!(
            "{run} {doing}: attempt {} would be over and what it still measures refused; --force \
             takes the run all the same",
            found.attempts
        )));
    }
    let begun = orchestrator
        .begin_attempt(pb::BeginAttemptRequest {
            run_id: found.run_id,
            host: "offline".to_owned(),
            pid: 0,
            machine: "not known before it delivers".to_owned(),
            offline_seconds: Some(hours.saturating_mul(3600)),
            ..Default::default()
        })
        .await?;
    let (run_dir, attempt) = (begun.run_dir.clone(), begun.attempt);
    if let Err(error) = imprint_spool::write_ticket(&ticket, found.run_id, begun) {
        let given_back = give_back(&orchestrator, found.run_id, attempt, &error, &ticket).await;
        return Err(Failure::failed(format!(
            "{run}: {}; {}",
            one_line(&error),
            match given_back {
                Ok(()) => "the run is queued again".to_owned(),
                Err(failure) => format!("attempt {attempt} is still open: {failure}"),
            }
        )));
    }
    tell(format_args!(
        "{run} is taken for {hours} hours; on the node:\n\
         \x20 imprint-trainer run --ticket {}\n\
         and afterwards, where the services are:\n\
         \x20 imprint import {run_dir}/attempts/{attempt}",
        ticket.display()
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// Ends an attempt that nobody will make: its ticket could not be written.
async fn give_back(
    orchestrator: &Orchestrator,
    run_id: i32,
    attempt: u32,
    error: &TicketError,
    ticket: &Path,
) -> Result<(), Failure> {
    // A file that was there is somebody else's.
    let is_ours = !matches!(error, TicketError::Io { source, .. }
        if source.kind() == ErrorKind::AlreadyExists);
    if is_ours && let Err(e) = std::fs::remove_file(ticket) {
        tracing::debug!("remove {}: {e}", ticket.display());
    }
    orchestrator
        .end_attempt(pb::EndAttemptRequest {
            run_id,
            attempt,
            outcome: AttemptOutcome::Stopped.into(),
            reason: format!("its ticket could not be written: {error}"),
            step: 0,
        })
        .await
}
