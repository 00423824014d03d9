//! The layers without parameters, as tensor operations: the definition of the mathematics, and
//! what runs on a GPU.
//!
//! The loops of [`crate::host`] are held to these by tests.

use burn::tensor::{Bool, Device, Int, Tensor, activation};

use crate::host;

/// LayerNorm without weight or bias.
///
/// # Shapes
/// [N, D] → [N, D].
pub(crate) fn layer_norm(x: Tensor<2>, eps: f32) -> Tensor<2> {
    let x = x.clone() - x.mean_dim(1);
    let variance = x.clone().square().mean_dim(1);
    x / (variance + eps).sqrt()
}

/// silu(gate) · up.
///
/// # Shapes
/// [N, 2F] → [N, F].
pub(crate) fn swiglu(gate_up: Tensor<2>) -> Tensor<2> {
    let ff = gate_up.dims()[1] / 2;
    let gate = gate_up.clone().narrow(1, 0, ff);
    activation::silu(gate) * gate_up.narrow(1, ff, ff)
}

/// Causal attention over sequences of equal length, rotary positions included.
#[derive(Clone, Debug)]
pub(crate) struct Attention {
    n_heads: usize,
    head_dim: usize,
    seq_len: usize,
    /// [1, 1, T, C]
    cos: Tensor<4>,
    /// [1, 1, T, C]
    sin: Tensor<4>,
    /// True where a key lies after the query: [1, 1, T, T].
    later: Tensor<4, Bool>,
}

impl Attention {
    pub(crate) fn new(attention: host::Attention<'_>, device: &Device) -> Self {
        let (t, c) = (attention.seq_len, attention.head_dim);
        let table = |half: &[f32]| {
            let both: Vec<f32> = (half.chunks_exact(c / 2).take(t))
                .flat_map(|row| row.iter().chain(row).copied())
                .collect();
            Tensor::<1>::from_floats(both.as_slice(), device).reshape([1, 1, t, c])
        };
        Self {
            n_heads: attention.n_heads,
            head_dim: c,
            seq_len: t,
            cos: table(&attention.rotary.cos),
            sin: table(&attention.rotary.sin),
            later: Tensor::<2, Bool>::tril_mask([t, t], 0, device).reshape([1, 1, t, t]),
        }
    }

    /// # Shapes
    /// `[q; k; v]` [N, 3D] → [N, D].
    pub(crate) fn forward(&self, qkv: &Tensor<2>) -> Tensor<2> {
        let (h, c, t) = (self.n_heads, self.head_dim, self.seq_len);
        let n = qkv.dims()[0];
        let heads = |part: usize| {
            let x = qkv.clone().narrow(1, part * h * c, h * c);
            x.reshape([n / t, t, h, c]).swap_dims(1, 2)
        };
        let q = self.rotate(heads(0)) / (c as f32).sqrt();
        let k = self.rotate(heads(1));
        let scores = q.matmul(k.swap_dims(2, 3));
        let scores = scores.mask_fill(self.later.clone(), f32::NEG_INFINITY);
        let out = activation::softmax(scores, 3).matmul(heads(2));
        out.swap_dims(1, 2).reshape([n, h * c])
    }

    fn rotate(&self, x: Tensor<4>) -> Tensor<4> {
        let half = self.head_dim / 2;
        let first = x.clone().narrow(3, 0, half);
        let second = x.clone().narrow(3, half, half);
        let turned = Tensor::cat(vec![second.neg(), first], 3);
        x * self.cos.clone() + turned * self.sin.clone()
    }
}

/// Log-probabilities of the targets, in nats, ≤ 0.
///
/// # Shapes
/// `logits`: [N, V]; `targets`: [N]; returns [N].
pub(crate) fn log_probs(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    let n = logits.dims()[0];
    let all = activation::log_softmax(logits, 1);
    at_targets(all, targets, n)
}

/// Log-probabilities of the targets, and `scale` times the gradient of their negative sum with
/// respect to the logits.
///
/// # Shapes
/// `logits`: [N, V]; `targets`: [N]; returns [N] and [N, V].
pub(crate) fn log_probs_and_gradient(
    logits: Tensor<2>,
    targets: Tensor<1, Int>,
    scale: f32,
) -> (Tensor<1>, Tensor<2>) {
    let [n, v] = logits.dims();
    let all = activation::log_softmax(logits, 1);
    let log_probs = at_targets(all.clone(), targets.clone(), n);
    let is_target = Tensor::<1, Int>::arange(0..v as i64, &targets.device())
        .reshape([1, v])
        .equal(targets.reshape([n, 1]));
    let gradient = (all.exp() - is_target.float()) * scale;
    (log_probs, gradient)
}

fn at_targets(log_probs: Tensor<2>, targets: Tensor<1, Int>, n: usize) -> Tensor<1> {
    let found = log_probs.gather(1, targets.reshape([n, 1])).reshape([n]);
    // Rounding may leave a hair above 0; unlike a clamp this lets NaN through.
    let above = found.clone().greater_elem(0.0);
    found.mask_fill(above, 0.0)
}

/// The gradient of a function's input from that of its output, by computing the function again.
pub(crate) fn pull_back(
    f: impl FnOnce(Tensor<2>) -> Tensor<2>,
    x: Tensor<2>,
    gradient: Tensor<2>,
) -> Tensor<2> {
    let x = x.autodiff().require_grad();
    let y = f(x.clone());
    let gradients = (y * gradient.autodiff()).sum().backward();
    x.grad(&gradients).expect("the output depends on the input")
}
