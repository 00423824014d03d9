//! The element-wise work of a training step, as plain loops over row-major float32 slices.
//!
//! On a CPU a tensor library spends most of a small model's step in passes over memory: one
//! pass, one new buffer per arithmetic operation.
//! These loops do what belongs together in one pass, and in place where they can.
//! The same mathematics as tensor operations is in [`crate::reference`], and tests hold the two to
//! each other.
//!
//! Sums run over [`LANES`] interleaved parts, whatever the vector unit, so that a compiler may
//! vectorise them.
//!
//! Shapes: N tokens, D model features, F feed-forward features, V vocabulary, T tokens of one
//! sequence, H heads, C features of one head.

use std::ops::Range;

/// Parallel parts of a sum: one AVX-512 vector.
const LANES: usize = 16;

/// Defines a function that is compiled for several vector units and picks the widest that this
/// processor has.
///
/// Only what is inlined into it gains: everything it calls is `inline(always)`, and its loops are
/// written out, since a closure handed to an iterator may stay a function of its own.
macro_rules! vectorised {
    (
        $(#[$attribute:meta])*
        $visibility:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $returned:ty)?
        $body:block
    ) => {
        $(#[$attribute])*
        $visibility fn $name($($argument: $type),*) $(-> $returned)? {
            #[inline(always)]
            fn portable($($argument: $type),*) $(-> $returned)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx2,fma")]
                fn avx512($($argument: $type),*) $(-> $returned)? {
                    portable($($argument),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($argument: $type),*) $(-> $returned)? {
                    portable($($argument),*)
                }
                match VectorUnit::of_this_processor() {
                    VectorUnit::Avx512 => {
                        #[expect(unsafe_code, reason = "the processor was asked")]
                        return unsafe { avx512($($argument),*) };
                    }
                    VectorUnit::Avx2 => {
                        #[expect(unsafe_code, reason = "the processor was asked")]
                        return unsafe { avx2($($argument),*) };
                    }
                    VectorUnit::Portable => {}
                }
            }
            portable($($argument),*)
        }
    };
}

#[cfg(target_arch = "x86_64")]
enum VectorUnit {
    Avx512,
    Avx2,
    Portable,
}

#[cfg(target_arch = "x86_64")]
impl VectorUnit {
    fn of_this_processor() -> Self {
        let has_avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let has_avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512cd")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        match (has_avx2, has_avx512) {
            (true, true) => Self::Avx512,
            (true, false) => Self::Avx2,
            (false, _) => Self::Portable,
        }
    }
}

/// e^x to about 1e-7 relative, never less than the smallest normal float; NaN stays NaN.
///
/// # Source
/// Cephes' `expf`: x = n·ln 2 + r, a polynomial in r, and n added to the exponent.
#[inline(always)]
fn exp(x: f32) -> f32 {
    /// Adding and subtracting it rounds to the nearest whole number.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    // Comparisons in this order let NaN through.
    let x = if x < -87.3 { -87.3 } else { x };
    let x = if x > 88.3 { 88.3 } else { x };
    let rounded = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = n.mul_add(-LN_2_HIGH, x);
    let r = n.mul_add(-LN_2_LOW, r);
    let p = 1.987_569_1e-4_f32;
    let p = p.mul_add(r, 1.398_2e-3);
    let p = p.mul_add(r, 8.333_452e-3);
    let p = p.mul_add(r, 4.166_579_6e-2);
    let p = p.mul_add(r, 1.666_666_5e-1);
    let p = p.mul_add(r, 0.5);
    let p = p.mul_add(r * r, r) + 1.0;
    // The low bits of `rounded` are n in two's complement.
    p * f32::from_bits((rounded.to_bits().wrapping_add(127)) << 23)
}

#[inline(always)]
fn sum_lanes(lanes: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    let mut lanes = lanes;
    while half > 0 {
        for l in 0..half {
            lanes[l] += lanes[l + half];
        }
        half /= 2;
    }
    lanes[0]
}

#[inline(always)]
fn sum(x: &[f32]) -> f32 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for chunk in chunks {
        for l in 0..LANES {
            lanes[l] += chunk[l];
        }
    }
    sum_lanes(lanes) + rest.iter().sum::<f32>()
}

#[inline(always)]
fn dot(x: &[f32], y: &[f32]) -> f32 {
    let (x_chunks, x_rest) = x.as_chunks::<LANES>();
    let (y_chunks, y_rest) = y.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for (x, y) in x_chunks.iter().zip(y_chunks) {
        for l in 0..LANES {
            lanes[l] = x[l].mul_add(y[l], lanes[l]);
        }
    }
    let rest: f32 = x_rest.iter().zip(y_rest).map(|(x, y)| x * y).sum();
    sum_lanes(lanes) + rest
}

#[inline(always)]
fn max(x: &[f32]) -> f32 {
    #[inline(always)]
    fn larger(a: f32, b: f32) -> f32 {
        if a > b { a } else { b }
    }
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for l in 0..LANES {
            lanes[l] = larger(chunk[l], lanes[l]);
        }
    }
    let mut largest = f32::NEG_INFINITY;
    for lane in lanes {
        largest = larger(lane, largest);
    }
    for &x in rest {
        largest = larger(x, largest);
    }
    largest
}

