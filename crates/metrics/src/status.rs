//! Errors as a client sees them.

use imprint_proto::status::{invalid, refused};
use imprint_store::Error;
use imprint_store::ingest::Refusal;
use imprint_telemetry::one_line;
use tonic::{Code, Status};

/// A failed query's status; what is nobody's fault but ours is logged here.
pub(crate) fn from_store(error: &Error) -> Status {
    let status = imprint_access::from_store(error);
    if matches!(status.code(), Code::FailedPrecondition | Code::Internal) {
        tracing::error!(error = one_line(error), "a request failed");
    }
    status
}

pub(crate) fn from_refusal(refusal: &Refusal) -> Status {
    let gap = |expected: u32, reason| {
        let about = [("expected", expected.to_string())];
        refused(Code::OutOfRange, reason, refusal.to_string(), about)
    };
    match refusal {
        Refusal::ReadingGap { expected, .. } => gap(*expected, "READING_GAP"),
        Refusal::UpdateGap { expected, .. } => gap(*expected, "UPDATE_GAP"),
        Refusal::Invalid { field, problem } => invalid(field, problem),
    }
}
