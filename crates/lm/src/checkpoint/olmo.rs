//! OLMo's own checkpoint directories, under Hugging Face's names.
//!
//! `config.yaml` becomes the keys of a `config.json`; the fused matrices of `model.pt` or
//! `model.safetensors` become rows of them under the names of a Hugging Face file, and so do the
//! moments of `optim.pt` or `optim.safetensors`; `train.pt` tells the steps and tokens seen.
//! Whoever reads a model from here knows nothing of the layout.
//!
//! # Source
//! `allenai/OLMo`: `olmo/config.py`, `model.py` (`_make_state_dict_compatible`), `checkpoint.py`,
//! `optim.py`, `train.py`, `safetensors_util.py`, `scripts/convert_olmo_to_hf_new.py`,
//! `scripts/convert_olmo2_to_hf.py`.

mod config;
mod optimizer;
mod state;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use self::config::NativeConfig;
use self::state::State;
use super::tensor::Tensor;
use super::{CONFIG, OPTIMIZER, TensorFiles, unfinished};
use crate::error::Error;

const NATIVE_CONFIG: &str = "config.yaml";

/// A directory that OLMo's trainer wrote (unsharded).
pub(crate) struct OlmoNative {
    dir: PathBuf,
    config: NativeConfig,
}

/// An optimizer's moments, named by parameter, [`super::EXP_AVG`] and [`super::EXP_AVG_SQ`].
pub(crate) struct NativeOptimizer {
    pub(crate) moments: TensorFiles,
    pub(crate) n_updates: u64,
}

/// What a trainer's state says that decides how training goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TrainerState {
    pub(crate) global_step: u64,
    pub(crate) tokens_seen: u64,
}

impl OlmoNative {
    /// Whether a directory is in this layout: it has OLMo's configuration, and not Hugging Face's.
    pub(crate) fn is_in(dir: &Path) -> bool {
        dir.join(NATIVE_CONFIG).is_file() && !dir.join(CONFIG).is_file()
    }

    /// The directory, of which the configuration is read.
    ///
    /// # Errors
    /// When the configuration cannot be read, or asks for mathematics that is not done here.
    pub(crate) fn open(dir: &Path) -> Result<Self, Error> {
        Ok(Self {
            dir: dir.to_owned(),
            config: NativeConfig::read(&dir.join(NATIVE_CONFIG))?,
        })
    }

    /// The keys of a `config.json` that describes the same model.
    pub(crate) fn config(&self) -> &Map<String, Value> {
        &self.config.hugging_face
    }

    /// The weights, under Hugging Face's names and in its shapes.
    ///
    /// # Errors
    /// When they are missing or damaged, or a fused matrix has not the rows that the configuration
    /// calls for.
    pub(crate) fn weights(&self) -> Result<TensorFiles, Error> {
        let path = self.find("model").ok_or_else(|| {
            let is_sharded = ["model", "model_and_optim"];
            if is_sharded.iter().any(|name| self.dir.join(name).is_dir()) {
                return Error::State {
                    path: self.dir.clone(),
                    reason: "is a sharded checkpoint; make it one file with OLMo's \
                             scripts/unshard.py"
                        .to_owned(),
                };
            }
            unfinished(&self.dir).unwrap_or_else(|| Error::NoWeights {
                dir: self.dir.clone(),
            })
        })?;
        let state = State::read(path, false)?;
        let tensors = state.named_tensors()?;
        let tensors = self.under_hugging_face_names(tensors, "", &state.path)?;
        Ok(state.tensor_files(tensors))
    }

    /// The optimizer, where it was saved.
    ///
    /// # Errors
    /// When its file is damaged, is not AdamW's, or its parameters cannot be told apart.
    pub(crate) fn optimizer(&self) -> Result<Option<NativeOptimizer>, Error> {
        match self.find("optim") {
            Some(path) => self.optimizer_in(path).map(Some),
            None => Ok(None),
        }
    }

    fn optimizer_in(&self, path: PathBuf) -> Result<NativeOptimizer, Error> {
        let state = State::read(path, false)?;
        let found = optimizer::read(&state, self.config.n_layers())?;
        let mut tensors = BTreeMap::new();
        for (moments, suffix) in [
            (found.exp_avg, super::EXP_AVG),
            (found.exp_avg_sq, super::EXP_AVG_SQ),
        ] {
            tensors.extend(self.under_hugging_face_names(moments, suffix, &state.path)?);
        }
        Ok(NativeOptimizer {
            moments: state.tensor_files(tensors),
            n_updates: found.n_updates,
        })
    }

    /// What the trainer's state says, where it was saved.
    ///
    /// # Errors
    /// When its file is damaged or does not say at which step it was written.
    pub(crate) fn trainer_state(&self) -> Result<Option<TrainerState>, Error> {
        // The second is its name before OLMo's first release.
        let path = match self.find("train") {
            Some(path) => path,
            None => match self.find("other") {
                Some(path) => path,
                None => return Ok(None),
            },
        };
        let state = State::read(path, true)?;
        let count = |key: &str| state.root.get(key).and_then(|value| value.as_count());
        let global_step = count("global_step").ok_or_else(|| Error::State {
            path: state.path.clone(),
            reason: "has no `global_step`: it is not a trainer's state".to_owned(),
        })?;
        // Older files count batches, and OLMo multiplies as is done here.
        let from_batches = || {
            let n_batches = count("global_data_step").unwrap_or(global_step);
            n_batches.checked_mul(self.config.tokens_per_batch?)
        };
        let tokens_seen =
            (count("global_train_tokens_seen").or_else(from_batches)).ok_or_else(|| {
                Error::State {
                    path: state.path.clone(),
                    reason: format!(
                        "has no `global_train_tokens_seen`, and {NATIVE_CONFIG} no \
                     `global_train_batch_size` to count them by"
                    ),
                }
            })?;
        state.check_unchanged()?;
        Ok(Some(TrainerState {
            global_step,
            tokens_seen,
        }))
    }

