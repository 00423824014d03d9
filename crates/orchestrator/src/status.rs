//! Errors as the other side of a call sees them: a code that says what to do, and one line.

use std::error::Error;

use imprint_store::Error as StoreError;
use tonic::Status;

pub(crate) fn invalid(line: impl Into<String>) -> Status {
    Status::invalid_argument(line)
}

/// A failed query's status; what is nobody's fault but ours is logged here.
#[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` wants")]
pub(crate) fn from_store(error: StoreError) -> Status {
    let line = one_line(&error);
    match error {
        StoreError::StaleAttempt { .. } => Status::aborted(line),
        StoreError::NotFound { .. } => Status::not_found(line),
        _ if error.is_unavailable() => {
            Status::unavailable(format!("the database cannot be reached: {line}"))
        }
        _ => {
            tracing::error!("{line}");
            Status::internal(line)
        }
    }
}

/// An error with what caused it, each said once.
pub(crate) fn one_line(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !line.contains(&said) {
            line = format!("{line}: {said}");
        }
        source = cause.source();
    }
    line
}
