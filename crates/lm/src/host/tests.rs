//! Every loop against its definition in tensor operations, and its gradient against automatic
//! differentiation of that definition.

use burn::tensor::{Device, Tensor};
use imprint_core::Precision;
use proptest::prelude::*;

use super::*;
use crate::reference;
use crate::tape::{Compute, Kernels, Matrix, Tokens};

const COMPUTE: Compute = Compute {
    kernels: Kernels::Tensor,
    precision: Precision::Float32,
    recomputes_layers: false,
};

/// Values in about ±2, different for every seed.
fn values(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    (0..n)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(seed | 1);
            (state >> 40) as f32 / (1_u64 << 22) as f32 - 2.0
        })
        .collect()
}

fn tensor(values: &[f32], columns: usize) -> Tensor<2> {
    Matrix::new(values.to_vec(), columns).put(&Device::flex())
}

#[track_caller]
fn assert_near(found: &[f32], expected: Tensor<2>, tolerance: f32) {
    let expected = Matrix::take(expected);
    assert_eq!(found.len(), expected.values().len());
    for (i, (found, expected)) in found.iter().zip(expected.values()).enumerate() {
        let far = (found - expected).abs();
        assert!(
            far <= tolerance * (1.0 + expected.abs()),
            "at {i}: {found} against {expected}"
        );
    }
}

#[test]
fn exp_is_right_to_a_few_units_in_the_last_place() {
    for i in -87_000..88_000 {
        let x = i as f32 / 1000.0;
        let exact = f64::from(x).exp();
        let far = (f64::from(exp(x)) - exact).abs() / exact;
        assert!(far < 2.5e-7, "exp({x}) is off by {far}");
    }
    assert_eq!(exp(0.0), 1.0);
    assert!(exp(f32::NAN).is_nan());
    assert!(exp(f32::NEG_INFINITY) < 1.3e-38);
    assert!(exp(f32::INFINITY) > 1e38);
}

#[test]
fn infinity_and_nan_reach_the_loss() {
    for poison in [f32::NAN, f32::INFINITY] {
        for place in [0, 3, 19] {
            let mut logits = values(20, 1);
            logits[place] = poison;
            let log_prob = log_probs(&mut logits, &[5])[0];
            assert!(!log_prob.is_finite(), "{poison} at {place} gave {log_prob}");
        }
    }
}

#[test]
fn embedding_gradients_add_up_where_tokens_repeat() {
    let mut table = vec![1.0; 6];
    embedding_backward(
        &mut table,
        &[2, 0, 2],
        &[1.0, 2.0, 10.0, 20.0, 100.0, 200.0],
        2,
    );
    assert_eq!(table, [11.0, 21.0, 1.0, 1.0, 102.0, 203.0]);
}

