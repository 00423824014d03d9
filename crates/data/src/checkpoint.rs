//! What lies in a checkpoint directory, by the names of its files: enough to refuse one at submit.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use imprint_core::Standing;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::digest::file_sha256;
use crate::{Error, Result};

/// The files of a checkpoint directory, in Hugging Face's layout, that of a saved state (which is
/// Hugging Face's with moments), or OLMo's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointFiles {
    /// `config.json` or `config.yaml`.
    pub config: PathBuf,
    pub weights: Vec<PathBuf>,
    /// The optimizer's moments.
    pub optimizer: Option<PathBuf>,
    /// The manifest of a saved state.
    pub manifest: Option<PathBuf>,
    /// What OLMo's trainer was in the middle of.
    pub trainer_state: Option<PathBuf>,
}

impl CheckpointFiles {
    /// Looks a directory through.
    ///
    /// # Errors
    /// When its configuration or a file with weights is not there.
    pub fn find(directory: &Path) -> Result<Self> {
        let there = |names: &[&str]| {
            let paths = names.iter().map(|name| directory.join(name));
            paths.into_iter().find(|path| path.is_file())
        };
        let yaml = directory.join("config.yaml");
        let config = directory.join("config.json");
        if yaml.is_file() && !config.is_file() {
            let weights = there(&["model.safetensors", "model.pt"]);
            let weights = weights.ok_or_else(|| {
                let mut of_shards = ["model", "model_and_optim"]
                    .map(|n| directory.join(n))
                    .into_iter();
                let problem = match of_shards.any(|shards| shards.is_dir()) {
                    true => {
                        "is a sharded checkpoint; make it one file with OLMo's \
                             scripts/unshard.py"
                    }
                    false => "holds neither model.safetensors nor model.pt beside its config.yaml",
                };
                refuse(directory, problem)
            })?;
            return Ok(Self {
                config: yaml,
                weights: vec![weights],
                optimizer: there(&["optim.safetensors", "optim.pt"]),
                manifest: None,
                trainer_state: there(&["train.safetensors", "train.pt", "other.pt"]),
            });
        }
        // The order in which the trainer looks.
        let forms = [
            ("model.safetensors", "model.safetensors.index.json"),
            ("pytorch_model.bin", "pytorch_model.bin.index.json"),
        ];
        let found = forms
            .into_iter()
            .find_map(|(single, index)| Some((there(&[single]), there(&[single, index])?)));
        let weights = match found {
            Some((Some(single), _)) => vec![single],
            Some((None, index)) => shards(directory, &index)?,
            None => {
                return Err(refuse(
                    directory,
                    "holds no weights: no model.safetensors, no pytorch_model.bin and no index of \
                     shards",
                ));
            }
        };
        Ok(Self {
            config,
            weights,
            optimizer: there(&["optimizer.safetensors"]),
            manifest: there(&["state.json"]),
            trainer_state: None,
        })
    }

    /// Where the model of a saved state stands, as its manifest says; `None` for other directories.
    ///
    /// # Errors
    /// When the manifest cannot be read or does not say.
    pub(crate) fn saved_standing(&self) -> Result<Option<Standing>> {
        let Some(path) = &self.manifest else {
            return Ok(None);
        };
        let manifest = read_json(path)?;
        // Beyond a signed number, sums with what a run adds would not fit.
        let count = |key: &str| {
            let count = manifest[key].as_i64().and_then(|n| u64::try_from(n).ok());
            count.ok_or_else(|| {
                refuse(
                    path,
                    format!("is no saved state's: `{key}` is missing or no count"),
                )
            })
        };
        Ok(Some(Standing {
            global_step: count("global_step")?,
            tokens_seen: match &manifest["tokens_seen"] {
                Value::Null => None,
                _ => Some(count("tokens_seen")?),
            },
        }))
    }

    /// SHA-256 over the names and hashes of the configuration and the weights, and of the moments
    /// where they are to be loaded: what decides the first forward and backward pass.
    ///
    /// An index of shards says nothing that they do not, and is left out.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn sha256(&self, with_optimizer: bool) -> Result<String> {
        let optimizer = self.optimizer.iter().filter(|_| with_optimizer);
        let mut files: Vec<&PathBuf> = [&self.config]
            .into_iter()
            .chain(&self.weights)
            .chain(optimizer)
            .collect();
        files.sort_unstable();
        let mut hasher = Sha256::new();
        for path in files {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            hasher.update(format!("{name}\0{}\n", file_sha256(path)?));
        }
        Ok(format!("{:x}", hasher.finalize()))
    }

    /// The rows of the model's embedding, where the configuration names them.
    ///
    /// # Errors
    /// When the configuration cannot be read, or is JSON without them.
    pub(crate) fn vocab_size(&self) -> Result<Option<u64>> {
        if self.config.extension().is_some_and(|e| e == "yaml") {
            // Lines suffice for an early refusal: whoever loads the model reads all of it.
            let text = fs::read_to_string(&self.config).map_err(cannot_read(&self.config))?;
            let value = |key: &str| {
                let line = text.lines().find_map(|l| l.trim().strip_prefix(key));
                line.and_then(|rest| rest.trim().parse::<u64>().ok())
            };
            let sizes = (value("embedding_size:"), value("vocab_size:"));
            return Ok(match sizes {
                (Some(padded), Some(size)) => Some(padded.max(size)),
                // What a missing one stands for is known to the reader of the model.
                _ => None,
            });
        }
        let size = read_json(&self.config)?["vocab_size"].as_u64();
        let size =
            size.ok_or_else(|| refuse(&self.config, "`vocab_size` is missing or no number"))?;
        Ok(Some(size))
    }
}

fn refuse(path: &Path, problem: impl Into<String>) -> Error {
    Error::CheckpointDirectory {
        path: path.to_owned(),
        problem: problem.into(),
    }
}

fn cannot_read(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    |err| Error::Read { path, err }
}

fn read_json(path: &Path) -> Result<Value> {
    let text = fs::read(path).map_err(cannot_read(path))?;
    serde_json::from_slice(&text).map_err(|err| Error::Json {
        path: path.to_owned(),
        err,
    })
}

/// The files that a shard index names.
fn shards(directory: &Path, index: &Path) -> Result<Vec<PathBuf>> {
    let json = read_json(index)?;
    let map = json["weight_map"]
        .as_object()
        .ok_or_else(|| refuse(index, "`weight_map` is missing"))?;
    let names: BTreeSet<&str> = map.values().filter_map(Value::as_str).collect();
    names
        .into_iter()
        .map(|name| {
            let shard = directory.join(name);
            match shard.is_file() {
                true => Ok(shard),
                false => Err(refuse(
                    index,
                    format!("names the shard {name}, which is not there"),
                )),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests;
