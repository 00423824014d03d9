//! The layers without parameters, as tensor operations: the definition of the mathematics, and
//! what runs on a GPU.
//!
//! The loops of [`crate::host`] are held to these by tests.

use burn::tensor::{Bool, Device, Int, Tensor, activation};

use crate::host::{self, Activation, NormKind};
use crate::tape::Compute;

/// A norm without weight or bias of the segments that each row begins with.
///
/// # Shapes
/// [N, row] → [N, row].
pub(crate) fn norm(x: Tensor<2>, widths: &[usize], kind: NormKind, eps: f32) -> Tensor<2> {
    let row = x.dims()[1];
    let mut parts = Vec::with_capacity(widths.len() + 1);
    let mut from = 0;
    for &width in widths {
        let mut part = x.clone().narrow(1, from, width);
        if kind == NormKind::Layer {
            part = part.clone() - part.mean_dim(1);
        }
        let mean_square = part.clone().square().mean_dim(1);
        parts.push(part / (mean_square + eps).sqrt());
        from += width;
    }
    if from < row {
        parts.push(x.narrow(1, from, row - from));
    }
    match parts.len() {
        1 => parts.remove(0),
        _ => Tensor::cat(parts, 1),
    }
}

/// The activation of every value.
pub(crate) fn activate(kind: Activation, x: Tensor<2>) -> Tensor<2> {
    match kind {
        Activation::Gelu => activation::gelu(x),
        Activation::GeluTanh => {
            let inner = (x.clone().powi_scalar(3) * 0.044_715 + x.clone())
                * std::f64::consts::FRAC_2_PI.sqrt();
            x * (inner.tanh() + 1.0) * 0.5
        }
        Activation::Relu => activation::relu(x),
    }
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
    n_kv_heads: usize,
    head_dim: usize,
    seq_len: usize,
    scale: f32,
    compute: Compute,
    /// Features of a head that are rotated.
    n_rotated: usize,
    /// [1, 1, T, R]
    cos: Tensor<4>,
    /// [1, 1, T, R]
    sin: Tensor<4>,
    /// True where a query may not see a key: [1 or sequences, 1, T, T].
    hidden: Tensor<4, Bool>,
}

impl Attention {
    pub(crate) fn new(attention: host::Attention<'_>, compute: Compute, device: &Device) -> Self {
        let (t, half) = (attention.seq_len, attention.rotary.half);
        let table = |values: &[f32]| {
            let both: Vec<f32> = match half {
                // Without rotation one feature stands for none, so that the table has a shape.
                0 => vec![0.0; t],
                _ => (values.chunks_exact(half).take(t))
                    .flat_map(|row| row.iter().chain(row).copied())
                    .collect(),
            };
            let r = both.len() / t;
            Tensor::<1>::from_floats(both.as_slice(), device).reshape([1, 1, t, r])
        };
        let later = Tensor::<2, Bool>::tril_mask([t, t], 0, device).reshape([1, 1, t, t]);
        let hidden = match attention.starts {
            None => later,
            Some(starts) => {
                let n = starts.len() / t;
                let starts: Vec<i32> = starts.iter().map(|&start| start as i32).collect();
                let starts = Tensor::<1, Int>::from_data(starts.as_slice(), device);
                let keys = Tensor::<1, Int>::arange(0..t as i64, device).reshape([1, 1, 1, t]);
                let earlier = keys
                    .expand([n, 1, t, t])
                    .lower(starts.reshape([n, 1, t, 1]).expand([n, 1, t, t]));
                earlier.bool_or(later.expand([n, 1, t, t]))
            }
        };
        Self {
            n_heads: attention.n_heads,
            n_kv_heads: attention.n_kv_heads,
            head_dim: attention.head_dim,
            seq_len: t,
            scale: attention.scale,
            compute,
            n_rotated: 2 * half,
            cos: table(&attention.rotary.cos),
            sin: table(&attention.rotary.sin),
            hidden,
        }
    }

    /// # Shapes
    /// `[q; k; v]` [N, (H + 2G)·C] → [N, H·C].
    pub(crate) fn forward(&self, qkv: &Tensor<2>) -> Tensor<2> {
        let (h, g, c, t) = (self.n_heads, self.n_kv_heads, self.head_dim, self.seq_len);
        let n = qkv.dims()[0];
        let heads = |from: usize, n_heads: usize| {
            let x = qkv.clone().narrow(1, from * c, n_heads * c);
            x.reshape([n / t, t, n_heads, c]).swap_dims(1, 2)
        };
        let shared = |x: Tensor<4>| match h / g {
            1 => x,
            times => (x.reshape([n / t, g, 1, t * c]))
                .repeat_dim(2, times)
                .reshape([n / t, h, t, c]),
        };
        let q = self.rotate(heads(0, h)) * self.scale;
        let k = shared(self.rotate(heads(h, g)));
        let v = shared(heads(h + g, g));
        let scores = self.compute.product(q, k.swap_dims(2, 3));
        let hidden = self.hidden.clone().expand([n / t, h, t, t]);
        let scores = scores.mask_fill(hidden, f32::NEG_INFINITY);
        let out = (self.compute).product(activation::softmax(scores, 3), v);
        out.swap_dims(1, 2).reshape([n, h * c])
    }

    fn rotate(&self, x: Tensor<4>) -> Tensor<4> {
        let (r, half) = (self.n_rotated, self.n_rotated / 2);
        if r == 0 {
            return x;
        }
        let rotated = x.clone().narrow(3, 0, r);
        let first = rotated.clone().narrow(3, 0, half);
        let second = rotated.clone().narrow(3, half, half);
        let turned = Tensor::cat(vec![second.neg(), first], 3);
        let rotated = rotated * self.cos.clone() + turned * self.sin.clone();
        match self.head_dim - r {
            0 => rotated,
            passing => Tensor::cat(vec![rotated, x.narrow(3, r, passing)], 3),
        }
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
