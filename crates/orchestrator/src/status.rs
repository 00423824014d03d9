//! Errors as the other side of a call sees them: a code that says what to do, and one line.

use imprint_store::Error as StoreError;
use imprint_telemetry::one_line;
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
            match error.is_permanent() {
                true => Status::failed_precondition(line),
                false => Status::internal(line),
            }
        }
    }
}
