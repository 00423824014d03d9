//! A failed query as the other side of a call sees it: what to do about it, and nothing of the SQL.

use imprint_proto::status::{internal, invalid, not_found, refused, unavailable};
use imprint_store::Error;
use tonic::{Code, Status};

/// The status of a failed query; INTERNAL and FAILED_PRECONDITION are for the service to log.
pub fn from_store(error: &Error) -> Status {
    match error {
        Error::NotFound { .. } => not_found(error.to_string()),
        Error::Invalid { field, problem } => invalid(field, problem),
        Error::StaleAttempt { run, attempt } => refused(
            Code::Aborted,
            "STALE_ATTEMPT",
            error.to_string(),
            [
                ("run_id", run.to_string()),
                ("attempt", attempt.to_string()),
            ],
        ),
        _ if error.is_unavailable() => {
            unavailable("DATABASE_UNAVAILABLE", "the database cannot be reached")
        }
        // Sending the same again would fail again.
        _ if error.is_permanent() => refused(
            Code::FailedPrecondition,
            "NEEDS_REPAIR",
            in_the_log(error),
            [],
        ),
        _ => internal(in_the_log(error)),
    }
}

fn in_the_log(error: &Error) -> String {
    format!("{error}: the service's log says why it failed")
}
