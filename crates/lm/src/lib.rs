//! Language models: weights in and out, updates, and log-probabilities of probes.
//!
//! A [`Learner`] is a decoder with its optimizer on one device.
//! The trainer makes one from a [`ModelConfig`] or a Hugging Face directory, packs its probes
//! once, and then alternates [`Learner::read`] and [`Learner::update`].
//!
//! Nothing outside this crate knows of tensors.

mod adamw;
mod checkpoint;
mod config;
mod decoder;
mod device;
mod error;
mod family;
mod host;
mod learner;
mod memory;
#[cfg(test)]
mod oracle;
mod parameters;
mod probes;
mod reference;
mod tape;
mod workers;

pub use checkpoint::{CheckpointFormat, CheckpointInfo};
pub use config::ModelConfig;
pub use device::DeviceChoice;
pub use error::Error;
pub use learner::{Learner, LearnerOptions, UpdateReport};
pub use memory::Updates;
pub use probes::PackedProbes;
