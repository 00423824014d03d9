//! Errors as a client sees them: a code that says what to do, and details for programs.

use std::collections::HashMap;
use std::time::Duration;

use imprint_store::Error;
use imprint_store::ingest::Refusal;
use imprint_telemetry::one_line;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// In error details: who says it.
const DOMAIN: &str = "imprint.v1.Metrics";

/// When to try again while the database is away.
const RETRY_AFTER: Duration = Duration::from_secs(1);

pub(crate) fn from_store(error: &Error) -> Status {
    if error.is_unavailable() {
        return unavailable("the database cannot be reached");
    }
    let message = error.to_string();
    match error {
        Error::NotFound { .. } => detailed(Code::NotFound, message, "NOT_FOUND", []),
        Error::Invalid { field, problem } => invalid(field, problem),
        Error::StaleAttempt { run, attempt } => {
            let about = [
                ("run_id", run.to_string()),
                ("attempt", attempt.to_string()),
            ];
            detailed(Code::Aborted, message, "STALE_ATTEMPT", about)
        }
        _ => {
            let error_chain = one_line(error);
            tracing::error!(error = error_chain, "a request failed");
            if error.is_permanent() {
                // Sending the same again would fail again.
                Status::failed_precondition(error_chain)
            } else {
                Status::internal(message)
            }
        }
    }
}

pub(crate) fn from_refusal(refusal: &Refusal) -> Status {
    let message = refusal.to_string();
    let gap = |expected: u32, reason| {
        let about = [("expected", expected.to_string())];
        detailed(Code::OutOfRange, message.clone(), reason, about)
    };
    match refusal {
        Refusal::ReadingGap { expected, .. } => gap(*expected, "READING_GAP"),
        Refusal::UpdateGap { expected, .. } => gap(*expected, "UPDATE_GAP"),
        Refusal::Invalid { field, problem } => invalid(field, problem),
    }
}

pub(crate) fn invalid(field: &str, problem: &str) -> Status {
    Status::with_error_details(
        Code::InvalidArgument,
        format!("{field}: {problem}"),
        ErrorDetails::with_bad_request_violation(field, problem),
    )
}

pub(crate) fn unavailable(message: &str) -> Status {
    Status::with_error_details(
        Code::Unavailable,
        message,
        ErrorDetails::with_retry_info(Some(RETRY_AFTER)),
    )
}

fn detailed<const N: usize>(
    code: Code,
    message: String,
    reason: &str,
    about: [(&str, String); N],
) -> Status {
    let about: HashMap<String, String> = about
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
    let details = ErrorDetails::with_error_info(reason, DOMAIN, about);
    Status::with_error_details(code, message, details)
}
