//! A decoder-only language model: its parameters on a device, the way from tokens to hidden
//! states, and from hidden states to the log-probabilities of tokens.
//!
//! Shapes: N tokens, D model features, V vocabulary.

use burn::tensor::{Device, Int, Tensor};

use crate::config::{Mlp, ModelConfig, NormPlace, Positions};
use crate::host::{self, Rotary};
use crate::parameters::{LayerParameters, Layout};
use crate::reference;
use crate::tape::{Compute, Kernels, Matrix, ParameterGradients, Tape, Tokens, Var};

/// Most logits that exist at a time on a CPU: two mebibytes, so that they stay in cache.
const HOST_LOGITS: usize = 1 << 19;
/// Most logits that exist at a time on a GPU: one gibibyte in float32.
const DEVICE_LOGITS: usize = 1 << 28;

/// Most logits that exist at a time.
pub(crate) fn max_logits(kernels: Kernels) -> usize {
    match kernels {
        Kernels::Host => HOST_LOGITS,
        Kernels::Tensor => DEVICE_LOGITS,
    }
}

/// A decoder's parameters and tables, on one device.
pub(crate) struct Decoder {
    pub(crate) config: ModelConfig,
    pub(crate) layout: Layout,
    pub(crate) device: Device,
    pub(crate) parameters: Vec<Tensor<2>>,
    pub(crate) compute: Compute,
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
        compute: Compute,
    ) -> Self {
        let parameters = (layout.parameters.iter().zip(values))
            .map(|(parameter, values)| Matrix::new(values, parameter.columns).put(&device))
            .collect();
        let frequencies = match config.positions {
            Positions::Learned => Vec::new(),
            Positions::Rotary(rotary) => rotary.frequencies(),
        };
        let rotary = Rotary::new(config.max_position_embeddings, &frequencies);
        Self {
            config,
            layout,
            device,
            parameters,
            compute,
            max_logits: max_logits(compute.kernels),
            rotary,
        }
    }

    /// How many logits may exist at a time.
    pub(crate) fn max_logits(&self) -> usize {
        self.max_logits
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
    pub(crate) fn hidden<'a>(&'a self, tape: &Tape<'a>, tokens: &'a Tokens, seq_len: usize) -> Var {
        let (config, layout) = (&self.config, &self.layout);
        let attention = |layer| host::Attention {
            n_heads: config.num_attention_heads,
            n_kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            seq_len,
            scale: config.score_scale(layer),
            rotary: &self.rotary,
            starts: tokens.starts.as_deref(),
        };
        let mut x = tape.embed(layout.embedding, tokens);
        if let Some(positions) = layout.positions {
            x = tape.add_positions(positions, x, seq_len);
        }
        for (i, layer) in layout.layers.iter().enumerate() {
            let attention = attention(i);
            x = tape.recomputable(x, move |tape, x| self.layer(tape, layer, x, attention));
        }
        tape.norm(&x, layout.final_norm)
    }

    /// One layer: from residual stream to residual stream.
    fn layer<'a>(
        &'a self,
        tape: &Tape<'a>,
        layer: &LayerParameters,
        x: Var,
        attention: host::Attention<'a>,
    ) -> Var {
        match (self.config.norm.place, self.config.is_parallel) {
            (NormPlace::Before, true) => {
                let mixed = tape.norm(&x, layer.attention_norm);
                let mixed = self.mix(tape, layer, mixed, attention);
                let thought = self.think(tape, layer, tape.norm(&x, layer.mlp_norm));
                tape.add(tape.add(x, mixed), thought)
            }
            (NormPlace::Before, false) => {
                let mixed = tape.norm(&x, layer.attention_norm);
                let x = tape.add(x, self.mix(tape, layer, mixed, attention));
                let thought = self.think(tape, layer, tape.norm(&x, layer.mlp_norm));
                tape.add(x, thought)
            }
            (NormPlace::After, _) => {
                let (input, x) = tape.fork(x);
                let mixed = self.mix(tape, layer, input, attention);
                let x = tape.add(x, tape.norm(&mixed, layer.attention_norm));
                let (input, x) = tape.fork(x);
                let thought = self.think(tape, layer, input);
                tape.add(x, tape.norm(&thought, layer.mlp_norm))
            }
        }
    }

    /// Attention: from normed hidden states to what it adds to the residual stream.
    fn mix<'a>(
        &'a self,
        tape: &Tape<'a>,
        layer: &LayerParameters,
        x: Var,
        attention: host::Attention<'a>,
    ) -> Var {
        let mut qkv = tape.linear(layer.qkv, x);
        if let Some(norm) = layer.qk_norm {
            qkv = tape.norm_queries_and_keys(&qkv, self.config.attention_widths(), norm);
        }
        if let Some(limit) = self.config.clip_qkv {
            qkv = tape.clamp(qkv, limit);
        }
        tape.linear(layer.attention_out, tape.attention(qkv, attention))
    }

    /// The feed-forward layer.
    fn think<'a>(&'a self, tape: &Tape<'a>, layer: &LayerParameters, x: Var) -> Var {
        let up = tape.linear(layer.up, x);
        let bent = match self.config.mlp {
            Mlp::Gated => tape.swiglu(up),
            Mlp::Plain(activation) => tape.activate(activation, up),
        };
        tape.linear(layer.down, bent)
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
        let tape = Tape::forward_only(&self.parameters, self.compute);
        let mut hidden = self.hidden(&tape, inputs, seq_len).into_tensor();
        if let Some(kept) = kept {
            hidden = hidden.select(0, kept.clone());
        }
        let head = self.parameters[self.layout.head].clone().transpose();
        self.chunks(targets.ids.len())
            .map(|(from, n)| {
                let targets = targets.narrow(from, n);
                let hidden = hidden.clone().narrow(0, from, n);
                // In float32 whatever the precision: a reading must not round its logits.
                let logits = hidden.matmul(head.clone());
                match self.compute.kernels {
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
        let tape = Tape::recording(&self.parameters, self.compute);
        let output = self.hidden(&tape, inputs, seq_len);
        let hidden = output.tensor();
        let head = &self.parameters[self.layout.head];
        let mut log_probs = Vec::new();
        let mut d_hidden = Vec::new();
        for (from, n) in self.chunks(targets.ids.len()) {
            let targets = targets.narrow(from, n);
            let hidden = hidden.clone().narrow(0, from, n);
            let logits = (self.compute).product(hidden.clone(), head.clone().transpose());
            let (chunk_log_probs, d_logits) = match self.compute.kernels {
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
                (self.compute).product(d_logits.clone().transpose(), hidden),
            );
            d_hidden.push(self.compute.product(d_logits, head.clone()));
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
