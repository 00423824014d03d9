//! One run, with everything that is known of it.

use std::process::ExitCode;

use imprint_proto::pb;
use serde_json::{Value, json};

use super::super::{minute, print_json, second, tell};
use super::Row;
use crate::arguments::Output;
use crate::client::Orchestrator;
use crate::failure::Outcome;
use crate::progress::{note, speed, state_word, time_left};
use crate::table::{Column, table_with_notes, thousands, time, width, wrap};

/// Events of a page, unless told otherwise: the newest.
const MAX_EVENTS: usize = 12;

/// A trainer that was silent for longer has something to be asked.
const LONG_SILENCE_MS: u64 = 5_000;

/// Where what is said of a subject begins.
const SUBJECT_WIDTH: usize = 10;

pub(super) async fn run(
    orchestrator: &Orchestrator,
    label: &str,
    all: bool,
    output: Output,
) -> Outcome {
    let run = orchestrator.run(label).await?;
    let most = match (all, output) {
        (false, Output::Table) => MAX_EVENTS,
        _ => usize::MAX,
    };
    let (mut events, has_more) = orchestrator.events(label, most).await?;
    events.reverse();
    match output {
        Output::Json => print_json(&as_json(&run, &events))?,
        Output::Table => {
            tell(as_text(label, &run, width()))?;
            if !run.attempts.is_empty() {
                tell(format_args!("\n{}", attempts(&run.attempts)))?;
            }
            tell(format_args!("\n{}", as_table(&events)))?;
            if has_more {
                eprintln!("there are older events; `--all` shows them");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A line or more on each subject, none longer than `width`.
fn as_text(label: &str, found: &pb::GetRunResponse, width: Option<usize>) -> String {
    let run = found.run.clone().unwrap_or_default();
    let mut text = vec![run.run.clone()];
    let mut say = |subject: &str, what: String| {
        let room = width.map_or(usize::MAX, |width| width.saturating_sub(SUBJECT_WIDTH));
        for (i, line) in wrap(&what, room).into_iter().enumerate() {
            let subject = if i == 0 { subject } else { "" };
            text.push(format!("{subject:SUBJECT_WIDTH$}{line}"));
        }
    };
    let ended = run.state().has_ended();
    let (word, since) = match run.state() {
        pb::RunState::Queued => (", submitted", Some(found.created_unix_ms)),
        _ if ended => (" at", found.finished_unix_ms),
        _ => (" since", found.started_unix_ms),
    };
    let since = since.map(|since| format!("{word} {} (UTC)", minute(since)));
    let ends = if found.cancel_requested && !ended {
        ", to be cancelled"
    } else {
        ""
    };
    let state = state_word(run.state());
    say(
        "state",
        format!("{state}{}{ends}", since.unwrap_or_default()),
    );
    let why = note(&run);
    if !why.is_empty() {
        say("why", why);
    }
    let mut steps = vec![format!("{} of {} updates", run.step, run.n_updates)];
    steps.extend(speed(&run).map(|speed| format!("{speed:.1} steps/s")));
    steps.extend(run.seconds_left.map(time_left));
    say("step", steps.join(", "));
    say(
        "readings",
        format!(
            "{} of {} stored",
            run.readings_stored, run.readings_expected
        ),
    );
    if run.priority != 0 {
        say("priority", run.priority.to_string());
    }
    if let Some(parent) = &found.parent {
        let state = state_word(parent.state());
        say(
            "parent",
            format!("step {} of {}, {state}", parent.step, parent.run),
        );
    }
    if let Some(job) = &found.job {
        say("job", of_job(job));
    }
    if let Some(attempt) = found.attempts.first().filter(|a| a.outcome.is_empty()) {
        say("trainer", of_trainer(attempt));
    }
    if let Some(log) = found.logs.first() {
        let n_more = found.logs.len() - 1;
        let more = if n_more > 0 {
            format!(" and {n_more} older")
        } else {
            String::new()
        };
        let (name, n_bytes) = (&log.name, thousands(log.n_bytes));
        say(
            "log",
            format!("{name} ({n_bytes} bytes){more}; `imprint logs {label}` shows it"),
        );
    }
    let others: Vec<String> = (found.names.iter())
        .filter(|name| name.run != run.run)
        .map(|name| match name.wanted {
            true => name.run.clone(),
            false => format!("{} (cancelled)", name.run),
        })
        .collect();
    if !others.is_empty() {
        say("also", others.join(", "));
    }
    text.join("\n")
}

fn of_job(job: &pb::Job) -> String {
    let mut words = vec![format!("{} of executor {}", job.job, job.executor)];
    words.extend(job.slot.map(|slot| format!("slot {slot}")));
    if !job.external_id.is_empty() {
        words.push(job.external_id.clone());
    }
    match (job.ended_unix_ms, job.alive_unix_ms) {
        (Some(ended), _) if job.outcome.is_empty() => {
            words.push(format!("ended {}", minute(ended)));
        }
        (Some(ended), _) => words.push(format!(
            "ended {}: the trainer {}",
            minute(ended),
            job.outcome
        )),
        (None, Some(alive)) => words.push(format!("alive since {}", minute(alive))),
        (None, None) => words.push(format!("asked for {}", minute(job.asked_unix_ms))),
    }
    if job.ended_unix_ms.is_none() {
        words.extend(
            job.stop_asked_unix_ms
                .map(|at| format!("asked to stop {}", minute(at))),
        );
        words.extend(
            job.kill_asked_unix_ms
                .map(|at| format!("killed {}", minute(at))),
        );
    }
    words.join(", ")
}

fn of_trainer(attempt: &pb::Attempt) -> String {
    let mut words = vec![format!("process {} on {}", attempt.pid, attempt.host)];
    if !attempt.machine.is_empty() {
        words.push(attempt.machine.clone());
    }
    let silent_ms = attempt.heartbeat_age_ms;
    if attempt.offline {
        words.push("out of reach".to_owned());
    } else if silent_ms > LONG_SILENCE_MS {
        words.push(format!("silent for {}", time(silent_ms / 1000)));
    }
    words.join(", ")
}

/// A row an attempt, the oldest first, with what ended it.
fn attempts(attempts: &[pb::Attempt]) -> String {
    let columns = [
        Column::Right("attempt"),
        Column::Left("began (UTC)"),
        Column::Right("step"),
        Column::Left("end"),
        Column::Name("host"),
    ];
    let rows = attempts.iter().rev().map(|attempt| {
        let end = match attempt.outcome.as_str() {
            "" if attempt.offline => "offline",
            "" => "open",
            outcome => outcome,
        };
        let cells = vec![
            attempt.attempt.to_string(),
            second(attempt.began_unix_ms),
            attempt.step.to_string(),
            end.to_owned(),
            attempt.host.clone(),
        ];
        (cells, attempt.reason.clone())
    });
    table_with_notes(&columns, "cause", rows)
}

fn as_table(events: &[pb::RunEvent]) -> String {
    let columns = [Column::Left("when (UTC)"), Column::Left("what")];
    let rows = events.iter().map(|event| {
        let what = event.kind.replace('_', " ");
        let of = match (event.attempt, event.job) {
            (Some(attempt), _) => format!("{what} ({attempt})"),
            (None, Some(job)) => format!("{what} ({job})"),
            (None, None) => what,
        };
        (
            vec![second(event.happened_unix_ms), of],
            event.detail.clone(),
        )
    });
    table_with_notes(&columns, "detail", rows)
}

/// Everything, for a program.
fn as_json(found: &pb::GetRunResponse, events: &[pb::RunEvent]) -> Value {
    let run = found.run.clone().unwrap_or_default();
    let mut page = json!(Row::from(&run));
    page["run_id"] = json!(run.run_id);
    page["names"] = found
        .names
        .iter()
        .map(|n| json!({"run": n.run, "wanted": n.wanted}))
        .collect();
    page["cancel_requested"] = json!(found.cancel_requested);
    page["created_unix_ms"] = json!(found.created_unix_ms);
    page["started_unix_ms"] = json!(found.started_unix_ms);
    page["finished_unix_ms"] = json!(found.finished_unix_ms);
    page["parent"] = json!(
        found
            .parent
            .as_ref()
            .map(|p| { json!({"run": p.run, "step": p.step, "state": state_word(p.state())}) })
    );
    page["job"] = json!(found.job.as_ref().map(|j| {
        json!({
            "job": j.job, "executor": j.executor, "slot": j.slot, "external_id": j.external_id,
            "asked_unix_ms": j.asked_unix_ms, "alive_unix_ms": j.alive_unix_ms,
            "stop_asked_unix_ms": j.stop_asked_unix_ms,
            "kill_asked_unix_ms": j.kill_asked_unix_ms,
            "ended_unix_ms": j.ended_unix_ms, "outcome": j.outcome,
        })
    }));
    let attempt = |a: &pb::Attempt| {
        json!({
            "attempt": a.attempt, "job": a.job, "host": a.host, "pid": a.pid, "device": a.device,
            "machine": a.machine, "offline": a.offline, "step": a.step,
            "steps_per_second": a.steps_per_second, "began_unix_ms": a.began_unix_ms,
            "heartbeat_age_ms": a.heartbeat_age_ms, "ended_unix_ms": a.ended_unix_ms,
            "outcome": a.outcome, "reason": a.reason,
        })
    };
    page["attempts"] = found.attempts.iter().map(attempt).collect();
    let log = |l: &pb::Log| {
        json!({
            "name": l.name, "job": l.job, "n_bytes": l.n_bytes,
            "changed_unix_ms": l.changed_unix_ms,
        })
    };
    page["logs"] = found.logs.iter().map(log).collect();
    let event = |e: &pb::RunEvent| {
        json!({
            "event": e.event, "happened_unix_ms": e.happened_unix_ms, "kind": e.kind,
            "attempt": e.attempt, "job": e.job, "detail": e.detail,
        })
    };
    page["events"] = events.iter().map(event).collect();
    page
}

#[cfg(test)]
mod tests;
