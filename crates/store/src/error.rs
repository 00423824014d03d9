//! What can go wrong in the database, and whether trying again later may help.

use std::io;
use std::path::{Path, PathBuf};

use sqlx::error::ErrorKind;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the database URL cannot be read (want postgres://user@host:port/database)")]
    Url {
        #[source]
        source: sqlx::Error,
    },
    #[error("Postgres is down at {address}")]
    Connect {
        address: String,
        #[source]
        source: sqlx::Error,
    },
    #[error("Postgres at {address} refuses the connection")]
    Refused {
        address: String,
        #[source]
        source: sqlx::Error,
    },
    #[error("bring the database schema up to date, as the role that owns it")]
    Migrate {
        #[source]
        source: sqlx::migrate::MigrateError,
    },
    /// It is of another version than this program, or not there at all.
    #[error("the database schema {problem}")]
    Schema { problem: String },
    #[error("the database takes no changes: it is read-only, as a standby is")]
    ReadOnly,
    /// A query failed.
    #[error("{doing}")]
    Query {
        doing: String,
        #[source]
        source: sqlx::Error,
    },
    /// What is stored is not what this version of the program writes.
    #[error("{what} is not what it should be: {problem}")]
    Corrupt { what: String, problem: String },
    #[error("{doing} {path}")]
    File {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("there is no {what}")]
    NotFound { what: String },
    #[error("{field}: {problem}")]
    Invalid {
        field: &'static str,
        problem: String,
    },
    /// Another attempt took the run over, or this one was ended.
    #[error("attempt {attempt} of run {run} is not its current one")]
    StaleAttempt { run: i32, attempt: u32 },
    /// Another orchestrator took over: this one may change nothing any more.
    #[error("another orchestrator leads")]
    NotLeading,
}

impl Error {
    /// For `map_err`: the failure of a query, with what it was for.
    pub fn doing(what: impl Into<String>) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| Self::Query {
            doing: what.into(),
            source,
        }
    }

    /// For `map_err`: what was being done to a file.
    pub(crate) fn file(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File {
            doing,
            path: path.to_owned(),
            source,
        }
    }

    /// Whether the database could not be reached or went away, so that the same call may succeed
    /// later.
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Connect { source, .. }
            | Self::Refused { source, .. }
            | Self::Query { source, .. } => is_unavailable(source),
            Self::Migrate {
                source: sqlx::migrate::MigrateError::Execute(source),
            } => is_unavailable(source),
            Self::ReadOnly => true,
            _ => false,
        }
    }

    /// Whether the same call would fail again for as long as nobody repairs what is stored, the
    /// schema or a permission.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Corrupt { .. } => true,
            Self::Query { source, .. } => match source {
                // Class 22: a value that cannot be; 23: a broken constraint; 42: a missing table,
                // column or permission.
                sqlx::Error::Database(e) => e
                    .code()
                    .is_some_and(|code| ["22", "23", "42"].iter().any(|c| code.starts_with(c))),
                sqlx::Error::RowNotFound
                | sqlx::Error::TypeNotFound { .. }
                | sqlx::Error::ColumnNotFound(_)
                | sqlx::Error::ColumnDecode { .. }
                | sqlx::Error::Decode(_)
                | sqlx::Error::Encode(_) => true,
                _ => false,
            },
            _ => false,
        }
    }

    /// Whether a query failed because a row with the same key was there already.
    pub fn is_unique_violation(&self) -> bool {
        matches!(self, Self::Query { source: sqlx::Error::Database(e), .. }
            if e.kind() == ErrorKind::UniqueViolation)
    }
}

fn is_unavailable(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        // Class 08: the connection broke; 25006: a standby that does not write; 40: a deadlock or
        // serialization failure, to be repeated; 53: out of connections, memory or disk; 57: an
        // operator (or a crash) ended it; 58: the disk does not do as it is told; 55P03: somebody
        // holds what is wanted for long.
        sqlx::Error::Database(e) => e.code().is_some_and(|code| {
            ["08", "25006", "40", "53", "55P03", "57", "58"]
                .iter()
                .any(|c| code.starts_with(c))
        }),
        _ => false,
    }
}
