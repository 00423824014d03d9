//! What simulated trainers run and measure: values that are a function of who measured what, so that
//! whoever reads them back knows every bit that should be there.

use crate::{
    CheckpointIdentity, CheckpointSource, CorpusFormat, CorpusManifest, LearningRate, ModelSpec,
    OptimizerSpec, OrderIdentity, Precision, ProbingSpec, ResourcesSpec, RunFiles, RunIdentity,
    RunSpec, SavingSpec, Scenario, StepReadings, TrainingSpec, UpdateStats,
};

/// The configuration of a run whose trainer is simulated: of a model that nobody trains, on files
/// that are not there.
pub fn spec(label: &str, n_updates: u32, scenario_name: &str, scenario: Scenario) -> RunSpec {
    RunSpec {
        label: label.to_owned(),
        identity: RunIdentity {
            facts_sha256: "facts".to_owned(),
            tokenizer_sha256: "tokenizer".to_owned(),
            corpus: CorpusManifest {
                format: CorpusFormat::Uint16,
                text_field: None,
                order: OrderIdentity::Sequential,
                max_epochs: 1,
                start_instance: 0,
                files_sha256: vec!["corpus".to_owned()],
            },
            checkpoint: CheckpointIdentity::Scratch {
                model: ModelSpec {
                    vocab_size: Some(16),
                    hidden_size: 8,
                    intermediate_size: 8,
                    num_hidden_layers: 1,
                    num_attention_heads: 1,
                    tie_word_embeddings: true,
                    max_position_embeddings: Some(8),
                    rope_theta: 1e4,
                },
            },
            scenario_name: scenario_name.to_owned(),
            scenario,
            batch_size: 4,
            seq_len: 8,
            seed: 0,
            eos: "<|endoftext|>".to_owned(),
            document_mask: false,
            training: TrainingSpec {
                steps: n_updates,
                learning_rate: LearningRate::constant(1e-3),
                optimizer: OptimizerSpec::default(),
                precision: Precision::Float32,
                micro_batch_rows: None,
            },
            probing: ProbingSpec::default(),
            repeat: 0,
        },
        files: RunFiles {
            facts: "facts.json".into(),
            tokenizer: "tokenizer.json".into(),
            corpus: vec!["corpus.npy".into()],
            order: None,
            checkpoint: CheckpointSource::Scratch,
        },
        saving: SavingSpec::default(),
        resources: ResourcesSpec::default(),
    }
}

/// The reading of a simulated trainer: every value follows from (run, step, probe, span, attempt),
/// and values of different ones differ but for chance.
///
/// # Units
/// Nats, between −16 and 0.
pub fn reading(run_id: i32, index: u32, step: u32, attempt: u32, n_probes: u32) -> StepReadings {
    let span = |span: u64| {
        let of_span = mixed(of_step(run_id, step, attempt) ^ span);
        (0..u64::from(n_probes))
            .map(|probe| -16.0 * unit(mixed(of_span ^ probe)) as f32)
            .collect()
    };
    StepReadings {
        index,
        step,
        measured_by: attempt,
        first_sum_nats: span(1),
        target_sum_nats: span(2),
        full_sum_nats: span(3),
    }
}

/// The statistics of a simulated trainer's update, each a function of (run, step, attempt).
pub fn update(run_id: i32, step: u32, attempt: u32) -> UpdateStats {
    let of_update = mixed(of_step(run_id, step, attempt));
    let drawn = |n: u64| unit(mixed(of_update ^ n));
    UpdateStats {
        step,
        measured_by: attempt,
        loss_nats: 8.0 * drawn(1),
        learning_rate: 1e-3 * drawn(2),
        grad_norm: 2.0 * drawn(3),
        update_norm: 0.1 * drawn(4),
        n_tokens: 4096,
        n_injected_tokens: (512.0 * drawn(5)) as u32,
        duration_ms: 100.0 * drawn(6) as f32,
    }
}

fn of_step(run_id: i32, step: u32, attempt: u32) -> u64 {
    mixed((u64::from(run_id as u32) << 32 | u64::from(step)) ^ mixed(attempt.into()))
}

/// A number in [0, 1) of 24 bits, which a float32 holds exactly.
fn unit(bits: u64) -> f64 {
    (bits >> 40) as f64 / f64::from(1 << 24)
}

/// The finalizer of SplitMix64: every bit of the answer hangs on every bit of the question.
fn mixed(x: u64) -> u64 {
    let x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests;