    /// `NAME.safetensors`, or else `NAME.pt`: the order in which OLMo looks.
    fn find(&self, name: &str) -> Option<PathBuf> {
        let paths = ["safetensors", "pt"].map(|end| self.dir.join(format!("{name}.{end}")));
        paths.into_iter().find(|path| path.exists())
    }

    /// Tensors under the names that a Hugging Face file gives them; fused ones cut into their rows.
    fn under_hugging_face_names(
        &self,
        tensors: Vec<(String, Tensor)>,
        suffix: &str,
        path: &Path,
    ) -> Result<BTreeMap<String, Tensor>, Error> {
        let group_size = block_group_size(tensors.iter().map(|(name, _)| name.as_str()));
        let mut out = BTreeMap::new();
        let mut insert = |name: String, tensor: Tensor| match out.insert(name, tensor) {
            None => Ok(()),
            Some(_) => Err(()),
        };
        for (native, tensor) in tensors {
            let name = plain_name(&native, group_size);
            let parts = self.config.parts_of(&name);
            let expected: usize = parts.iter().map(|part| part.rows.unwrap_or(0)).sum();
            let n_rows = tensor.shape.first().copied().unwrap_or(0);
            if parts.len() > 1 && n_rows != expected {
                let columns = tensor.shape.iter().skip(1).copied();
                return Err(Error::Shape {
                    path: path.to_owned(),
                    tensor: format!("{native}{suffix}"),
                    expected: [expected].into_iter().chain(columns).collect(),
                    found: tensor.shape,
                });
            }
            let mut from = 0;
            for part in parts {
                let cut = match part.rows {
                    Some(rows) => {
                        from += rows;
                        tensor.rows(from - rows..from)
                    }
                    None => tensor.clone(),
                };
                insert(format!("{}{suffix}", part.name), cut).map_err(|()| {
                    Error::RepeatedTensor {
                        path: path.to_owned(),
                        tensor: native.clone(),
                    }
                })?;
            }
        }
        Ok(out)
    }
}

/// A name as it is without the wrappers of distributed training, blocks counted one by one.
fn plain_name(native: &str, group_size: usize) -> String {
    let name = unwrapped(native);
    let regrouped = || {
        let (group, rest) = name
            .strip_prefix("transformer.block_groups.")?
            .split_once('.')?;
        let (block, rest) = rest.split_once('.')?;
        let (group, block): (usize, usize) = (group.parse().ok()?, block.parse().ok()?);
        let block = group.checked_mul(group_size)?.checked_add(block)?;
        Some(format!("transformer.blocks.{block}.{rest}"))
    };
    regrouped().unwrap_or(name)
}

fn unwrapped(native: &str) -> String {
    let name = native.replace("_fsdp_wrapped_module.", "");
    match name.strip_prefix("module.") {
        Some(inner) => inner.to_owned(),
        None => name,
    }
}

/// How many blocks were saved together.
fn block_group_size<'a>(names: impl Iterator<Item = &'a str>) -> usize {
    names
        .filter(|name| {
            let name = unwrapped(name);
            name.starts_with("transformer.block_groups.0.") && name.ends_with(".attn_out.weight")
        })
        .count()
        .max(1)
}

/// What kind of checkpoint a directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointFormat {
    /// A Hugging Face directory, with moments where it is a state that was saved here.
    HuggingFace,
    /// OLMo's own layout.
    Olmo,
}

/// What a checkpoint directory says of itself, without its weights being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointInfo {
    pub format: CheckpointFormat,
    /// Updates that it has seen; `None` where it does not say.
    pub global_step: Option<u64>,
    /// Tokens that it has seen; `None` where it does not say.
    pub tokens_seen: Option<u64>,
    /// Whether the optimizer's moments are there to be loaded.
    pub has_optimizer: bool,
}

impl CheckpointInfo {
    /// What a directory says of itself.
    ///
    /// # Errors
    /// When its configuration or its trainer's state is damaged.
    pub fn read(dir: &Path) -> Result<Self, Error> {
        if !OlmoNative::is_in(dir) {
            return Ok(Self {
                format: CheckpointFormat::HuggingFace,
                global_step: None,
                tokens_seen: None,
                has_optimizer: dir.join(OPTIMIZER).exists(),
            });
        }
        let native = OlmoNative::open(dir)?;
        let trainer = native.trainer_state()?;
        Ok(Self {
            format: CheckpointFormat::Olmo,
            global_step: trainer.map(|trainer| trainer.global_step),
            tokens_seen: trainer.map(|trainer| trainer.tokens_seen),
            has_optimizer: native.find("optim").is_some(),
        })
    }
}

/// The readers by themselves, for damaged files.
#[cfg(test)]
pub(super) mod fuzzed {
    use super::*;

    pub(in crate::checkpoint) fn read_config(bytes: &[u8]) {
        if let Ok(text) = std::str::from_utf8(bytes) {
            let _ = NativeConfig::parse(text);
        }
    }

    pub(in crate::checkpoint) fn read_optimizer(path: &Path) -> Option<TensorFiles> {
        let config = include_str!("../../tests/fixtures/formats/olmo-pt/config.yaml");
        let native = OlmoNative {
            dir: PathBuf::new(),
            config: NativeConfig::parse(config).expect("fixture is taken"),
        };
        Some(native.optimizer_in(path.to_owned()).ok()?.moments)
    }
}

#[cfg(test)]
mod tests;
