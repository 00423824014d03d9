//! `imprint token`: who may call the services.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use chrono::{DateTime, Utc};
use imprint_access::{NewUserToken, Scope};
use imprint_store::tokens::Token;
use imprint_telemetry::one_line;
use serde::Serialize;

use super::{print_json, tell};
use crate::arguments::Output;
use crate::database::Database;
use crate::failure::{Failure, Outcome};
use crate::place::Place;
use crate::table::{Column, table};

/// Make, list and revoke the tokens that let people and their programs in.
///
/// Works on the database itself, as everything that opens it does: on the machine of the private one,
/// or with DATABASE_URL. Trainers need none of these, they get their own.
///
/// Example: `imprint token create anna --scope read,submit --expires 90d --out anna.token`
#[derive(Debug, clap::Subcommand)]
#[command(verbatim_doc_comment)]
pub(crate) enum Action {
    /// Make a token, and show it this once: what is kept is its hash.
    Create {
        /// What it is called when it is listed and revoked.
        name: String,
        /// What it is good for: `read`, `submit` (submit, cancel, retry), `write` (deliver readings
        /// in a trainer's place).
        #[arg(
            long,
            value_name = "SCOPES",
            value_delimiter = ',',
            default_value = "read,submit"
        )]
        scope: Vec<Scope>,
        /// How long it is good: such as 12h, 90d or `never`.
        #[arg(long, value_name = "TIME", default_value = "90d", value_parser = lifetime)]
        expires: Lifetime,
        /// Write it into a new file that only you can read, and print nothing.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Make a token good for nothing, from the next call on.
    Revoke {
        /// What it is called.
        name: String,
    },
    /// List every token that was ever made: its name, what it is good for, and when it was used.
    List {
        /// A table for people, or JSON for programs.
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
}

/// How long a token is good; `None` for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lifetime(Option<Duration>);

/// A number and `m`, `h`, `d` or `w`; or `never`.
fn lifetime(text: &str) -> Result<Lifetime, String> {
    let wrong = || format!("`{text}` is no time such as 30m, 12h, 90d, 4w or never");
    if text == "never" {
        return Ok(Lifetime(None));
    }
    let at = text.len() - text.chars().next_back().map_or(0, char::len_utf8);
    let (n, unit) = text.split_at(at);
    let n: u64 = n.parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        "w" => 7 * 24 * 3600,
        _ => return Err(wrong()),
    };
    // Beyond a century it is a mistake.
    let lasts = n
        .checked_mul(seconds)
        .filter(|&s| s > 0 && s < 100 * 366 * 24 * 3600);
    let lasts = lasts.ok_or_else(wrong)?;
    Ok(Lifetime(Some(Duration::from_secs(lasts))))
}

#[derive(Serialize)]
struct Row {
    name: String,
    scopes: Vec<&'static str>,
    standing: &'static str,
    created_at: DateTime<Utc>,
    expires_at: Option<DateTime<Utc>>,
    revoked_at: Option<DateTime<Utc>>,
    /// To the hour.
    last_used_at: Option<DateTime<Utc>>,
}

impl From<Token> for Row {
    fn from(token: Token) -> Self {
        Self {
            name: token.name,
            scopes: token.scopes.iter().map(|s| s.as_str()).collect(),
            standing: token.standing.as_str(),
            created_at: token.created_at,
            expires_at: token.expires_at,
            revoked_at: token.revoked_at,
            last_used_at: token.last_used_at,
        }
    }
}

pub(crate) async fn run(place: &Place, action: Action) -> Outcome {
    let database = Database::provide(place).await?;
    let done = act(&database, action).await;
    database.close().await?;
    done.map(|()| ExitCode::SUCCESS)
}

async fn act(database: &Database, action: Action) -> Result<(), Failure> {
    let store = &database.store;
    match action {
        Action::Create {
            name,
            mut scope,
            expires: Lifetime(lasts),
            out,
        } => {
            scope.sort_unstable();
            scope.dedup();
            let token = NewUserToken::generate();
            if let Some(path) = &out {
                // First: a token that nobody has got would be in the way of the next try.
                token
                    .secret
                    .create(path)
                    .map_err(|e| Failure::bad_input(one_line(&e)))?;
            }
            let kept = store
                .create_token(&name, &token.sha256, &scope, lasts)
                .await;
            match (kept, &out) {
                (Ok(_), None) => tell(token.secret.expose()),
                (Ok(_), Some(path)) => {
                    eprintln!("the token `{name}` is in {}", path.display());
                    Ok(())
                }
                (Err(error), out) => {
                    if let Some(path) = out {
                        let _ = std::fs::remove_file(path);
                    }
                    Err(error.into())
                }
            }
        }
        Action::Revoke { name } => match store.revoke_token(&name).await? {
            true => Ok(()),
            false => Err(Failure::bad_input(format!(
                "there is no token `{name}` that is not revoked; `imprint token list` names them"
            ))),
        },
        Action::List { output } => {
            let rows: Vec<Row> = store.tokens().await?.into_iter().map(Row::from).collect();
            match output {
                Output::Json => print_json(&rows),
                Output::Table if rows.is_empty() => {
                    tell("no token yet; `imprint token create NAME` makes one")
                }
                Output::Table => tell(as_table(&rows)),
            }
        }
    }
}

fn as_table(rows: &[Row]) -> String {
    let columns = [
        Column::Left("token"),
        Column::Left("scopes"),
        Column::Left(""),
        Column::Left("created (UTC)"),
        Column::Left("expires"),
        Column::Left("last used"),
    ];
    let minute = |at: Option<DateTime<Utc>>, otherwise: &str| match at {
        Some(at) => at.format("%Y-%m-%d %H:%M").to_string(),
        None => otherwise.to_owned(),
    };
    let cells = rows.iter().map(|row| {
        vec![
            row.name.clone(),
            row.scopes.join(","),
            row.standing.to_owned(),
            minute(Some(row.created_at), ""),
            minute(row.expires_at, "never"),
            minute(row.last_used_at, "–"),
        ]
    });
    table(&columns, cells)
}

#[cfg(test)]
mod tests;