/// Replaces x by e^(x − shift) and returns their sum.
#[inline(always)]
fn exp_and_sum(x: &mut [f32], shift: f32) -> f32 {
    let (chunks, rest) = x.as_chunks_mut::<LANES>();
    let mut lanes = [0.0; LANES];
    for chunk in chunks {
        for l in 0..LANES {
            chunk[l] = exp(chunk[l] - shift);
            lanes[l] += chunk[l];
        }
    }
    let mut total = sum_lanes(lanes);
    for x in rest {
        *x = exp(*x - shift);
        total += *x;
    }
    total
}

/// What a norm divides by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NormKind {
    /// The standard deviation, after the mean is taken off.
    Layer,
    /// The root mean square.
    Rms,
}

vectorised! {
    /// A norm without weight or bias, in place, of the segments that each row begins with; returns
    /// 1/σ of each.
    ///
    /// # Shapes
    /// `x`: [N, `row`]; `widths`: of the S segments; returns [N, S].
    pub(crate) fn norm(
        x: &mut [f32],
        row: usize,
        widths: &[usize],
        kind: NormKind,
        eps: f32,
    ) -> Vec<f32> {
        let mut rstd = Vec::with_capacity(x.len() / row * widths.len());
        for mut x in x.chunks_exact_mut(row) {
            for &width in widths {
                let (segment, rest) = x.split_at_mut(width);
                if kind == NormKind::Layer {
                    let mean = sum(segment) / width as f32;
                    for x in segment.iter_mut() {
                        *x -= mean;
                    }
                }
                let r = 1.0 / (dot(segment, segment) / width as f32 + eps).sqrt();
                for x in segment.iter_mut() {
                    *x *= r;
                }
                rstd.push(r);
                x = rest;
            }
        }
        rstd
    }
}

vectorised! {
    /// Turns the gradient of [`norm`]'s output into that of its input, in place.
    ///
    /// # Shapes
    /// `y`, the output, and `gradient`: [N, `row`]; `rstd`: [N, S].
    pub(crate) fn norm_backward(
        y: &[f32],
        rstd: &[f32],
        gradient: &mut [f32],
        row: usize,
        widths: &[usize],
        kind: NormKind,
    ) {
        let rows = gradient.chunks_exact_mut(row).zip(y.chunks_exact(row));
        for ((mut gradient, mut y), rstd) in rows.zip(rstd.chunks_exact(widths.len())) {
            for (&width, rstd) in widths.iter().zip(rstd) {
                let (segment, rest) = gradient.split_at_mut(width);
                let mean = match kind {
                    NormKind::Layer => sum(segment) / width as f32,
                    NormKind::Rms => 0.0,
                };
                let along = dot(segment, &y[..width]) / width as f32;
                for (gradient, y) in segment.iter_mut().zip(&y[..width]) {
                    *gradient = (y.mul_add(-along, *gradient) - mean) * rstd;
                }
                gradient = rest;
                y = &y[width..];
            }
        }
    }
}

vectorised! {
    /// Multiplies the first columns of every row by a weight and adds a bias (empty for none).
    ///
    /// # Shapes
    /// `x`: [N, `row`]; `weight`: [K] with K ≤ `row`; `bias`: [K] or [0].
    pub(crate) fn affine(x: &mut [f32], row: usize, weight: &[f32], bias: &[f32]) {
        for x in x.chunks_exact_mut(row) {
            for (x, w) in x.iter_mut().zip(weight) {
                *x *= w;
            }
            for (x, b) in x.iter_mut().zip(bias) {
                *x += b;
            }
        }
    }
}

vectorised! {
    /// Turns the gradient of [`affine`]'s output into that of its input, in place, and returns the
    /// weight's.
    ///
    /// # Shapes
    /// `x`, the input, and `gradient`: [N, `row`]; `weight`: [K]; returns [K].
    pub(crate) fn affine_backward(
        x: &[f32],
        gradient: &mut [f32],
        row: usize,
        weight: &[f32],
    ) -> Vec<f32> {
        let mut d_weight = vec![0.0; weight.len()];
        for (gradient, x) in gradient.chunks_exact_mut(row).zip(x.chunks_exact(row)) {
            let columns = gradient.iter_mut().zip(x).zip(weight).zip(d_weight.iter_mut());
            for (((gradient, x), w), d_weight) in columns {
                *d_weight = gradient.mul_add(*x, *d_weight);
                *gradient *= w;
            }
        }
        d_weight
    }
}

vectorised! {
    /// Sums of the columns.
    ///
    /// # Shapes
    /// `x`: [N, `d`]; returns [`d`].
    pub(crate) fn column_sums(x: &[f32], d: usize) -> Vec<f32> {
        let mut sums = vec![0.0; d];
        for x in x.chunks_exact(d) {
            for (sum, x) in sums.iter_mut().zip(x) {
                *sum += x;
            }
        }
        sums
    }
}

