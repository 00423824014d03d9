//! Where a run starts: its checkpoint, and what its configuration leaves open.

use std::path::Path;

use anyhow::Context as _;
use imprint_core::{
    CheckpointIdentity, CheckpointSource, OptimizerStart, RateSchedule, RunIdentity, RunSpec,
    Settled,
};
use imprint_data::TrainingData;
use imprint_lm::{CheckpointInfo, DeviceChoice, Learner, LearnerOptions, ModelConfig};
use imprint_proto::pb;

use crate::{machine, state};

/// Most of a machine's free memory that a run on the CPU fills when it may choose its micro-batch.
/// It fills no larger share than it has of the cores: others may start beside it.
const SHARE_OF_FREE_MEMORY: f64 = 0.5;

/// Where a checkpoint stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Start {
    pub(crate) global_step: u64,
    /// Where that is known.
    pub(crate) tokens_seen: Option<u64>,
}

/// The learner at a run's beginning, and where its checkpoint stands.
///
/// # Errors
/// When the checkpoint cannot be loaded or is not the one that was submitted.
pub(crate) fn load(
    spec: &RunSpec,
    data: &TrainingData,
    parents: &[pb::SavedState],
) -> anyhow::Result<(Learner, Start)> {
    let identity = &spec.identity;
    let options = &options(spec, data)?;
    match (&identity.checkpoint, &spec.files.checkpoint) {
        (CheckpointIdentity::Scratch { model }, _) => {
            let config = ModelConfig::from_spec(model)?;
            let learner = Learner::initialise(config, identity.seed, options)?;
            let start = Start {
                global_step: 0,
                tokens_seen: Some(0),
            };
            Ok((learner, start))
        }
        (
            CheckpointIdentity::Directory {
                sha256,
                global_step,
                tokens_seen,
                optimizer,
            },
            CheckpointSource::Directory { path },
        ) => {
            let with_moments = *optimizer == OptimizerStart::Load;
            let found = imprint_data::checkpoint_sha256(path, with_moments)?;
            anyhow::ensure!(
                found == *sha256,
                "the checkpoint {} is not the one that was submitted (its hash is {found}, then it \
                 was {sha256})",
                path.display()
            );
            let own = Start::said_by(path)?;
            let start = Start {
                global_step: global_step.unwrap_or(own.global_step),
                tokens_seen: tokens_seen.or(own.tokens_seen),
            };
            Ok((open(path, *optimizer, options)?, start))
        }
        (CheckpointIdentity::Run { optimizer, .. }, _) => {
            let (state, manifest) = state::newest_sound(parents).context("the parent run")?;
            let start = Start {
                global_step: manifest.global_step,
                tokens_seen: manifest.tokens_seen,
            };
            Ok((open(Path::new(&state.path), *optimizer, options)?, start))
        }
        (CheckpointIdentity::Directory { .. }, _) => {
            anyhow::bail!("the run's configuration does not say where its checkpoint is")
        }
    }
}

fn open(
    dir: &Path,
    optimizer: OptimizerStart,
    options: &LearnerOptions,
) -> anyhow::Result<Learner> {
    Ok(match optimizer {
        OptimizerStart::Load => Learner::load_state(dir, options)?,
        OptimizerStart::Reset(_) => Learner::load_checkpoint(dir, options)?,
    })
}

/// How a run is computed; its micro-batch is settled once it is loaded.
///
/// # Errors
/// When there is no such device.
pub(crate) fn options(spec: &RunSpec, data: &TrainingData) -> anyhow::Result<LearnerOptions> {
    Ok(LearnerOptions {
        precision: spec.identity.training.precision,
        recompute_layers: spec.resources.recompute_layers,
        document_end: data.document_mask(),
        device: DeviceChoice::parse(&spec.resources.device)?,
        optimizer: spec.identity.training.optimizer,
        threads: spec.resources.threads as usize,
        ..LearnerOptions::default()
    })
}

impl Start {
    /// What a directory's own trainer state says; step 0 where it has none.
    fn said_by(dir: &Path) -> anyhow::Result<Self> {
        if let Some(manifest) = state::find(dir)? {
            return Ok(Self {
                global_step: manifest.global_step,
                tokens_seen: manifest.tokens_seen,
            });
        }
        let info = CheckpointInfo::read(dir)?;
        Ok(Self {
            global_step: info.global_step.unwrap_or(0),
            tokens_seen: info.tokens_seen,
        })
    }

    /// What the configuration of a run that starts here leaves open, by this machine's means.
    ///
    /// # Errors
    /// When the schedule's end cannot be told, or the machine's memory.
    pub(crate) fn settle(self, spec: &RunSpec, learner: &Learner) -> anyhow::Result<Settled> {
        Ok(Settled {
            first_global_step: self.global_step,
            tokens_seen: self.tokens_seen,
            learning_rate: self.schedule(&spec.identity)?,
            micro_batch_rows: micro_batch_rows(spec, learner)?,
        })
    }

    fn schedule(self, identity: &RunIdentity) -> anyhow::Result<RateSchedule> {
        let rate = &identity.training.learning_rate;
        rate.settle(
            self.global_step,
            self.tokens_seen,
            identity.tokens_per_update(),
        )
        .context("training.learning_rate")
    }
}

/// As the file says, or as fits the memory.
fn micro_batch_rows(spec: &RunSpec, learner: &Learner) -> anyhow::Result<u32> {
    let identity = &spec.identity;
    if let Some(rows) = identity.training.micro_batch_rows {
        return Ok(rows.min(identity.batch_size));
    }
    let (memory_bytes, is_whole) = match spec.resources.memory_gib {
        Some(gib) => (gib * f64::from(1 << 30), true),
        None => {
            let free = machine::available_memory_bytes().context(
                "this machine does not say how much memory is free; set `resources.memory_gib`",
            )?;
            let of_cores = f64::from(spec.resources.threads) / machine::n_cores() as f64;
            (SHARE_OF_FREE_MEMORY.min(of_cores) * free as f64, false)
        }
    };
    let rows = learner.micro_batch_rows_in(
        identity.batch_size,
        identity.seq_len as usize,
        memory_bytes as u64,
        is_whole,
    );
    tracing::info!("micro-batches of {rows} of {} rows", identity.batch_size);
    Ok(rows)
}

#[cfg(test)]
mod tests;
