//! `imprint reproduce`: a run as an experiment file, with what is recorded of it, or once more.

use std::fmt::Write as _;
use std::process::ExitCode;

use chrono::{DateTime, Utc};
use imprint_core::{RunSpec, SpecHash};
use imprint_proto::pb;
use imprint_store::Store;
use imprint_store::runs::{RecordedAttempt, RecordedRun};
use serde_json::Value;
use uuid::Uuid;

use super::{submit, tell};
use crate::client::Orchestrator;
use crate::database::Database;
use crate::failure::{Failure, Outcome};
use crate::place::Place;

/// Print a run as an experiment file that has this run and no other, or do the run again.
///
/// The file says every setting in full, where the run's files were and which SHA-256 they have to
/// have: submitted as it is, it gives a run of the same hash, or is refused. Above it stand, as
/// comments, the hash and the record of each attempt: revision and binary of the trainer, device,
/// versions, times. Files are looked at when it is submitted only.
///
/// A run that is there is not made again by submitting it. `--submit` therefore gives it the
/// smallest `repeat` that is not there yet: a number that makes it another run and changes nothing
/// of what it does. `imprint verify RUN --against OTHER` compares the two once they are complete.
///
/// Example: `imprint reproduce mine/late-once-b32-s0 > again.toml`
/// or `imprint reproduce mine/late-once-b32-s0 --submit`
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Arguments {
    /// The run (`experiment/cell`), or its hash.
    run: String,
    /// Submit the run once more rather than print it.
    #[arg(long)]
    submit: bool,
    /// Name of the experiment [default: `again-` and the beginning of the run's hash].
    #[arg(long)]
    name: Option<String>,
}

pub(crate) async fn run(place: &Place, arguments: Arguments) -> Outcome {
    let database = Database::open(place).await?;
    let file = prepare(&database.store, &arguments).await;
    database.close().await?;
    let File {
        name,
        toml,
        hash,
        label,
    } = file?;
    if !arguments.submit {
        tell(toml.trim_end())?;
        return Ok(ExitCode::SUCCESS);
    }
    let here = std::env::current_dir().map_err(Failure::doing("find the current directory"))?;
    let request = pb::SubmitExperimentRequest {
        request_id: Uuid::new_v4().to_string(),
        toml,
        file: format!("{name}.toml"),
        base_dir: here.display().to_string(),
        dry_run: false,
        tokens_per_second: None,
    };
    let submitted = Orchestrator::connect(place).await?.submit(request).await?;
    tell(submit::as_table(&submitted.runs))?;
    for warning in &submitted.warnings {
        eprintln!("warning: {warning}");
    }
    match submitted.runs.as_slice() {
        [run] if run.hash == hash.0 => {
            eprintln!(
                "once it is complete, `imprint verify {label} --against {}` compares the two",
                run.run
            );
            Ok(ExitCode::SUCCESS)
        }
        _ => Err(Failure::failed(format!(
            "the orchestrator made another run of it than {hash}: it is of another version than \
             this program"
        ))),
    }
}

/// An experiment file of one run.
struct File {
    name: String,
    toml: String,
    /// The run's.
    hash: SpecHash,
    /// Of the run that it does again.
    label: String,
}

async fn prepare(store: &Store, arguments: &Arguments) -> Result<File, Failure> {
    let recorded = store.recorded_run(&arguments.run).await?;
    let first = repeated(&recorded.spec, 0);
    let name = match &arguments.name {
        Some(name) => name.clone(),
        None => format!("again-{}", &first.identity.hash().0[..12]),
    };
    let mut spec = recorded.spec.clone();
    if arguments.submit {
        // Another machine, or the same on another day, would choose other rows: last digits differ.
        if let Some(settled) = &recorded.settled {
            let rows = &mut spec.identity.training.micro_batch_rows;
            rows.get_or_insert(settled.micro_batch_rows);
        }
        let mut repeat = 1;
        while store
            .has_run(&repeated(&spec, repeat).identity.hash())
            .await?
        {
            repeat += 1;
        }
        spec = repeated(&spec, repeat);
    } else if spec.identity.hash() != recorded.hash {
        eprintln!(
            "warning: {} was made by another version, which gave it the hash {}; submitted to \
             this one it has {}",
            recorded.label,
            recorded.hash,
            spec.identity.hash()
        );
    }
    Ok(File {
        toml: comments(&recorded) + "\n" + &spec.experiment_file(&name),
        name,
        hash: spec.identity.hash(),
        label: recorded.label,
    })
}

fn repeated(spec: &RunSpec, repeat: u32) -> RunSpec {
    let mut spec = spec.clone();
    spec.identity.repeat = repeat;
    spec
}

/// What is recorded of a run beside its configuration, as comments.
fn comments(run: &RecordedRun) -> String {
    let mut text = String::new();
    let mut line = |words: String| {
        // Nothing that is recorded may end the comment.
        let words: String = words.chars().filter(|c| !c.is_control()).collect();
        let _ = writeln!(text, "{}", format!("# {words}").trim_end());
    };
    line(format!("{}, {}", run.label, run.state.as_str()));
    line(format!("hash: {}", run.hash));
    if let Some(parent) = &run.parent {
        line(format!(
            "starts from: {parent}, which has to be there (`imprint reproduce {parent}`)"
        ));
    }
    if let Some(settled) = &run.settled {
        line(format!(
            "settled: {}",
            words(&serde_json::to_value(settled).unwrap_or_default())
        ));
    }
    for attempt in &run.attempts {
        line(String::new());
        line(in_words(attempt));
        let fields = attempt.record.as_ref().and_then(Value::as_object);
        match fields {
            None => line("  (its trainer recorded nothing of itself)".to_owned()),
            Some(fields) => {
                for (key, value) in fields {
                    line(format!("  {key}: {}", words(value)));
                }
            }
        }
    }
    text
}

fn in_words(attempt: &RecordedAttempt) -> String {
    let RecordedAttempt {
        attempt,
        host,
        device,
        threads,
        machine,
        first_step,
        step,
        began_at,
        ended_at,
        outcome,
        record: _,
    } = attempt;
    let at = |time: &DateTime<Utc>| time.format("%Y-%m-%d %H:%M:%S UTC").to_string();
    let outcome = outcome.as_deref().unwrap_or("not ended");
    let first_step = first_step.unwrap_or(0);
    let until = match ended_at {
        None => String::new(),
        Some(ended_at) => {
            let seconds = (*ended_at - *began_at).as_seconds_f64();
            format!(" – {}, {seconds:.1} s", at(ended_at))
        }
    };
    format!(
        "attempt {attempt}: {outcome}, steps {first_step}–{step}, {}{until}; on {host}, {device}, \
         {threads} thread(s), {machine}",
        at(began_at)
    )
}

/// A value in one line.
fn words(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(words).collect::<Vec<_>>().join(", "),
        Value::Object(fields) => {
            let fields = fields.iter();
            let fields = fields.map(|(key, value)| format!("{key} {}", words(value)));
            fields.collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests;