vectorised! {
    /// Adds a row to every row.
    ///
    /// # Shapes
    /// `x`: [N, D]; `bias`: [D].
    pub(crate) fn add_to_rows(x: &mut [f32], bias: &[f32]) {
        for x in x.chunks_exact_mut(bias.len()) {
            for (x, b) in x.iter_mut().zip(bias) {
                *x += b;
            }
        }
    }
}

/// The bend of a feed-forward layer without a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    /// x · Φ(x)
    Gelu,
    /// GELU with Φ replaced by a logistic function of a cubic, as GPT-2 has it.
    GeluTanh,
    Relu,
}

/// Φ, the distribution function of the normal distribution, to about 1e-7.
///
/// # Source
/// Press et al., Numerical Recipes, §6.2: a Chebyshev fit of erfc.
#[inline(always)]
fn normal_cdf(x: f32) -> f32 {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / 0.5_f32.mul_add(z, 1.0);
    let p = 0.170_872_77_f32;
    let p = p.mul_add(t, -0.822_152_23);
    let p = p.mul_add(t, 1.488_515_9);
    let p = p.mul_add(t, -1.135_204);
    let p = p.mul_add(t, 0.278_868_07);
    let p = p.mul_add(t, -0.186_288_06);
    let p = p.mul_add(t, 0.096_784_18);
    let p = p.mul_add(t, 0.374_091_96);
    let p = p.mul_add(t, 1.000_023_7);
    let p = p.mul_add(t, -1.265_512_2);
    let tail = 0.5 * t * exp(z.mul_add(-z, p));
    if x < 0.0 { tail } else { 1.0 - tail }
}

/// √(2/π), of GELU's cubic.
const GELU_SLOPE: f32 = 0.797_884_6;
const GELU_CUBE: f32 = 0.044_715;

#[inline(always)]
fn activation(kind: Activation, x: f32) -> f32 {
    match kind {
        Activation::Gelu => x * normal_cdf(x),
        Activation::GeluTanh => x * sigmoid(2.0 * GELU_SLOPE * x * (GELU_CUBE * x).mul_add(x, 1.0)),
        // This order lets NaN through.
        Activation::Relu => {
            if x < 0.0 {
                0.0
            } else {
                x
            }
        }
    }
}

#[inline(always)]
fn activation_slope(kind: Activation, x: f32) -> f32 {
    match kind {
        Activation::Gelu => {
            let density = 0.398_942_3 * exp(-0.5 * x * x);
            x.mul_add(density, normal_cdf(x))
        }
        Activation::GeluTanh => {
            let s = sigmoid(2.0 * GELU_SLOPE * x * (GELU_CUBE * x).mul_add(x, 1.0));
            let inner = 2.0 * GELU_SLOPE * (3.0 * GELU_CUBE * x).mul_add(x, 1.0);
            (x * inner * (1.0 - s)).mul_add(s, s)
        }
        Activation::Relu => {
            if x > 0.0 {
                1.0
            } else {
                0.0
            }
        }
    }
}

vectorised! {
    /// The activation of every value, in place.
    pub(crate) fn activate(kind: Activation, x: &mut [f32]) {
        for x in x.iter_mut() {
            *x = activation(kind, *x);
        }
    }
}

vectorised! {
    /// Turns the gradient of [`activate`]'s output into that of its input `x`, in place.
    pub(crate) fn activate_backward(kind: Activation, x: &[f32], gradient: &mut [f32]) {
        for (gradient, x) in gradient.iter_mut().zip(x) {
            *gradient *= activation_slope(kind, *x);
        }
    }
}

vectorised! {
    /// Limits every value to ±`limit`, in place.
    pub(crate) fn clamp(x: &mut [f32], limit: f32) {
        for x in x.iter_mut() {
            // These orders let NaN through.
            let low = if *x < -limit { -limit } else { *x };
            *x = if low > limit { limit } else { low };
        }
    }
}

vectorised! {
    /// Turns the gradient of [`clamp`]'s output into that of its input `x`, in place.
    pub(crate) fn clamp_backward(x: &[f32], gradient: &mut [f32], limit: f32) {
        for (gradient, x) in gradient.iter_mut().zip(x) {
            if x.abs() > limit {
                *gradient = 0.0;
            }
        }
    }
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

vectorised! {
    /// silu(gate) · up.
    ///
    /// # Shapes
    /// `gate_up`: [N, 2F]; returns [N, F].
    pub(crate) fn swiglu(gate_up: &[f32], ff: usize) -> Vec<f32> {
        let mut out = vec![0.0; gate_up.len() / 2];
        for (out, gate_up) in out.chunks_exact_mut(ff).zip(gate_up.chunks_exact(2 * ff)) {
            let (gate, up) = gate_up.split_at(ff);
            for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
                *out = gate * sigmoid(gate) * up;
            }
        }
        out
    }
}

