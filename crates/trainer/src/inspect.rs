//! `imprint-trainer inspect`: what an update trains on, for the user's own eyes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use imprint_core::{CheckpointSpec, ExperimentSpec, ModelSpec, below_root};
use imprint_data::TrainingData;

/// Prints an update of a run; `roots` are directories by the names that the site file gives them.
pub(crate) fn run(
    experiment: &Path,
    roots: &BTreeMap<String, PathBuf>,
    step: u32,
    run: usize,
    all: bool,
) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(experiment)
        .with_context(|| format!("read {}", experiment.display()))?;
    let base = std::path::absolute(experiment)
        .ok()
        .and_then(|path| path.parent().map(Path::to_owned))
        .unwrap_or_default();
    let mut spec = ExperimentSpec::parse_with(&text, experiment, |path| match below_root(path) {
        None => Ok(base.join(path)),
        Some((root, below)) => match roots.get(root) {
            Some(directory) => Ok(directory.join(below)),
            None => Err(format!(
                "`{}` is below the root `{root}` of a site: say where that is with \
                 `--root {root}=DIR`; a file whose name has a colon is written `./…`",
                path.display()
            )),
        },
    })?;
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
