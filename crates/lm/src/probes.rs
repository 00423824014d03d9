//! Probes laid out for reading: the same at every step, so arranged and uploaded once.
//!
//! A pass over a probe takes all its tokens but the last as inputs and gives the log-probability
//! of all but the first.
//! One pass serves the three spans.
//! Probes of equal length share a micro-batch; on a GPU, where few large micro-batches are
//! faster, lengths are rounded up, padded on the right, which causal attention never sees.

use std::ops::Range;

use burn::tensor::{Device, Int, Tensor, TensorData};
use imprint_core::{ProbeSums, TokenizedProbe};

use crate::Error;
use crate::config::ModelConfig;
use crate::tape::{Kernels, Tokens};

/// Probes on a model's device, ready to be read at every step.
pub struct PackedProbes {
    pub(crate) groups: Vec<Group>,
    /// For each probe, in the order given: where its log-probabilities lie in a reading.
    places: Vec<Place>,
}

struct Place {
    tokens: Range<usize>,
    n_target_tokens: usize,
}

/// Probes that go through the model together.
pub(crate) struct Group {
    pub(crate) inputs: Tokens,
    pub(crate) seq_len: usize,
    /// Rows of hidden states that count; all of them where absent.
    pub(crate) kept: Option<Tensor<1, Int>>,
    pub(crate) targets: Tokens,
}

/// What suits a device.
struct Packing {
    /// Lengths are rounded up to a multiple of it.
    length_multiple: usize,
    /// Most tokens, padding included, of one micro-batch.
    max_tokens: usize,
}

impl Packing {
    fn of(kernels: Kernels) -> Self {
        match kernels {
            Kernels::Host => Self {
                length_multiple: 1,
                max_tokens: 1 << 12,
            },
            Kernels::Tensor => Self {
                length_multiple: 8,
                max_tokens: 1 << 15,
            },
        }
    }
}

impl PackedProbes {
    pub(crate) fn new(
        probes: &[TokenizedProbe],
        config: &ModelConfig,
        kernels: Kernels,
        device: &Device,
    ) -> Result<Self, Error> {
        for (i, probe) in probes.iter().enumerate() {
            check(i, probe, config)?;
        }
        let packing = Packing::of(kernels);
        let padded = |i: usize| {
            let n_inputs = probes[i].tokens.len() - 1;
            let rounded = n_inputs.next_multiple_of(packing.length_multiple);
            rounded.min(config.max_position_embeddings)
        };
        let mut order: Vec<usize> = (0..probes.len()).collect();
        order.sort_by_key(|&i| padded(i));
        let mut groups = Vec::new();
        let mut places: Vec<Option<Place>> = probes.iter().map(|_| None).collect();
        let mut n_read = 0;
        for same_length in order.chunk_by(|&a, &b| padded(a) == padded(b)) {
            let seq_len = padded(same_length[0]);
            for rows in same_length.chunks((packing.max_tokens / seq_len).max(1)) {
                for &i in rows {
                    let from = n_read;
                    n_read += probes[i].tokens.len() - 1;
                    places[i] = Some(Place {
                        tokens: from..n_read,
                        n_target_tokens: probes[i].n_target_tokens,
                    });
                }
                groups.push(Group::new(probes, rows, seq_len, device));
            }
        }
        Ok(Self {
            groups,
            places: places
                .into_iter()
                .map(|p| p.expect("every probe has a row"))
                .collect(),
        })
    }

    /// Number of probes.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Each probe's sums over its spans, from the log-probabilities of all groups in order.
    pub(crate) fn sums(&self, log_probs: &[f32]) -> Vec<ProbeSums> {
        let sum = |range: &[f32]| range.iter().map(|&x| f64::from(x)).sum::<f64>() as f32;
        (self.places.iter())
            .map(|place| {
                let full = &log_probs[place.tokens.clone()];
                let target = &full[full.len() - place.n_target_tokens..];
                ProbeSums {
                    first_nats: target[0],
                    target_nats: sum(target),
                    full_nats: sum(full),
                }
            })
            .collect()
    }
}

impl Group {
    fn new(probes: &[TokenizedProbe], rows: &[usize], seq_len: usize, device: &Device) -> Self {
        let mut inputs = Vec::with_capacity(rows.len() * seq_len);
        let mut targets = Vec::new();
        let mut kept: Vec<i32> = Vec::new();
        for &i in rows {
            let tokens = &probes[i].tokens;
            let n_inputs = tokens.len() - 1;
            kept.extend((inputs.len()..inputs.len() + n_inputs).map(|at| at as i32));
            inputs.extend_from_slice(&tokens[..n_inputs]);
            // Any token will do: no position that counts sees it.
            inputs.extend(std::iter::repeat_n(0, seq_len - n_inputs));
            targets.extend_from_slice(&tokens[1..]);
        }
        let is_padded = kept.len() < inputs.len();
        let n_kept = kept.len();
        Self {
            inputs: Tokens::new(inputs, device),
            seq_len,
            kept: is_padded.then(|| Tensor::from_data(TensorData::new(kept, [n_kept]), device)),
            targets: Tokens::new(targets, device),
        }
    }
}

fn check(i: usize, probe: &TokenizedProbe, config: &ModelConfig) -> Result<(), Error> {
    let n = probe.tokens.len();
    let refuse = |reason: String| Err(Error::Probe { probe: i, reason });
    if probe.n_target_tokens == 0 {
        return refuse("its target has no tokens".to_owned());
    }
    if probe.n_target_tokens >= n {
        return refuse(format!(
            "{} target tokens of {n} leave no prompt token",
            probe.n_target_tokens
        ));
    }
    if n - 1 > config.max_position_embeddings {
        return refuse(format!(
            "{n} tokens do not fit the model's context of {}",
            config.max_position_embeddings
        ));
    }
    check_tokens(&probe.tokens, config.vocab_size, || format!("probe {i}"))
}

/// Refuses a token id that the embedding has no row for.
pub(crate) fn check_tokens(
    tokens: &[u32],
    vocab_size: usize,
    place: impl FnOnce() -> String,
) -> Result<(), Error> {
    match tokens.iter().find(|&&token| token as usize >= vocab_size) {
        None => Ok(()),
        Some(&token) => Err(Error::Token {
            place: place(),
            token,
            vocab_size,
        }),
    }
}

#[cfg(test)]
mod tests;