vectorised! {
    /// Turns `gate_up` into its gradient, in place, from the gradient of the output.
    ///
    /// # Shapes
    /// `gate_up`: [N, 2F]; `gradient`: [N, F].
    pub(crate) fn swiglu_backward(gate_up: &mut [f32], gradient: &[f32], ff: usize) {
        let rows = gate_up.chunks_exact_mut(2 * ff).zip(gradient.chunks_exact(ff));
        for (gate_up, gradient) in rows {
            let (gate, up) = gate_up.split_at_mut(ff);
            for ((gate, up), &gradient) in gate.iter_mut().zip(up).zip(gradient) {
                let s = sigmoid(*gate);
                let silu = *gate * s;
                let d_silu = (1.0 - s).mul_add(silu, s);
                *gate = gradient * *up * d_silu;
                *up = gradient * silu;
            }
        }
    }
}

vectorised! {
    /// Log-probabilities of the targets, in nats, ≤ 0.
    ///
    /// # Shapes
    /// `logits`: [N, V], left as scratch; `targets`: [N]; returns [N].
    pub(crate) fn log_probs(logits: &mut [f32], targets: &[u32]) -> Vec<f32> {
        let v = logits.len() / targets.len().max(1);
        let mut log_probs = vec![0.0; targets.len()];
        let rows = logits.chunks_exact_mut(v).zip(targets);
        for ((logits, &target), log_prob) in rows.zip(&mut log_probs) {
            (*log_prob, _) = log_softmax_at(logits, target);
        }
        log_probs
    }
}

vectorised! {
    /// Log-probabilities of the targets, and `scale` times the gradient of their negative sum in
    /// place of the logits.
    ///
    /// # Shapes
    /// `logits`: [N, V]; `targets`: [N]; returns [N].
    pub(crate) fn log_probs_and_gradient(
        logits: &mut [f32],
        targets: &[u32],
        scale: f32,
    ) -> Vec<f32> {
        let v = logits.len() / targets.len().max(1);
        let mut log_probs = vec![0.0; targets.len()];
        let rows = logits.chunks_exact_mut(v).zip(targets);
        for ((logits, &target), log_prob) in rows.zip(&mut log_probs) {
            let total;
            (*log_prob, total) = log_softmax_at(logits, target);
            let share = scale / total;
            for x in logits.iter_mut() {
                *x *= share;
            }
            logits[target as usize] -= scale;
        }
        log_probs
    }
}

/// The log-probability of one token; leaves e^(logit − max) in place, whose sum comes second.
#[inline(always)]
fn log_softmax_at(logits: &mut [f32], target: u32) -> (f32, f32) {
    let max = max(logits);
    let at_target = logits[target as usize] - max;
    let total = exp_and_sum(logits, max);
    let log_prob = at_target - total.ln();
    // Rounding may leave a hair above 0; this order lets NaN through.
    (if log_prob > 0.0 { 0.0 } else { log_prob }, total)
}

/// Adds rows of `gradient` to the rows of `table` that the tokens name, in token order.
///
/// # Shapes
/// `table`: [V, D]; `gradient`: [N, D].
pub(crate) fn embedding_backward(table: &mut [f32], tokens: &[u32], gradient: &[f32], d: usize) {
    for (&token, gradient) in tokens.iter().zip(gradient.chunks_exact(d)) {
        let row = &mut table[token as usize * d..][..d];
        for (x, g) in row.iter_mut().zip(gradient) {
            *x += g;
        }
    }
}

vectorised! {
    /// Σ x² in float64.
    pub(crate) fn sum_of_squares(x: &[f32]) -> f64 {
        let (chunks, rest) = x.as_chunks::<LANES>();
        let mut lanes = [0.0_f64; LANES];
        for chunk in chunks {
            for l in 0..LANES {
                let x = f64::from(chunk[l]);
                lanes[l] += x * x;
            }
        }
        let mut total: f64 = lanes.iter().sum();
        for &x in rest {
            total += f64::from(x) * f64::from(x);
        }
        total
    }
}

/// The numbers of one AdamW update, the same for every value of a parameter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AdamWStep {
    /// What the global-norm clip multiplies gradients by.
    pub(crate) clip: f32,
    /// 1 − rate · weight decay; 1 for parameters without decay.
    pub(crate) keep: f32,
    pub(crate) beta2: f32,
    pub(crate) one_minus_beta1: f32,
    pub(crate) one_minus_beta2: f32,
    /// √(1 − β₂ᵗ)
    pub(crate) correction2_sqrt: f32,
    pub(crate) eps: f32,
    /// rate / (1 − β₁ᵗ)
    pub(crate) step_size: f32,
}

impl AdamWStep {
    /// Updates one value; returns its change.
    #[inline(always)]
    fn apply(self, parameter: &mut f32, exp_avg: &mut f32, exp_avg_sq: &mut f32, g: f32) -> f64 {
        let before = *parameter;
        let g = g * self.clip;
        *exp_avg += self.one_minus_beta1 * (g - *exp_avg);
        *exp_avg_sq = *exp_avg_sq * self.beta2 + self.one_minus_beta2 * g * g;
        let denominator = exp_avg_sq.sqrt() / self.correction2_sqrt + self.eps;
        *parameter = before * self.keep - self.step_size * (*exp_avg / denominator);
        f64::from(*parameter - before)
    }
}

