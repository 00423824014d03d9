//! What a process tells about itself: its log, numbers for Prometheus, whether it can do its work,
//! and traces of the steps that pass through it.
//!
//! It knows nothing of what is watched: roles register their own series and ask their own
//! questions.

mod log;
mod standing;
mod trace;
mod vitals;

pub use log::{Options, Telling, one_line};
pub use standing::{Standing, standing};
pub use trace::{STEP, Sampling, follow, traceparent};
#[doc(hidden)]
pub use tracing;
pub use vitals::Vitals;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("--log {filter}: {problem}")]
    Filter { filter: String, problem: String },
    #[error("--otlp-endpoint {endpoint}: {problem}")]
    Endpoint { endpoint: String, problem: String },
    #[error("describe the services for reflection")]
    Reflection {
        #[source]
        source: tonic_reflection::server::Error,
    },
}
