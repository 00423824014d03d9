//! A decoder-only language model: its parameters on a device, the way from tokens to hidden
//! states, and from hidden states to the log-probabilities of tokens.
//!
//! Shapes: N tokens, D model features, V vocabulary.

use burn::tensor::{Device, Int, Tensor};

use crate::config::ModelConfig;
use crate::host::{self, Rotary};
use crate::parameters::Layout;
use crate::reference;
use crate::tape::{Kernels, Matrix, ParameterGradients, Tape, Tokens, Var};

/// Most logits that exist at a time on a CPU: two mebibytes, so that they stay in cache.
const HOST_LOGITS: usize = 1 << 19;
/// Most logits that exist at a time on a GPU: one gibibyte in float32.
const DEVICE_LOGITS: usize = 1 << 28;

/// A decoder's parameters and tables, on one device.
pub(crate) struct Decoder {
    pub(crate) config: ModelConfig,
    pub(crate) layout: Layout,
    pub(crate) device: Device,
    pub(crate) parameters: Vec<Tensor<2>>,
    kernels: Kernels,
    max_logits: usize,
    rotary: Rotary,
}

impl Decoder {
    /// A decoder with the given values of its parameters, each `[rows, columns]` row by row.
    pub(crate) fn new(
        config: ModelConfig,
        layout: Layout,
        values: Vec<Vec<f32>>,
        device: Device,
        kernels: Kernels,
    ) -> Self {
        let parameters = (layout.parameters.iter().zip(values))
            .map(|(parameter, values)| Matrix::new(values, parameter.columns).put(&device))
            .collect();
        let rotary = Rotary::new(
            config.max_position_embeddings,
            config.head_dim(),
            config.rope_theta,
        );
        Self {
            config,
            layout,
            device,
            parameters,
            kernels,
            max_logits: match kernels {
                Kernels::Host => HOST_LOGITS,
                Kernels::Tensor => DEVICE_LOGITS,
            },
            rotary,
        }
    }

    /// Sets how many logits may exist at a time.
    #[cfg(test)]
    pub(crate) fn with_max_logits(mut self, max_logits: usize) -> Self {
        self.max_logits = max_logits;
        self
    }

    /// Hidden states after the last norm.
    ///
    /// # Shapes
    /// `tokens`: [sequences · `seq_len`]; returns [N, D].
    fn hidden<'a>(&'a self, tape: &Tape<'a>, tokens: &'a Tokens, seq_len: usize) -> Var {
        let eps = self.config.norm_eps;
        let attention = host::Attention {
            n_heads: self.config.num_attention_heads,
            head_dim: self.config.head_dim(),
            seq_len,
            rotary: &self.rotary,
        };
        let mut x = tape.embed(self.layout.embedding, tokens);
        for layer in &self.layout.layers {
            let qkv = tape.linear(layer.qkv, tape.layer_norm(&x, eps));
            let mixed = tape.attention(qkv, attention);
            x = tape.add(x, tape.linear(layer.attention_out, mixed));
            let gate_up = tape.linear(layer.gate_up, tape.layer_norm(&x, eps));
            let activated = tape.swiglu(gate_up);
            x = tape.add(x, tape.linear(layer.down, activated));
        }
        tape.layer_norm(&x, eps)
    }

    /// Log-probabilities of the targets, each the token that follows an input.
    ///
    /// # Shapes
    /// `inputs`: [sequences · `seq_len`]; `targets`: as many as inputs, or as `kept` names.
    pub(crate) fn log_probs(
        &self,
        inputs: &Tokens,
        seq_len: usize,
        kept: Option<&Tensor<1, Int>>,
        targets: &Tokens,
    ) -> Vec<Tensor<1>> {
        let tape = Tape::forward_only(&self.parameters, self.kernels);
        let mut hidden = self.hidden(&tape, inputs, seq_len).into_tensor();
        if let Some(kept) = kept {
            hidden = hidden.select(0, kept.clone());
        }
        let head = self.parameters[self.layout.head].clone().transpose();
        self.chunks(targets.ids.len())
            .map(|(from, n)| {
                let targets = targets.narrow(from, n);
                let logits = hidden.clone().narrow(0, from, n).matmul(head.clone());
                match self.kernels {
                    Kernels::Host => {
                        let mut logits = Matrix::take(logits);
                        let log_probs = host::log_probs(logits.values_mut(), &targets.ids);
                        Tensor::from_floats(log_probs.as_slice(), &self.device)
                    }
                    Kernels::Tensor => reference::log_probs(logits, targets.tensor),
                }
            })
            .collect()
    }

    /// Log-probabilities of the targets, and the gradients of `scale` times their negative sum.
    ///
    /// The output matrix and the loss go through chunks of tokens: a chunk's logits, its
    /// log-probabilities and its share of both gradients are computed together, so that all
    /// logits never exist at once.
    /// The decoder below is then walked back from the hidden states' gradient, exactly as if the
    /// loss were `(hidden · d_hidden).sum()`.
    ///
    /// # Shapes
    /// `inputs`, `targets`: [sequences · `seq_len`].
    pub(crate) fn log_probs_and_gradients(
        &self,
        inputs: &Tokens,
        seq_len: usize,
        targets: &Tokens,
        scale: f32,
    ) -> (Vec<Tensor<1>>, ParameterGradients) {
        let mut gradients = ParameterGradients::new(self.parameters.len());
        let tape = Tape::recording(&self.parameters, self.kernels);
        let output = self.hidden(&tape, inputs, seq_len);
        let hidden = output.tensor();
        let head = &self.parameters[self.layout.head];
        let mut log_probs = Vec::new();
        let mut d_hidden = Vec::new();
        for (from, n) in self.chunks(targets.ids.len()) {
            let targets = targets.narrow(from, n);
            let hidden = hidden.clone().narrow(0, from, n);
            let logits = hidden.clone().matmul(head.clone().transpose());
            let (chunk_log_probs, d_logits) = match self.kernels {
                Kernels::Host => {
                    let mut logits = Matrix::take(logits);
                    let log_probs =
                        host::log_probs_and_gradient(logits.values_mut(), &targets.ids, scale);
                    let log_probs = Tensor::from_floats(log_probs.as_slice(), &self.device);
                    (log_probs, logits.put(&self.device))
                }
                Kernels::Tensor => reference::log_probs_and_gradient(logits, targets.tensor, scale),
            };
            log_probs.push(chunk_log_probs);
            gradients.add(
                self.layout.head,
                d_logits.clone().transpose().matmul(hidden),
            );
            d_hidden.push(d_logits.matmul(head.clone()));
        }
        drop(hidden);
        let d_hidden = match d_hidden.len() {
            1 => d_hidden.remove(0),
            _ => Tensor::cat(d_hidden, 0),
        };
        tape.backward(&output, d_hidden, &mut gradients);
        (log_probs, gradients)
    }

    /// Where the chunks of `n` tokens begin, and how long they are.
    fn chunks(&self, n: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
        let at_most = (self.max_logits / self.config.vocab_size).max(1);
        (0..n)
            .step_by(at_most)
            .map(move |from| (from, at_most.min(n - from)))
    }
}
