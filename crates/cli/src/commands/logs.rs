//! `imprint logs`: what a run's trainers said.

use std::io::{self, Write as _};
use std::ops::ControlFlow;
use std::process::ExitCode;

use imprint_proto::pb;

use crate::client::Orchestrator;
use crate::failure::{Failure, Outcome};
use crate::place::Place;

/// Show what a run's trainer said.
///
/// Each trainer process of a run has a log; the newest is shown, on standard output. With `--follow`
/// what is added is shown too, and the next trainer's log when another one starts, until the run has
/// ended; while the run waits, standard error says why. Trainers that were not started by this
/// orchestrator have their logs elsewhere.
///
/// Example: `imprint logs mine/late-once-b32-s0 -f -n 20`
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Arguments {
    /// The run (`experiment/cell`).
    run: String,
    /// Go on as the run does.
    #[arg(long, short)]
    follow: bool,
    /// Begin with the last so many lines.
    #[arg(long, short = 'n', value_name = "NUMBER")]
    lines: Option<u32>,
    /// The log of this attempt's trainer, and no other.
    #[arg(long, value_name = "NUMBER")]
    attempt: Option<u32>,
}

pub(crate) async fn run(place: &Place, arguments: Arguments) -> Outcome {
    let orchestrator = Orchestrator::connect(place).await?;
    let log = match arguments.attempt {
        None => String::new(),
        Some(attempt) => {
            let run = orchestrator.run(&arguments.run).await?;
            log_of(&run, attempt)
                .map_err(|why| Failure::bad_input(format!("{}: {why}", arguments.run)))?
        }
    };
    let request = pb::ReadLogRequest {
        run: arguments.run,
        log,
        tail_lines: arguments.lines,
        follow: arguments.follow,
        at: None,
    };
    let mut shown = String::new();
    let said = orchestrator.log(request, |piece| show(&piece, &mut shown));
    said.await?;
    Ok(ExitCode::SUCCESS)
}

/// The newest log of an attempt's trainer, or why there is none.
fn log_of(run: &pb::GetRunResponse, attempt: u32) -> Result<String, String> {
    let found = run.attempts.iter().find(|a| a.attempt == attempt);
    let found = found.ok_or_else(|| match run.attempts.first() {
        None => "no trainer has begun it yet".to_owned(),
        Some(last) => format!(
            "there is no attempt {attempt}; the last is {}",
            last.attempt
        ),
    })?;
    let job = found.job.ok_or_else(|| {
        format!(
            "the trainer of attempt {attempt} was started by hand on {}",
            found.host
        )
    })?;
    let log = run.logs.iter().find(|log| log.job == Some(job));
    let log = log.ok_or_else(|| format!("there is no log of attempt {attempt} (job {job})"))?;
    Ok(log.name.clone())
}

fn show(piece: &pb::ReadLogResponse, shown: &mut String) -> Result<ControlFlow<()>, Failure> {
    if !piece.waiting.is_empty() {
        let what = match piece.log.is_empty() {
            true => "no log yet",
            false => "the run waits",
        };
        eprintln!("{what}: {}", piece.waiting);
        return Ok(ControlFlow::Continue(()));
    }
    if piece.log != *shown {
        if !shown.is_empty() {
            eprintln!("==> {} <==", piece.log);
        }
        shown.clone_from(&piece.log);
    }
    let mut stdout = io::stdout().lock();
    match stdout.write_all(&piece.text).and_then(|()| stdout.flush()) {
        // Who reads it has had enough.
        Err(err) if err.kind() == io::ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(err) => Err(Failure::doing("write to stdout")(err)),
        Ok(()) => Ok(ControlFlow::Continue(())),
    }
}

#[cfg(test)]
mod tests;
