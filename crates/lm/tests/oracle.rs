//! Agreement with PyTorch and `transformers`, by fixtures that
//! `python/oracle/make_lm_fixtures.py` made.

use std::path::PathBuf;

use imprint_core::{OptimizerSpec, TokenizedProbe};
use imprint_lm::{Learner, LearnerOptions};
use serde::Deserialize;

#[derive(Deserialize)]
struct Oracle {
    optimizer: OptimizerSpec,
    learning_rate: f64,
    /// [updates, rows, tokens]
    batches: Vec<Vec<Vec<u32>>>,
    /// [rows, tokens − 1] of the first batch
    log_probs_before: Vec<Vec<f32>>,
    losses_nats: Vec<f64>,
    grad_norms: Vec<f64>,
    log_probs_after: Vec<Vec<f32>>,
}

#[test]
fn one_file_float32_untied() {
    agrees("olmo-untied-float32");
}

#[test]
fn shards_bfloat16_tied() {
    agrees("olmo-tied-bfloat16");
}

/// How far single log-probabilities may lie apart after ten updates: Adam divides by the root of
/// a mean square, so the last digits of small gradients grow.
const AFTER_UPDATES_NATS: f32 = 1e-4;

#[track_caller]
fn agrees(fixture: &str) {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(fixture);
    let json = std::fs::read_to_string(dir.join("oracle.json")).expect("fixture is committed");
    let oracle: Oracle = serde_json::from_str(&json).expect("fixture is well formed");
    let options = LearnerOptions {
        optimizer: oracle.optimizer,
        ..LearnerOptions::default()
    };
    let mut learner = Learner::load_hugging_face(&dir, &options).expect("fixture loads");

    let far = largest_difference(&learner, &oracle.batches[0], &oracle.log_probs_before);
    assert!(far < 1e-5, "log-probabilities are {far} nats apart");

    for (update, batch) in oracle.batches.iter().enumerate() {
        let report = learner
            .update(&batch.concat(), batch[0].len(), oracle.learning_rate)
            .expect("batch fits");
        let loss = oracle.losses_nats[update];
        assert!(
            (report.loss_nats - loss).abs() < 1e-4,
            "loss of update {update}: {} against {loss}",
            report.loss_nats
        );
        let norm = oracle.grad_norms[update];
        assert!(
            (report.grad_norm - norm).abs() < 1e-4 * norm,
            "gradient norm of update {update}: {} against {norm}",
            report.grad_norm
        );
    }

    let far = largest_difference(&learner, &oracle.batches[0], &oracle.log_probs_after);
    assert!(
        far < AFTER_UPDATES_NATS,
        "after the updates they are {far} nats apart"
    );
}

/// Reads every token of the rows on its own: as the one target token after all before it.
fn largest_difference(learner: &Learner, rows: &[Vec<u32>], expected: &[Vec<f32>]) -> f32 {
    let probes: Vec<TokenizedProbe> = (rows.iter())
        .flat_map(|row| {
            (2..=row.len()).map(|n| TokenizedProbe {
                tokens: row[..n].to_vec(),
                n_target_tokens: 1,
            })
        })
        .collect();
    let packed = learner.pack(&probes).expect("rows fit the model");
    let sums = learner.read(&packed);
    let expected: Vec<f32> = expected.concat();
    assert_eq!(sums.len(), expected.len());
    sums.iter()
        .zip(&expected)
        .map(|(sums, expected)| (sums.target_nats - expected).abs())
        .fold(0.0, f32::max)
}
