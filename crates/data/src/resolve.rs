//! From the files that an experiment names to the inputs of its expansion.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use imprint_core::{
    CheckpointIdentity, CheckpointSource, CheckpointSpec, ExperimentSpec, OptimizerStart,
    ResolvedInputs, SpecHash,
};
use serde_json::Value;

use crate::digest::{checkpoint_sha256, corpus_file_sha256, file_sha256};
use crate::{Error, Result, Tokenizer, load_facts};

/// What expansion needs and the experiment file lacks: facts, vocabulary, and every hash.
///
/// `parent` gives the hash of a run by its label.
///
/// # Errors
/// When a file is missing or malformed, a checkpoint directory is incomplete, a parent run is not
/// known, or the tokenizer's vocabulary exceeds a model's.
pub fn resolve(
    spec: &ExperimentSpec,
    parent: impl Fn(&str) -> Option<SpecHash>,
) -> Result<ResolvedInputs> {
    let data = &spec.data;
    let tokenizer = Tokenizer::open(&data.tokenizer)?;
    tokenizer.eos_id(&data.eos)?;
    Ok(ResolvedInputs {
        facts: load_facts(&data.facts)?,
        facts_sha256: file_sha256(&data.facts)?,
        tokenizer_sha256: file_sha256(&data.tokenizer)?,
        tokenizer_vocab_size: tokenizer.vocab_size(),
        corpus_sha256: data
            .corpus
            .files
            .iter()
            .map(|path| corpus_file_sha256(path))
            .collect::<Result<_>>()?,
        checkpoints: spec
            .checkpoint
            .iter()
            .map(|c| checkpoint(c, tokenizer.vocab_size(), &parent))
            .collect::<Result<_>>()?,
    })
}

fn checkpoint(
    spec: &CheckpointSpec,
    tokenizer_vocab_size: u32,
    parent: impl Fn(&str) -> Option<SpecHash>,
) -> Result<(CheckpointIdentity, CheckpointSource)> {
    let refuse = |problem: String| Error::Checkpoint {
        checkpoint: spec.name.clone(),
        problem,
    };
    let fits = |vocab_size: u64| {
        if u64::from(tokenizer_vocab_size) <= vocab_size {
            return Ok(());
        }
        Err(refuse(format!(
            "the tokenizer's vocabulary ({tokenizer_vocab_size}) exceeds the model's ({vocab_size})"
        )))
    };
    match (&spec.path, &spec.run, &spec.init) {
        (Some(path), None, None) => {
            fits(config_vocab_size(path)?)?;
            Ok((
                CheckpointIdentity::Directory {
                    sha256: checkpoint_sha256(path)?,
                    global_step: spec.global_step.unwrap_or(0),
                    optimizer: spec.optimizer.unwrap_or(OptimizerStart::Reset),
                },
                CheckpointSource::Directory { path: path.clone() },
            ))
        }
        (None, Some(label), None) => {
            let run = parent(label).ok_or_else(|| {
                refuse(format!(
                    "there is no run `{label}`; submit the experiment that makes it first"
                ))
            })?;
            let step = spec
                .step
                .ok_or_else(|| refuse("`run` and `step` go together".to_owned()))?;
            Ok((
                CheckpointIdentity::Run {
                    run,
                    step,
                    optimizer: spec.optimizer.unwrap_or(OptimizerStart::Load),
                },
                CheckpointSource::Run,
            ))
        }
        (None, None, Some(model)) => {
            if let Some(vocab_size) = model.vocab_size {
                fits(u64::from(vocab_size))?;
            }
            Ok((
                CheckpointIdentity::Scratch {
                    model: model.clone(),
                },
                CheckpointSource::Scratch,
            ))
        }
        _ => Err(refuse(
            "give exactly one of `path`, `run` (with `step`) and `init`".to_owned(),
        )),
    }
}

fn read_json(path: &Path) -> Result<Value> {
    let text = fs::read(path).map_err(|err| Error::Read {
        path: path.to_owned(),
        err,
    })?;
    serde_json::from_slice(&text).map_err(|err| Error::Json {
        path: path.to_owned(),
        err,
    })
}

fn config_vocab_size(directory: &Path) -> Result<u64> {
    let path = directory.join("config.json");
    read_json(&path)?["vocab_size"]
        .as_u64()
        .ok_or_else(|| Error::CheckpointDirectory {
            path,
            problem: "`vocab_size` is missing or no number".to_owned(),
        })
}

/// The weight files of a Hugging Face directory, by name: those of the shard index, else
/// `model.safetensors`.
///
/// # Errors
/// When one of them is not there.
pub(crate) fn checkpoint_shards(directory: &Path) -> Result<Vec<PathBuf>> {
    let refuse = |path: &Path, problem: String| Error::CheckpointDirectory {
        path: path.to_owned(),
        problem,
    };
    let index = directory.join("model.safetensors.index.json");
    if !index.exists() {
        let single = directory.join("model.safetensors");
        if single.is_file() {
            return Ok(vec![single]);
        }
        let problem = "holds neither model.safetensors nor model.safetensors.index.json";
        return Err(refuse(directory, problem.to_owned()));
    }
    let json = read_json(&index)?;
    let map = json["weight_map"]
        .as_object()
        .ok_or_else(|| refuse(&index, "`weight_map` is missing".to_owned()))?;
    let names: BTreeSet<&str> = map.values().filter_map(Value::as_str).collect();
    names
        .into_iter()
        .map(|name| {
            let shard = directory.join(name);
            if shard.is_file() {
                return Ok(shard);
            }
            Err(refuse(
                &index,
                format!("names the shard {name}, which is not there"),
            ))
        })
        .collect()
}

#[cfg(test)]
mod tests;
