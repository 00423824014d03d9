//! Where a run starts: its checkpoint, and what its configuration leaves open.

use std::path::Path;

use anyhow::Context as _;
use imprint_core::{
    CheckpointIdentity, CheckpointSource, OptimizerStart, RunSpec, Settled, Standing,
};
use imprint_data::{CheckpointFiles, TrainingData};
use imprint_lm::{CheckpointInfo, DeviceChoice, Learner, LearnerOptions, ModelConfig};
use imprint_proto::pb;

use crate::{machine, state};

/// Most of a machine's free memory that a run on the CPU fills when it may choose its micro-batch.
/// It fills no larger share than it has of the cores: others may start beside it.
const SHARE_OF_FREE_MEMORY: f64 = 0.5;

/// The learner at a run's beginning, and where its checkpoint stands.
///
/// # Errors
/// When the checkpoint cannot be loaded or is not the one that was submitted.
pub(crate) fn load(
    spec: &RunSpec,
    data: &TrainingData,
    parents: &[pb::SavedState],
) -> anyhow::Result<(Learner, Standing)> {
    let identity = &spec.identity;
    let options = &options(spec, data)?;
    let (learner, standing) = match (&identity.checkpoint, &spec.files.checkpoint) {
        (CheckpointIdentity::Scratch { model }, _) => {
            let config = ModelConfig::from_spec(model)?;
            let learner = Learner::initialise(config, identity.seed, options)?;
            (learner, identity.standing(None))
        }
        (
            CheckpointIdentity::Directory {
                sha256,
                trainer_state_sha256,
                global_step,
                tokens_seen,
                optimizer,
            },
            CheckpointSource::Directory { path },
        ) => {
            let files = CheckpointFiles::find(path)?;
            let with_moments = *optimizer == OptimizerStart::Load;
            check_hash(path, &files.sha256(with_moments)?, sha256)?;
            let standing = match trainer_state_sha256 {
                None => identity.standing(None),
                Some(sha256) => {
                    let state = files.trainer_state.context("its trainer state is gone")?;
                    check_hash(&state, &imprint_data::file_sha256(&state)?, sha256)?;
                    let own = CheckpointInfo::read(path)?;
                    (global_step.or(own.global_step)).map(|global_step| Standing {
                        global_step,
                        tokens_seen: tokens_seen.or(own.tokens_seen),
                    })
                }
            };
            (open(path, *optimizer, options)?, standing)
        }
        (CheckpointIdentity::Run { optimizer, .. }, _) => {
            let (state, manifest) = state::newest_sound(parents).context("the parent run")?;
            let learner = open(Path::new(&state.path), *optimizer, options)?;
            (learner, identity.standing(Some(manifest.standing())))
        }
        (CheckpointIdentity::Directory { .. }, _) => {
            anyhow::bail!("the run's configuration does not say where its checkpoint is")
        }
    };
    let standing = standing.context("the checkpoint does not say at which step it stands")?;
    Ok((learner, standing))
}

/// Holds a part of the checkpoint to what was submitted.
fn check_hash(path: &Path, found: &str, submitted: &str) -> anyhow::Result<()> {
    anyhow::ensure!(
        found == submitted,
        "the checkpoint {} is not the one that was submitted (its hash is {found}, then it was \
         {submitted})",
        path.display()
    );
    Ok(())
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

/// What the configuration of a run leaves open, by its checkpoint's and this machine's means.
///
/// # Errors
/// When the schedule's end cannot be told, or the machine's memory.
pub(crate) fn settle(
    spec: &RunSpec,
    learner: &Learner,
    standing: Standing,
) -> anyhow::Result<Settled> {
    let schedule = spec.identity.schedule(standing);
    Ok(Settled {
        first_global_step: standing.global_step,
        tokens_seen: standing.tokens_seen,
        learning_rate: schedule.context("training.learning_rate")?,
        micro_batch_rows: micro_batch_rows(spec, learner)?,
    })
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
