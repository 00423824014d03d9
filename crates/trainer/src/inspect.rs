//! `imprint-trainer inspect`: what an update trains on, for the user's own eyes.

use std::path::Path;

use anyhow::Context as _;
use imprint_core::{CheckpointSpec, ExperimentSpec, ModelSpec};
use imprint_data::TrainingData;

pub(crate) fn run(experiment: &Path, step: u32, run: usize, all: bool) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(experiment)
        .with_context(|| format!("read {}", experiment.display()))?;
    let base = std::path::absolute(experiment)
        .ok()
        .and_then(|path| path.parent().map(Path::to_owned))
        .unwrap_or_default();
    let mut spec = ExperimentSpec::parse(&text, experiment, &base)?;
    for checkpoint in &mut spec.checkpoint {
        *checkpoint = without_weights(&checkpoint.name);
    }
    let runs = spec.expand(&imprint_data::resolve(&spec, |_| None)?)?;
    let chosen = runs.get(run).with_context(|| {
        format!(
            "{} has {} runs, numbered from 0; there is no run {run}",
            spec.name,
            runs.len()
        )
    })?;
    let data = TrainingData::open(chosen)?;
    for warning in data.warnings() {
        eprintln!("warning: {warning}");
    }
    let inspection = data.inspect(step, all)?;
    println!(
        "{}",
        serde_json::to_string(&inspection).context("write the batch")?
    );
    Ok(())
}

/// A checkpoint that nothing is read from: batches do not depend on weights.
fn without_weights(name: &str) -> CheckpointSpec {
    CheckpointSpec {
        name: name.to_owned(),
        path: None,
        sha256: None,
        trainer_state_sha256: None,
        run: None,
        step: None,
        init: Some(ModelSpec {
            vocab_size: None,
            hidden_size: 2,
            intermediate_size: 1,
            num_hidden_layers: 1,
            num_attention_heads: 1,
            tie_word_embeddings: true,
            max_position_embeddings: None,
            rope_theta: 1.0,
        }),
        global_step: None,
        tokens_seen: None,
        optimizer: None,
    }
}
