//! One module a command.

pub(crate) mod analyze;
pub(crate) mod bench;
pub(crate) mod cancel;
pub(crate) mod db;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod export;
pub(crate) mod figure;
pub(crate) mod import;
pub(crate) mod list;
pub(crate) mod logs;
mod machine;
pub(crate) mod priority;
pub(crate) mod reproduce;
pub(crate) mod results;
pub(crate) mod retry;
pub(crate) mod serve;
pub(crate) mod sql;
pub(crate) mod status;
pub(crate) mod submit;
pub(crate) mod take;
pub(crate) mod token;
pub(crate) mod up;
pub(crate) mod verify;
pub(crate) mod watch;

use std::fmt;
use std::io::{self, Write as _};

use chrono::{DateTime, Utc};
use serde::Serialize;

use self::serve::Role;
use crate::arguments::{Arguments, Command};
use crate::failure::{Failure, Outcome};

/// Runs the command that was typed.
pub(crate) async fn run(arguments: Arguments) -> Outcome {
    let Arguments {
        place,
        telemetry,
        command,
    } = arguments;
    let (service, logged) = match &command {
        Command::Up(_) => ("imprint", "info,sqlx=warn"),
        Command::Serve(Role::Metrics { .. }) => ("imprint-metrics", "info,sqlx=warn"),
        Command::Serve(Role::Orchestrator { .. }) => ("imprint-orchestrator", "info,sqlx=warn"),
        // To sqlx a statement whose rows are written to a file one by one is a slow one.
        _ => ("imprint", "warn,sqlx=error"),
    };
    let _telling = telemetry.start(service, logged)?;
    match command {
        Command::Up(arguments) => up::run(&place, &telemetry, arguments).await,
        Command::Serve(role) => serve::run(&place, &telemetry, role).await,
        Command::Submit(arguments) => submit::run(&place, arguments).await,
        Command::List(arguments) => list::run(&place, arguments).await,
        Command::Status(arguments) => status::run(&place, arguments).await,
        Command::Watch(arguments) => watch::run(&place, arguments).await,
        Command::Logs(arguments) => logs::run(&place, arguments).await,
        Command::Cancel(arguments) => cancel::run(&place, arguments).await,
        Command::Retry(arguments) => retry::run(&place, arguments).await,
        Command::Priority(arguments) => priority::run(&place, arguments).await,
        Command::Results(arguments) => results::run(&place, arguments).await,
        Command::Analyze(arguments) => analyze::run(&place, arguments).await,
        Command::Figure(arguments) => figure::run(&place, arguments).await,
        Command::Take(arguments) => take::run(&place, arguments).await,
        Command::Export(arguments) => export::run(&place, arguments).await,
        Command::Import(arguments) => import::run(&place, arguments).await,
        Command::Reproduce(arguments) => reproduce::run(&place, arguments).await,
        Command::Verify(arguments) => verify::run(&place, arguments).await,
        Command::Db(command) => db::run(&place, command).await,
        Command::Sql(arguments) => sql::run(&place, arguments).await,
        Command::Doctor(arguments) => doctor::run(&place, arguments).await,
        Command::Token(action) => token::run(&place, action).await,
        Command::Bench(command) => bench::run(&place, command).await,
        Command::Demo(arguments) => demo::run(&telemetry, arguments).await,
    }
}

/// Prints a line or more of the answer.
///
/// A reader that has gone, such as `head`, has had enough: that is no error.
///
/// # Errors
/// When stdout cannot be written for another reason.
fn tell(text: impl fmt::Display) -> Result<(), Failure> {
    match writeln!(io::stdout(), "{text}") {
        Err(err) if err.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::doing("write to stdout")(err))
        }
        _ => Ok(()),
    }
}

/// So many of what was done are named; of more it is enough how many there are.
const MAX_TOLD: usize = 20;

/// Prints what became of each run, or that there is none.
fn tell_each(runs: &[String], what: &str, none: &str) -> Result<(), Failure> {
    if runs.is_empty() {
        return tell(none);
    }
    for run in &runs[..runs.len().min(MAX_TOLD)] {
        tell(format_args!("{run}  {what}"))?;
    }
    match runs.len().checked_sub(MAX_TOLD) {
        Some(n) if n > 0 => tell(format_args!("and {n} more  {what}")),
        _ => Ok(()),
    }
}

/// A time as people read it, to the minute; empty where there is none.
fn minute(unix_ms: impl Into<Option<i64>>) -> String {
    at(unix_ms.into(), "%Y-%m-%d %H:%M")
}

/// The same to the second.
fn second(unix_ms: impl Into<Option<i64>>) -> String {
    at(unix_ms.into(), "%Y-%m-%d %H:%M:%S")
}

fn at(unix_ms: Option<i64>, format: &str) -> String {
    let at = unix_ms.and_then(DateTime::<Utc>::from_timestamp_millis);
    at.map(|at| at.format(format).to_string())
        .unwrap_or_default()
}

/// Prints an answer for a program.
fn print_json(answer: &impl Serialize) -> Result<(), Failure> {
    tell(serde_json::to_string_pretty(answer).expect("answers are plain data"))
}
