//! The protocol `imprint.v1`: generated code, conversions to and from the vocabulary, clients.
//!
//! Messages are checked once, when they are received (`TryFrom<pb::…>`); sending cannot fail.

use std::time::Duration;

use imprint_core::{StepReadings, UpdateStats};
use tonic::transport::{Channel, Endpoint};

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

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("`{url}` is not an address of a service (want something like http://127.0.0.1:7431)")]
    Address {
        url: String,
        #[source]
        source: tonic::transport::Error,
    },
    #[error("no {service} service answers at {url}")]
    Unreachable {
        service: &'static str,
        url: String,
        #[source]
        source: tonic::transport::Error,
    },
    #[error("{field}: {problem}")]
    Invalid {
        field: &'static str,
        problem: String,
    },
}

/// A connection that is made now, or an error that names the service and its address.
///
/// # Errors
/// When the address cannot be parsed or nothing answers within five seconds.
pub async fn connect(service: &'static str, url: &str) -> Result<Channel, Error> {
    endpoint(url)?
        .connect()
        .await
        .map_err(|source| Error::Unreachable {
            service,
            url: url.to_owned(),
            source,
        })
}

/// A connection that is made when it is first used, and again whenever it was lost.
///
/// # Errors
/// When the address cannot be parsed.
pub fn connect_lazy(url: &str) -> Result<Channel, Error> {
    Ok(endpoint(url)?.connect_lazy())
}

fn endpoint(url: &str) -> Result<Endpoint, Error> {
    Ok(Endpoint::from_shared(url.to_owned())
        .map_err(|source| Error::Address {
            url: url.to_owned(),
            source,
        })?
        .connect_timeout(Duration::from_secs(5))
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10))
        .tcp_nodelay(true))
}

impl pb::RunState {
    /// Whether nothing more happens to the run unless somebody asks for it.
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Complete | Self::Failed | Self::Cancelled)
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
fn from_bytes(field: &'static str, bytes: &[u8]) -> Result<Vec<f32>, Error> {
    let invalid = |problem| Error::Invalid { field, problem };
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
    type Error = Error;

    fn try_from(r: pb::Reading) -> Result<Self, Error> {
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
            return Err(Error::Invalid {
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
    type Error = Error;

    fn try_from(u: pb::Update) -> Result<Self, Error> {
        if !u.loss_nats.is_finite() {
            let problem = format!("the loss of update {} is {}", u.step, u.loss_nats);
            return Err(Error::Invalid {
                field: "loss_nats",
                problem,
            });
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
