//! Questions about memory, which the trainer answers: it alone knows how models are computed.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::experiment::ResourcesSpec;
use crate::run::{CheckpointIdentity, CheckpointSource, ModelSpec, RunSpec};

/// Where the shape of a model is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelSource {
    /// A checkpoint directory, of which the configuration suffices.
    Directory(PathBuf),
    Scratch(ModelSpec),
}

impl ModelSource {
    /// The model of a run; `None` where another run has it.
    pub fn of(run: &RunSpec) -> Option<Self> {
        match (&run.identity.checkpoint, &run.files.checkpoint) {
            (CheckpointIdentity::Scratch { model }, _) => Some(Self::Scratch(model.clone())),
            (_, CheckpointSource::Directory { path }) => Some(Self::Directory(path.clone())),
            _ => None,
        }
    }
}

/// How much memory will the updates of a run fill?
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryQuestion {
    pub model: ModelSource,
    pub batch_size: u32,
    pub seq_len: u32,
    /// `training.micro_batch_rows`.
    pub micro_batch_rows: Option<u32>,
    pub resources: ResourcesSpec,
}

/// As much as arithmetic says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryAnswer {
    pub n_parameters: u64,
    /// Rows of one forward and backward pass; `None` where the run chooses them when it begins, by
    /// what is free then.
    pub micro_batch_rows: Option<u32>,
    /// With those rows, or else with one, which is the least.
    pub bytes: u64,
}
