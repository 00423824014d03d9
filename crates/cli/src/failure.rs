//! Why a command ended, in one line, and the exit code that says which kind of reason it is.

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

use imprint_telemetry::one_line;
use tonic::{Code, Status};

pub(crate) type Outcome = Result<ExitCode, Failure>;

/// The exit codes of every command but 0, as `--help` documents them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A run failed, a verification is not clean, or something broke that should not.
    Failed = 1,
    /// Wrong arguments or bad input: the same call fails again.
    BadInput = 2,
    /// A service or the database does not answer: the same call may succeed later.
    Unreachable = 3,
}

/// What a failed command prints and exits with.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: Kind,
    message: String,
}

impl Failure {
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Kind::Failed, message)
    }

    pub(crate) fn bad_input(message: impl Into<String>) -> Self {
        Self::new(Kind::BadInput, message)
    }

    pub(crate) fn unreachable(message: impl Into<String>) -> Self {
        Self::new(Kind::Unreachable, message)
    }

    fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    /// For `map_err`: what was being done, and the whole chain of why it failed.
    pub(crate) fn doing<E: Error>(what: impl fmt::Display) -> impl FnOnce(E) -> Self {
        move |error| Self::failed(format!("{what}: {}", one_line(&error)))
    }

    /// A refused or failed call of a service that has answered before.
    pub(crate) fn of_call(status: &Status, service: &str, url: &str) -> Self {
        // A broken connection says why only in its cause.
        let broken = status.source().map(one_line);
        match status.code() {
            Code::Unknown | Code::Unavailable if broken.is_some() => Self::unreachable(format!(
                "the {service} service at {url}: {}",
                broken.unwrap_or_default()
            )),
            Code::Unavailable => Self::unreachable(format!(
                "the {service} service at {url} cannot answer now: {}",
                status.message()
            )),
            Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::Unauthenticated
            | Code::PermissionDenied
            | Code::FailedPrecondition => Self::bad_input(status.message()),
            code => Self::failed(format!(
                "the {service} service at {url}: {} ({code:?})",
                status.message()
            )),
        }
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.kind as u8)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<imprint_store::Error> for Failure {
    fn from(error: imprint_store::Error) -> Self {
        let message = one_line(&error);
        let kind = match error {
            _ if error.is_unavailable() => Kind::Unreachable,
            imprint_store::Error::Url { .. }
            | imprint_store::Error::NotFound { .. }
            | imprint_store::Error::Invalid { .. } => Kind::BadInput,
            _ => Kind::Failed,
        };
        Self::new(kind, message)
    }
}

impl From<imprint_telemetry::Error> for Failure {
    fn from(error: imprint_telemetry::Error) -> Self {
        Self::bad_input(one_line(&error))
    }
}
