//! What a process tells about itself: its log, numbers for Prometheus, and whether it can do its
//! work.
//!
//! It knows nothing of what is watched: roles register their own series and ask their own
//! questions.

mod log;
mod standing;
mod vitals;

pub use log::{LogFormat, Options, one_line};
pub use standing::{Standing, standing};
pub use vitals::Vitals;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("--log {filter}: {problem}")]
    Filter { filter: String, problem: String },
    #[error("describe the services for reflection")]
    Reflection {
        #[source]
        source: tonic_reflection::server::Error,
    },
}
