//! Refusals as the other side of a call sees them: a code that says what to do, and details for
//! programs. `docs/security.md` lists the reasons.

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::Invalid;

/// In error details: who says it.
const DOMAIN: &str = "imprint.v1";

/// When to try again what was UNAVAILABLE.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A refusal with its reason and what it is about.
pub fn refused(
    code: Code,
    reason: &str,
    message: impl Into<String>,
    about: impl IntoIterator<Item = (&'static str, String)>,
) -> Status {
    Status::with_error_details(code, message, because(reason, about))
}

/// INVALID_ARGUMENT: what is wrong with a field of the request.
pub fn invalid(field: &str, problem: &str) -> Status {
    let line = format!("{field}: {problem}");
    violation("INVALID", field, problem, line)
}

/// INVALID_ARGUMENT: what is wrong with a field that is a file, in a line that names the place.
pub fn invalid_file(field: &str, line: &str) -> Status {
    violation("INVALID", field, line, line.to_owned())
}

/// INVALID_ARGUMENT: why what came on a stream is no message.
pub fn unreadable(problem: &str) -> Status {
    let line = format!("message: {problem}");
    violation(UNREADABLE, "message", problem, line)
}

/// Whether a status says that what came is no message.
pub fn is_unreadable(status: &Status) -> bool {
    let info = status.get_details_error_info();
    info.is_some_and(|info| info.reason == UNREADABLE)
}

const UNREADABLE: &str = "UNREADABLE";

/// NOT_FOUND, in a line that names what there is not.
pub fn not_found(line: impl Into<String>) -> Status {
    refused(Code::NotFound, "NOT_FOUND", line, [])
}

/// UNAVAILABLE, with the time after which to call again.
pub fn unavailable(reason: &str, line: &str) -> Status {
    let mut details = because(reason, []);
    details.set_retry_info(Some(RETRY_AFTER));
    Status::with_error_details(Code::Unavailable, line, details)
}

/// INTERNAL: nobody's fault but the service's.
pub fn internal(line: impl Into<String>) -> Status {
    refused(Code::Internal, "INTERNAL", line, [])
}

impl From<Invalid> for Status {
    fn from(Invalid { field, problem }: Invalid) -> Self {
        invalid(field, &problem)
    }
}

fn violation(reason: &str, field: &str, problem: &str, line: String) -> Status {
    let mut details = because(reason, []);
    details.add_bad_request_violation(field, problem);
    Status::with_error_details(Code::InvalidArgument, line, details)
}

fn because(reason: &str, about: impl IntoIterator<Item = (&'static str, String)>) -> ErrorDetails {
    let about = about
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value));
    ErrorDetails::with_error_info(reason, DOMAIN, about.collect::<HashMap<_, _>>())
}