vectorised! {
    /// One AdamW update in place; returns Σ (change)² in float64.
    pub(crate) fn adamw(
        step: AdamWStep,
        parameter: &mut [f32],
        exp_avg: &mut [f32],
        exp_avg_sq: &mut [f32],
        gradient: &[f32],
    ) -> f64 {
        let (p_chunks, p_rest) = parameter.as_chunks_mut::<LANES>();
        let (m_chunks, m_rest) = exp_avg.as_chunks_mut::<LANES>();
        let (v_chunks, v_rest) = exp_avg_sq.as_chunks_mut::<LANES>();
        let (g_chunks, g_rest) = gradient.as_chunks::<LANES>();
        let mut lanes = [0.0_f64; LANES];
        for (((p, m), v), g) in p_chunks.iter_mut().zip(m_chunks).zip(v_chunks).zip(g_chunks) {
            for l in 0..LANES {
                let change = step.apply(&mut p[l], &mut m[l], &mut v[l], g[l]);
                lanes[l] += change * change;
            }
        }
        let mut total = lanes.iter().sum();
        for (((p, m), v), &g) in p_rest.iter_mut().zip(m_rest).zip(v_rest).zip(g_rest) {
            let change = step.apply(p, m, v, g);
            total += change * change;
        }
        total
    }
}

/// cos and sin of every position and every pair of rotated features.
///
/// Of a head's C features the first R are rotated, in pairs (i, i + R/2); the others pass.
///
/// # Shapes
/// Each [positions, R/2].
#[derive(Clone, Debug)]
pub(crate) struct Rotary {
    pub(crate) half: usize,
    pub(crate) cos: Vec<f32>,
    pub(crate) sin: Vec<f32>,
}

impl Rotary {
    /// Tables for positions `0..n`: the angle of pair i is position · `frequencies[i]`, computed in
    /// float32 as `transformers` does.
    pub(crate) fn new(n: usize, frequencies: &[f32]) -> Self {
        let angles = (0..n).flat_map(|t| frequencies.iter().map(move |f| t as f32 * f));
        let (cos, sin) = angles.map(|angle| (angle.cos(), angle.sin())).unzip();
        Self {
            half: frequencies.len(),
            cos,
            sin,
        }
    }

    /// Pairs of features with the cos and sin of their angles.
    #[inline(always)]
    fn turns(&self, position: usize) -> impl Iterator<Item = (&f32, &f32)> {
        let place = position * self.half..(position + 1) * self.half;
        self.cos[place.clone()].iter().zip(&self.sin[place])
    }

    /// Puts `scale` · `x`, rotated to `position`, into `out`; or, BACK, adds it to `out`, rotated
    /// back from there.
    #[inline(always)]
    fn turn<const BACK: bool>(&self, position: usize, x: &[f32], scale: f32, out: &mut [f32]) {
        #[inline(always)]
        fn put<const ADD: bool>(out: &mut f32, x: f32) {
            *out = if ADD { *out + x } else { x };
        }
        let (x1, x2) = x.split_at(self.half);
        let (x2, passing) = x2.split_at(self.half);
        let (out1, out2) = out.split_at_mut(self.half);
        let (out2, out_passing) = out2.split_at_mut(self.half);
        let pairs = x1.iter().zip(x2).zip(out1.iter_mut().zip(out2));
        for (((x1, x2), (out1, out2)), (cos, sin)) in pairs.zip(self.turns(position)) {
            let sign = if BACK { -1.0 } else { 1.0 };
            let (cos, sin) = (scale * cos, sign * (scale * sin));
            put::<BACK>(out1, x1 * cos - x2 * sin);
            put::<BACK>(out2, x2 * cos + x1 * sin);
        }
        for (out, x) in out_passing.iter_mut().zip(passing) {
            put::<BACK>(out, scale * x);
        }
    }
}

/// Causal attention over sequences of equal length, rotary positions included.
///
/// The rows that it reads are `[q; k; v]`: H heads of queries, then G of keys and G of values,
/// each shared by H/G heads of queries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attention<'a> {
    pub(crate) n_heads: usize,
    pub(crate) n_kv_heads: usize,
    pub(crate) head_dim: usize,
    /// Tokens of one sequence.
    pub(crate) seq_len: usize,
    /// What scores are multiplied by before the softmax.
    pub(crate) scale: f32,
    pub(crate) rotary: &'a Rotary,
    /// For each token the position in its sequence of the first that it may see; all before it
    /// where absent.
    pub(crate) starts: Option<&'a [u32]>,
}

/// Rows that [`product`] computes at a time.
const ROWS: usize = 4;

/// `c[r, 0..n] = Σ_k a[r, k] · b[k, 0..n]` for [`ROWS`] rows; `n` is a multiple of [`LANES`].
///
/// `a` is read at `r · a_row + k · a_col`, so it may be transposed.
#[inline(always)]
fn product(
    (a, a_row, a_col): (&[f32], usize, usize),
    k: Range<usize>,
    (b, b_row): (&[f32], usize),
    (c, c_row): (&mut [f32], usize),
    n: usize,
) {
    for from in (0..n).step_by(LANES) {
        // One variable a row: as an array of arrays they would live in memory.
        let [mut s0, mut s1, mut s2, mut s3] = [[0.0_f32; LANES]; ROWS];
        for k in k.clone() {
            let b: &[f32; LANES] = b[k * b_row + from..][..LANES]
                .try_into()
                .expect("LANES long");
            let a = &a[k * a_col..];
            add_product(&mut s0, a[0], b);
            add_product(&mut s1, a[a_row], b);
            add_product(&mut s2, a[2 * a_row], b);
            add_product(&mut s3, a[3 * a_row], b);
        }
        for (r, sums) in [s0, s1, s2, s3].iter().enumerate() {
            c[r * c_row + from..][..LANES].copy_from_slice(sums);
        }
    }
}