#[test]
fn squares_are_summed_in_float64() {
    // In float32 the small ones would vanish beside the large one.
    let mut x = vec![1e-3; 100_001];
    x[0] = 1e3;
    let expected = 1e6 + 1e5 * f64::from(1e-3_f32).powi(2);
    assert!((sum_of_squares(&x) - expected).abs() < 1e-6);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn norms_agree(
        rows in 1_usize..5,
        widths in prop::collection::vec(2_usize..40, 1..3),
        rest in 0_usize..20,
        is_rms in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let kind = if is_rms { NormKind::Rms } else { NormKind::Layer };
        let d = widths.iter().sum::<usize>() + rest;
        let x = values(rows * d, seed);
        let gradient = values(rows * d, seed ^ 1);
        let mut y = x.clone();
        let rstd = norm(&mut y, d, &widths, kind, 1e-5);
        let definition = |x| reference::norm(x, &widths, kind, 1e-5);
        assert_near(&y, definition(tensor(&x, d)), 1e-5);
        let expected = reference::pull_back(definition, tensor(&x, d), tensor(&gradient, d));
        let mut found = gradient;
        norm_backward(&y, &rstd, &mut found, d, &widths, kind);
        // Rows that are nearly constant are divided by a small σ.
        let steep = rstd.iter().fold(1.0_f32, |a, &b| a.max(b));
        assert_near(&found, expected, 1e-5 * steep * steep);
    }

    #[test]
    fn activations_agree(n in 1_usize..70, seed in any::<u64>()) {
        let x: Vec<f32> = values(n, seed).iter().map(|x| 4.0 * x).collect();
        let gradient = values(n, seed ^ 1);
        for kind in [Activation::Gelu, Activation::GeluTanh, Activation::Relu] {
            let definition = |x| reference::activate(kind, x);
            let mut y = x.clone();
            activate(kind, &mut y);
            assert_near(&y, definition(tensor(&x, n)), 1e-6);
            let expected = reference::pull_back(definition, tensor(&x, n), tensor(&gradient, n));
            let mut found = gradient.clone();
            activate_backward(kind, &x, &mut found);
            assert_near(&found, expected, 1e-5);
        }
    }

    #[test]
    fn swiglu_agrees(rows in 1_usize..5, ff in 1_usize..70, seed in any::<u64>()) {
        let gate_up: Vec<f32> = values(rows * 2 * ff, seed).iter().map(|x| 4.0 * x).collect();
        let gradient = values(rows * ff, seed ^ 1);
        let expected = reference::swiglu(tensor(&gate_up, 2 * ff));
        assert_near(&swiglu(&gate_up, ff), expected, 1e-5);
        let expected = reference::pull_back(
            reference::swiglu,
            tensor(&gate_up, 2 * ff),
            tensor(&gradient, ff),
        );
        let mut found = gate_up;
        swiglu_backward(&mut found, &gradient, ff);
        assert_near(&found, expected, 1e-5);
    }

    #[test]
    fn log_probs_agree(rows in 1_usize..5, v in 2_usize..70, seed in any::<u64>()) {
        let logits: Vec<f32> = values(rows * v, seed).iter().map(|x| 6.0 * x).collect();
        let targets: Vec<u32> = (0..rows).map(|r| ((seed as usize + r * 31) % v) as u32).collect();
        let tokens = Tokens::new(targets.clone(), &Device::flex());
        let (expected, gradient) = reference::log_probs_and_gradient(
            tensor(&logits, v),
            tokens.tensor.clone(),
            0.25,
        );
        let mut found_gradient = logits.clone();
        let found = log_probs_and_gradient(&mut found_gradient, &targets, 0.25);
        assert_near(&found_gradient, gradient, 1e-5);
        assert_near(&found, expected.reshape([rows, 1]), 1e-5);
        assert_eq!(log_probs(&mut logits.clone(), &targets), found.clone());
        assert!(found.iter().all(|&x| x <= 0.0));
        let alone = reference::log_probs(tensor(&logits, v), tokens.tensor);
        assert_near(&found, alone.reshape([rows, 1]), 1e-5);
    }

    #[test]
    fn attention_agrees(
        n_sequences in 1_usize..3,
        seq_len in 1_usize..40,
        n_kv_heads in 1_usize..3,
        heads_per_kv in 1_usize..3,
        half_head in 1_usize..12,
        rotated_share in 0_usize..3,
        has_documents in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let head_dim = 2 * half_head;
        let n_heads = n_kv_heads * heads_per_kv;
        let n = n_sequences * seq_len;
        let half = half_head * rotated_share / 2;
        let frequencies: Vec<f32> = (0..half).map(|i| 1.0 / (1.0 + i as f32)).collect();
        let rotary = Rotary::new(64, &frequencies);
        let ids = values(n, seed ^ 2).iter().map(|x| u32::from(*x > 1.5)).collect();
        let tokens = Tokens::new(ids, &Device::flex()).with_documents(seq_len, 1);
        let attention = Attention {
            n_heads,
            n_kv_heads,
            head_dim,
            seq_len,
            scale: 0.3,
            rotary: &rotary,
            starts: tokens.starts.as_deref().filter(|_| has_documents),
        };
        let definition = reference::Attention::new(attention, COMPUTE, &Device::flex());
        let (width, d) = (attention.width(), attention.d());
        let qkv = values(n * width, seed);
        let gradient = values(n * d, seed ^ 1);
        let (out, log_sums) = attention.forward(&qkv);
        assert_near(&out, definition.forward(&tensor(&qkv, width)), 2e-5);
        let expected = reference::pull_back(
            |qkv| definition.forward(&qkv),
            tensor(&qkv, width),
            tensor(&gradient, d),
        );
        let found = attention.backward(&qkv, &out, &log_sums, &gradient);
        assert_near(&found, expected, 1e-4);
    }
}

#[test]
fn a_token_sees_its_document_from_its_beginning() {
    let tokens = Tokens::new(vec![5, 9, 5, 5, 9, 9, 5, 5], &Device::flex()).with_documents(4, 9);
    assert_eq!(tokens.starts.expect("asked for"), [0, 0, 2, 2, 0, 1, 2, 2]);
}
