//! Errors as the other side of a call sees them: a code that says what to do, and one line.

use imprint_proto::status::invalid_file;
use imprint_store::Error as StoreError;
use imprint_telemetry::one_line;
use tonic::{Code, Status};

/// What is wrong with an experiment, in a line that names the place in its file.
pub(crate) fn invalid_experiment(line: impl AsRef<str>) -> Status {
    invalid_file("toml", line.as_ref())
}

/// A failed query's status; what is nobody's fault but ours is logged here.
#[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` wants")]
pub(crate) fn from_store(error: StoreError) -> Status {
    let status = imprint_access::from_store(&error);
    if matches!(status.code(), Code::FailedPrecondition | Code::Internal) {
        tracing::error!(error = one_line(&error), "a call failed");
    }
    status
}