#[inline(always)]
fn add_product(sums: &mut [f32; LANES], a: f32, b: &[f32; LANES]) {
    for l in 0..LANES {
        sums[l] = a.mul_add(b[l], sums[l]);
    }
}

/// Buffers of one head, padded to whole vectors; the padding stays 0.
struct HeadScratch {
    /// Rows of `[T, T]` and of `[C, T]` matrices.
    t_pad: usize,
    /// Rows of `[T, C]` matrices.
    c_pad: usize,
    q_tc: Vec<f32>,
    k_tc: Vec<f32>,
    v_tc: Vec<f32>,
    k_ct: Vec<f32>,
    v_ct: Vec<f32>,
    p_tt: Vec<f32>,
}

impl Attention<'_> {
    /// Columns of the output.
    pub(crate) fn d(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Columns of `[q; k; v]`.
    pub(crate) fn width(&self) -> usize {
        (self.n_heads + 2 * self.n_kv_heads) * self.head_dim
    }

    /// The first position that a token of this sequence may see.
    #[inline(always)]
    fn start(&self, t: usize) -> usize {
        self.starts.map_or(0, |starts| starts[t] as usize)
    }

    /// Attention of one sequence among several.
    fn of_sequence(&self, sequence: usize) -> Self {
        let place = sequence * self.seq_len..(sequence + 1) * self.seq_len;
        Self {
            starts: self.starts.map(|starts| &starts[place]),
            ..*self
        }
    }

    fn scratch(&self, score_rows: usize) -> HeadScratch {
        let t_pad = self.seq_len.next_multiple_of(LANES);
        let c_pad = self.head_dim.next_multiple_of(LANES);
        HeadScratch {
            t_pad,
            c_pad,
            q_tc: vec![0.0; t_pad * c_pad],
            k_tc: vec![0.0; t_pad * c_pad],
            v_tc: vec![0.0; t_pad * c_pad],
            k_ct: vec![0.0; self.head_dim * t_pad],
            v_ct: vec![0.0; self.head_dim * t_pad],
            p_tt: vec![0.0; score_rows.next_multiple_of(LANES) * t_pad],
        }
    }

    /// Where in a row the queries of head `h` begin, and the keys and values that they meet.
    fn columns(&self, h: usize) -> [usize; 3] {
        let kv = self.n_heads + h * self.n_kv_heads / self.n_heads;
        [h, kv, kv + self.n_kv_heads].map(|head| head * self.head_dim)
    }

    /// Fills the scratch with one head of one sequence: q scaled, q and k rotated.
    #[inline(always)]
    fn load(&self, qkv: &[f32], h: usize, scratch: &mut HeadScratch) {
        let c = self.head_dim;
        let [q_at, k_at, v_at] = self.columns(h);
        let (t_pad, c_pad) = (scratch.t_pad, scratch.c_pad);
        for (t, row) in qkv.chunks_exact(self.width()).enumerate() {
            let q = &mut scratch.q_tc[t * c_pad..][..c];
            self.rotary
                .turn::<false>(t, &row[q_at..][..c], self.scale, q);
            let k = &mut scratch.k_tc[t * c_pad..][..c];
            self.rotary.turn::<false>(t, &row[k_at..][..c], 1.0, k);
            scratch.v_tc[t * c_pad..][..c].copy_from_slice(&row[v_at..][..c]);
        }
        transpose(
            &scratch.k_tc,
            self.seq_len,
            c,
            c_pad,
            &mut scratch.k_ct,
            t_pad,
        );
    }

    /// Softmax-weighted values, and the log of each row's sum of exponentials.
    ///
    /// # Shapes
    /// `qkv`: [N, (H + 2G)·C]; returns [N, H·C] and [sequences · H, T].
    pub(crate) fn forward(&self, qkv: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let (t, d) = (self.seq_len, self.d());
        let n = qkv.len() / self.width();
        let mut out = vec![0.0; n * d];
        let mut log_sums = vec![0.0; n * self.n_heads];
        let mut scratch = self.scratch(ROWS);
        let sequences = qkv
            .chunks_exact(self.width() * t)
            .zip(out.chunks_exact_mut(d * t))
            .zip(log_sums.chunks_exact_mut(self.n_heads * t));
        for (i, ((qkv, out), log_sums)) in sequences.enumerate() {
            attention_forward(self.of_sequence(i), &mut scratch, qkv, out, log_sums);
        }
        (out, log_sums)
    }

    #[inline(always)]
    fn head_forward(
        &self,
        h: usize,
        scratch: &mut HeadScratch,
        out: &mut [f32],
        log_sums: &mut [f32],
    ) {
        let (t, c, d) = (self.seq_len, self.head_dim, self.d());
        let (t_pad, c_pad) = (scratch.t_pad, scratch.c_pad);
        let HeadScratch {
            q_tc,
            v_tc,
            k_ct,
            p_tt,
            ..
        } = scratch;
        let mut out_rows = [0.0; ROWS * LANES];
        for from in (0..t).step_by(ROWS) {
            // Keys that any of these rows may see.
            let n_keys = (from + ROWS).next_multiple_of(LANES).min(t_pad);
            let q = (&q_tc[from * c_pad..], c_pad, 1);
            product(q, 0..c, (k_ct, t_pad), (p_tt, t_pad), n_keys);
            let rows = from..(from + ROWS).min(t);
            for (i, p) in rows.clone().zip(p_tt.chunks_exact_mut(t_pad)) {
                let p = &mut p[..n_keys];
                let start = self.start(i);
                p[..start].fill(f32::NEG_INFINITY);
                p[i + 1..].fill(f32::NEG_INFINITY);
                let max = max(p);
                let sum = exp_and_sum(p, max);
                p[..start].fill(0.0);
                p[i + 1..].fill(0.0);
                for p in p.iter_mut() {
                    *p /= sum;
                }
                log_sums[i] = max + sum.ln();
            }
            let k = 0..(from + ROWS).min(t);
            for c_from in (0..c).step_by(LANES) {
                let v = (&v_tc[c_from..], c_pad);
                product(
                    (p_tt, t_pad, 1),
                    k.clone(),
                    v,
                    (&mut out_rows, LANES),
                    LANES,
                );
                let width = LANES.min(c - c_from);
                for (i, row) in rows.clone().zip(out_rows.chunks_exact(LANES)) {
                    out[i * d + h * c + c_from..][..width].copy_from_slice(&row[..width]);
                }
            }
        }
    }

    /// The gradient of `[q; k; v]` from that of the output; scores are computed again.
    ///
    /// # Shapes
    /// `qkv`: [N, (H + 2G)·C]; `out`, `gradient`: [N, H·C]; `log_sums`: [sequences · H, T];
    /// returns the shape of `qkv`.
    pub(crate) fn backward(
        &self,
        qkv: &[f32],
        out: &[f32],
        log_sums: &[f32],
        gradient: &[f32],
    ) -> Vec<f32> {
        let (t, d) = (self.seq_len, self.d());
        let mut d_qkv = vec![0.0; qkv.len()];
        let mut scratch = self.scratch(t);
        let mut grads = HeadGradients::new(&scratch);
        let sequences = qkv
            .chunks_exact(self.width() * t)
            .zip(out.chunks_exact(d * t))
            .zip(gradient.chunks_exact(d * t))
            .zip(log_sums.chunks_exact(self.n_heads * t))
            .zip(d_qkv.chunks_exact_mut(self.width() * t));
        for (i, ((((qkv, out), gradient), log_sums), d_qkv)) in sequences.enumerate() {
            let given = Given {
                qkv,
                out,
                gradient,
                log_sums,
            };
            attention_backward(self.of_sequence(i), &mut scratch, &mut grads, given, d_qkv);
        }
        d_qkv
    }

    #[inline(always)]
    fn head_backward(
        &self,
        scratch: &mut HeadScratch,
        grads: &mut HeadGradients,
        log_sums: &[f32],
    ) {
        let (t, c) = (self.seq_len, self.head_dim);
        let (t_pad, c_pad) = (scratch.t_pad, scratch.c_pad);
        let HeadScratch {
            q_tc,
            k_tc,
            k_ct,
            v_ct,
            p_tt,
            ..
        } = scratch;
        for from in (0..t).step_by(ROWS) {
            let n_keys = (from + ROWS).next_multiple_of(LANES).min(t_pad);
            let p = &mut p_tt[from * t_pad..][..ROWS * t_pad];
            let ds = &mut grads.scores_tt[from * t_pad..][..ROWS * t_pad];
            let q = (&q_tc[from * c_pad..], c_pad, 1);
            product(q, 0..c, (k_ct, t_pad), (p, t_pad), n_keys);
            let d_out = (&grads.out_tc[from * c_pad..], c_pad, 1);
            product(d_out, 0..c, (v_ct, t_pad), (ds, t_pad), n_keys);
            for (r, (p, ds)) in p
                .chunks_exact_mut(t_pad)
                .zip(ds.chunks_exact_mut(t_pad))
                .enumerate()
            {
                let i = from + r;
                // Rows past the end belong to no token: their weights are 0.
                let n_seen = if i < t { i + 1 } else { 0 };
                let (log_sum, along) = match i < t {
                    true => (log_sums[i], grads.along_out_t[i]),
                    false => (0.0, 0.0),
                };
                let (p, ds) = (&mut p[..n_keys], &mut ds[..n_keys]);
                for (p, ds) in p.iter_mut().zip(ds.iter_mut()) {
                    *p = exp(*p - log_sum);
                    *ds = *p * (*ds - along);
                }
                let start = if i < t { self.start(i) } else { 0 };
                for p in [p, ds] {
                    p[..start].fill(0.0);
                    p[n_seen..].fill(0.0);
                }
            }
            let dq = &mut grads.q_tc[from * c_pad..];
            let k = 0..(from + ROWS).min(t);
            product((ds, t_pad, 1), k, (k_tc, c_pad), (dq, c_pad), c_pad);
        }
        let end = t.next_multiple_of(ROWS);
        for from in (0..t).step_by(ROWS) {
            // Keys from..from+ROWS are seen by the rows from there on.
            let (p, ds) = (&p_tt[from..], &grads.scores_tt[from..]);
            let dv = &mut grads.v_tc[from * c_pad..];
            product(
                (p, 1, t_pad),
                from..end,
                (&grads.out_tc, c_pad),
                (dv, c_pad),
                c_pad,
            );
            let dk = &mut grads.k_tc[from * c_pad..];
            product((ds, 1, t_pad), from..end, (q_tc, c_pad), (dk, c_pad), c_pad);
        }
    }

    /// Adds one head's gradients to the sequence's rows, rotated back; heads of queries that share
    /// keys and values meet there.
    #[inline(always)]
    fn store(&self, grads: &HeadGradients, c_pad: usize, h: usize, d_qkv: &mut [f32]) {
        let c = self.head_dim;
        let [q_at, k_at, v_at] = self.columns(h);
        for (t, row) in d_qkv.chunks_exact_mut(self.width()).enumerate() {
            let place = t * c_pad..t * c_pad + c;
            let (dq, dk) = (&grads.q_tc[place.clone()], &grads.k_tc[place.clone()]);
            self.rotary
                .turn::<true>(t, dq, self.scale, &mut row[q_at..][..c]);
            self.rotary.turn::<true>(t, dk, 1.0, &mut row[k_at..][..c]);
            for (out, dv) in row[v_at..][..c].iter_mut().zip(&grads.v_tc[place]) {
                *out += dv;
            }
        }
    }
}

