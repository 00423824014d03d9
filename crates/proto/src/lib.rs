//! The protocol `imprint.v1`: generated code, conversions to and from the vocabulary, clients.
//!
//! Messages are checked once, when they are received (`TryFrom<pb::…>`); sending cannot fail.

mod client;
pub mod page;
mod secret;
pub mod status;

use std::fmt;

use imprint_core::{StepReadings, UpdateStats};

pub use client::{
    Channel, CredentialFiles, Credentials, Error, Target, Token, answer, connect, connect_lazy,
    is_loopback_url, is_passing,
};
pub use secret::{Secret, SecretError};

/// Generated messages, clients and servers.
#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    unreachable_pub,
    reason = "generated"
)]
pub mod pb {
    tonic::include_proto!("imprint.v1");
}

/// The encoded descriptors of `imprint.v1`, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/imprint.bin"));

/// Largest message accepted: a reading of 1.3 million probes.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// A message that cannot be right.
#[derive(Debug, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Invalid {
    pub field: &'static str,
    pub problem: String,
}

/// Fails unless the database can keep a text: it takes no NUL.
///
/// # Errors
/// When it holds one.
pub fn check_text(field: &'static str, text: &str) -> Result<(), Invalid> {
    match text.find('\0') {
        Some(at) => Err(Invalid {
            field,
            problem: format!("byte {at} is NUL"),
        }),
        None => Ok(()),
    }
}

impl pb::RunState {
    /// Whether nothing more happens to the run unless somebody asks for it.
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Complete | Self::Failed | Self::Cancelled)
    }
}

impl fmt::Debug for pb::BeginAttemptResponse {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BeginAttemptResponse")
            .field("attempt", &self.attempt)
            .field("run_dir", &self.run_dir)
            .field("metrics_url", &self.metrics_url)
            .field("next_reading", &self.next_reading)
            .field("next_update", &self.next_update)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for pb::HeartbeatResponse {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeartbeatResponse")
            .field("stop", &self.stop)
            .finish_non_exhaustive()
    }
}

fn to_bytes(values: &[f32]) -> bytes::Bytes {
    values
        .iter()
        .flat_map(|v| v.to_le_bytes())
        .collect::<Vec<u8>>()
        .into()
}

/// Values of one span, checked: whole float32s, finite, at most 0.
fn from_bytes(field: &'static str, bytes: &[u8]) -> Result<Vec<f32>, Invalid> {
    let invalid = |problem| Invalid { field, problem };
    if !bytes.len().is_multiple_of(4) {
        return Err(invalid(format!(
            "{} bytes are not whole float32 values",
            bytes.len()
        )));
    }
    let values: Vec<f32> = bytes
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect();
    match values.iter().position(|v| !(v.is_finite() && *v <= 0.0)) {
        Some(probe) => Err(invalid(format!(
            "probe {probe} has the value {}; a log-probability is finite and at most 0",
            values[probe]
        ))),
        None => Ok(values),
    }
}

impl From<&StepReadings> for pb::Reading {
    fn from(r: &StepReadings) -> Self {
        Self {
            index: r.index,
            step: r.step,
            measured_by: r.measured_by,
            first_sum_nats: to_bytes(&r.first_sum_nats),
            target_sum_nats: to_bytes(&r.target_sum_nats),
            full_sum_nats: to_bytes(&r.full_sum_nats),
            traceparent: String::new(),
        }
    }
}

impl TryFrom<pb::Reading> for StepReadings {
    type Error = Invalid;

    fn try_from(r: pb::Reading) -> Result<Self, Invalid> {
        let readings = Self {
            index: r.index,
            step: r.step,
            measured_by: r.measured_by,
            first_sum_nats: from_bytes("first_sum_nats", &r.first_sum_nats)?,
            target_sum_nats: from_bytes("target_sum_nats", &r.target_sum_nats)?,
            full_sum_nats: from_bytes("full_sum_nats", &r.full_sum_nats)?,
        };
        let n = readings.first_sum_nats.len();
        if [readings.target_sum_nats.len(), readings.full_sum_nats.len()] != [n, n] {
            let problem = "the three spans have different numbers of probes".to_owned();
            return Err(Invalid {
                field: "reading",
                problem,
            });
        }
        Ok(readings)
    }
}

impl From<&UpdateStats> for pb::Update {
    fn from(u: &UpdateStats) -> Self {
        Self {
            step: u.step,
            measured_by: u.measured_by,
            loss_nats: u.loss_nats,
            learning_rate: u.learning_rate,
            grad_norm: u.grad_norm,
            update_norm: u.update_norm,
            n_tokens: u.n_tokens,
            n_injected_tokens: u.n_injected_tokens,
            duration_ms: u.duration_ms,
            traceparent: String::new(),
        }
    }
}

impl TryFrom<pb::Update> for UpdateStats {
    type Error = Invalid;

    fn try_from(u: pb::Update) -> Result<Self, Invalid> {
        let is_amount = |value: f64| value.is_finite() && value >= 0.0;
        // Of an update that diverges a norm may overflow.
        let is_norm = |value: f64| value.is_nan() || value >= 0.0;
        let duration_ms = u.duration_ms.into();
        for (field, value, can_be) in [
            ("loss_nats", u.loss_nats, u.loss_nats.is_finite()),
            ("learning_rate", u.learning_rate, is_amount(u.learning_rate)),
            ("grad_norm", u.grad_norm, is_norm(u.grad_norm)),
            ("update_norm", u.update_norm, is_norm(u.update_norm)),
            ("duration_ms", duration_ms, is_amount(duration_ms)),
        ] {
            if !can_be {
                let problem = format!("update {} cannot have the value {value}", u.step);
                return Err(Invalid { field, problem });
            }
        }
        Ok(Self {
            step: u.step,
            measured_by: u.measured_by,
            loss_nats: u.loss_nats,
            learning_rate: u.learning_rate,
            grad_norm: u.grad_norm,
            update_norm: u.update_norm,
            n_tokens: u.n_tokens,
            n_injected_tokens: u.n_injected_tokens,
            duration_ms: u.duration_ms,
        })
    }
}

#[cfg(test)]
mod tests;
