//! How much memory a forward and backward pass takes, by arithmetic.
//!
//! Per token and layer the way back needs: both norms' outputs (2 D, twice that where norms have
//! weights), `[q; k; v]` and what attention makes of it ((2 H + 2 G)·C), `[gate; up]` and their
//! product (3 F), and the residual stream (2 D).
//! The backward pass itself holds about two layers' worth more.
//! Logits exist in chunks only, of which a few copies exist at a time.
//! As tensor operations, attention holds a few matrices of scores of one layer, [H, n, n] a row.
//! Everything is float32.

use imprint_core::Precision;

use crate::config::ModelConfig;
use crate::decoder;
use crate::device::DeviceChoice;
use crate::parameters::{Layout, Parameter};
use crate::tape::{Compute, Kernels};

/// Bytes of a float32.
const BYTES: u64 = 4;
/// Layers' worth of values that the backward pass holds beside what was kept for it.
const LAYERS_IN_FLIGHT: u64 = 2;

/// Matrices that exist at a time: of a chunk's logits, and of a layer's scores.
fn matrices_at_a_time(kernels: Kernels) -> (u64, u64) {
    match kernels {
        // The logits, their gradient, its transpose; scores are of one head and a few rows.
        Kernels::Host => (3, 0),
        // Logits, their log-softmax, its exponential, the targets twice, the gradient; scores, their
        // softmax, both gradients, and one in the making.
        Kernels::Tensor => (6, 5),
    }
}

/// What a pass takes beside parameters and moments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PassMemory {
    /// Whatever the number of rows: gradients of the parameters and a chunk of logits.
    pub(crate) fixed_bytes: u64,
    pub(crate) row_bytes: u64,
}

impl PassMemory {
    /// Of a pass over rows of `seq_len` tokens.
    pub(crate) fn new(
        config: &ModelConfig,
        seq_len: usize,
        n_parameters: usize,
        compute: Compute,
        max_logits: usize,
    ) -> Self {
        let (n_logits, n_scores) = matrices_at_a_time(compute.kernels);
        let [d, ff] = [config.hidden_size, config.intermediate_size].map(|n| n as u64);
        let heads = config.num_attention_heads + config.num_key_value_heads;
        let attention = 2 * (heads * config.head_dim) as u64;
        let layer_values = 6 * d + attention + 3 * ff;
        let n_layers = config.num_hidden_layers as u64;
        let kept = match compute.recomputes_layers {
            // Of every layer its input, and of one at a time everything.
            true => n_layers * d + layer_values,
            false => n_layers * layer_values,
        };
        let token_values = kept + LAYERS_IN_FLIGHT * layer_values + 3 * d;
        let (n, n_heads) = (seq_len as u64 - 1, config.num_attention_heads as u64);
        let logits = max_logits.max(config.vocab_size) as u64;
        Self {
            fixed_bytes: BYTES * (n_parameters as u64 + n_logits * logits),
            row_bytes: BYTES * (token_values * n + n_scores * n_heads * n * n),
        }
    }

    /// The rows of equal micro-batches that fit when `n_at_a_time` passes run at a time; 1 where
    /// not even that fits.
    pub(crate) fn micro_batch_rows(self, n_rows: u32, n_at_a_time: u64, left_bytes: u64) -> u32 {
        let for_rows = (left_bytes / n_at_a_time).saturating_sub(self.fixed_bytes);
        let at_most = (for_rows / self.row_bytes).clamp(1, n_rows.into()) as u32;
        // As few micro-batches as fit, and those alike.
        n_rows.div_ceil(n_rows.div_ceil(at_most))
    }
}

/// The updates of a run, as far as their memory goes.
#[derive(Clone, Copy, Debug)]
pub struct Updates {
    /// Rows of a batch.
    pub n_rows: u32,
    /// Tokens of a row.
    pub seq_len: usize,
    pub device: DeviceChoice,
    /// Of a CPU; each works on a micro-batch of its own.
    pub threads: usize,
    pub recompute_layers: bool,
}

impl Updates {
    fn n_at_a_time(&self) -> u64 {
        match self.device {
            DeviceChoice::Cpu => self.threads.max(1) as u64,
            DeviceChoice::Cuda(_) => 1,
        }
    }
}

/// Parameters, the sum of their gradients, and two moments.
const TABLES: u64 = 4;

impl ModelConfig {
    /// Values in all parameters; a tied output matrix counts once.
    pub fn n_parameters(&self) -> usize {
        let layout = Layout::new(self);
        layout.parameters.iter().map(Parameter::n_values).sum()
    }

    /// Bytes that updates on micro-batches of `n_rows` rows of `seq_len` tokens take in all, by
    /// arithmetic: parameters, gradients, moments, and what one pass keeps.
    pub fn update_bytes(
        &self,
        n_rows: u32,
        seq_len: usize,
        device: DeviceChoice,
        recompute_layers: bool,
    ) -> u64 {
        let updates = Updates {
            n_rows,
            seq_len,
            device,
            threads: 1,
            recompute_layers,
        };
        self.bytes_of(&updates, n_rows)
    }

    /// Rows of a micro-batch with which updates fit a memory as a whole, by the rule of a run that
    /// chooses them; 1 where not even that fits.
    pub fn micro_batch_rows_in(&self, updates: &Updates, memory_bytes: u64) -> u32 {
        let left = memory_bytes.saturating_sub(self.table_bytes());
        let pass = self.pass(updates);
        pass.micro_batch_rows(updates.n_rows, updates.n_at_a_time(), left)
    }

    /// Bytes that updates on micro-batches of so many rows take in all, by arithmetic.
    pub fn bytes_of(&self, updates: &Updates, micro_batch_rows: u32) -> u64 {
        let pass = self.pass(updates);
        let n_micro_batches = updates.n_rows.div_ceil(micro_batch_rows.max(1));
        let n_at_a_time = updates.n_at_a_time().min(n_micro_batches.into());
        let of_pass = pass.fixed_bytes + u64::from(micro_batch_rows) * pass.row_bytes;
        self.table_bytes() + n_at_a_time * of_pass
    }

    fn table_bytes(&self) -> u64 {
        TABLES * BYTES * self.n_parameters() as u64
    }

    fn pass(&self, updates: &Updates) -> PassMemory {
        let compute = Compute {
            kernels: Kernels::of(updates.device),
            precision: Precision::Float32,
            recomputes_layers: updates.recompute_layers,
        };
        let max_logits = decoder::max_logits(compute.kernels);
        let n_parameters = self.n_parameters();
        PassMemory::new(self, updates.seq_len, n_parameters, compute, max_logits)
    }
}

#[cfg(test)]
mod tests;