vectorised! {
    /// [`Attention::forward`] of one sequence.
    fn attention_forward(
        attention: Attention<'_>,
        scratch: &mut HeadScratch,
        qkv: &[f32],
        out: &mut [f32],
        log_sums: &mut [f32],
    ) {
        for (h, log_sums) in log_sums.chunks_exact_mut(attention.seq_len).enumerate() {
            attention.load(qkv, h, scratch);
            attention.head_forward(h, scratch, out, log_sums);
        }
    }
}

/// What the way back through one sequence starts from.
#[derive(Clone, Copy)]
struct Given<'a> {
    qkv: &'a [f32],
    out: &'a [f32],
    /// Of `out`.
    gradient: &'a [f32],
    log_sums: &'a [f32],
}

vectorised! {
    /// [`Attention::backward`] of one sequence.
    fn attention_backward(
        attention: Attention<'_>,
        scratch: &mut HeadScratch,
        grads: &mut HeadGradients,
        given: Given<'_>,
        d_qkv: &mut [f32],
    ) {
        let (t, c, d) = (attention.seq_len, attention.head_dim, attention.d());
        let (c_pad, t_pad) = (scratch.c_pad, scratch.t_pad);
        for (h, log_sums) in given.log_sums.chunks_exact(t).enumerate() {
            attention.load(given.qkv, h, scratch);
            transpose(&scratch.v_tc, t, c, c_pad, &mut scratch.v_ct, t_pad);
            let rows = given.out.chunks_exact(d).zip(given.gradient.chunks_exact(d));
            for (i, (out, gradient)) in rows.enumerate() {
                let gradient = &gradient[h * c..][..c];
                grads.out_tc[i * c_pad..][..c].copy_from_slice(gradient);
                grads.along_out_t[i] = dot(gradient, &out[h * c..][..c]);
            }
            attention.head_backward(scratch, grads, log_sums);
            attention.store(grads, c_pad, h, d_qkv);
        }
    }
}

/// Gradients of one head, padded as [`HeadScratch`] is.
struct HeadGradients {
    out_tc: Vec<f32>,
    /// Each row's gradient · output.
    along_out_t: Vec<f32>,
    scores_tt: Vec<f32>,
    q_tc: Vec<f32>,
    k_tc: Vec<f32>,
    v_tc: Vec<f32>,
}

impl HeadGradients {
    fn new(scratch: &HeadScratch) -> Self {
        let (t, c) = (scratch.t_pad, scratch.c_pad);
        Self {
            out_tc: vec![0.0; t * c],
            along_out_t: vec![0.0; t],
            scores_tt: vec![0.0; t * t],
            q_tc: vec![0.0; t * c],
            k_tc: vec![0.0; t * c],
            v_tc: vec![0.0; t * c],
        }
    }
}

/// `out[c, t] = x[t, c]`.
#[inline(always)]
fn transpose(
    x: &[f32],
    rows: usize,
    columns: usize,
    x_row: usize,
    out: &mut [f32],
    out_row: usize,
) {
    for r in 0..rows {
        for c in 0..columns {
            out[c * out_row + r] = x[r * x_row + c];
        }
    }
}

#[cfg(test)]
mod tests;
