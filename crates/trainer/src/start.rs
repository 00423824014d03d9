//! Where a run starts: its checkpoint, and what its configuration leaves open.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use imprint_core::{
    CheckpointIdentity, CheckpointSource, CorpusFormat, OptimizerStart, RunSpec, Settled, Standing,
};
use imprint_data::{CheckpointFiles, TrainingData};
use imprint_lm::{CheckpointInfo, DeviceChoice, Learner, LearnerOptions, ModelConfig};
use imprint_proto::pb;

use crate::stage::{Stage, Staged};
use crate::{machine, state};

/// Most of a machine's free memory that a run on the CPU fills when it may choose its micro-batch.
/// It fills no larger share than it has of the cores: others may start beside it.
const SHARE_OF_FREE_MEMORY: f64 = 0.5;

/// Has the run's tokens, order and tokenizer read from this node, as far as they can be; the copies
/// stay as long as what is returned.
pub(crate) fn on_node(spec: &mut RunSpec, stage: &Stage) -> Vec<Staged> {
    // Of text the tokens are read, which are where the cache directory is.
    let is_tokens = match spec.identity.corpus.format {
        CorpusFormat::Uint16 | CorpusFormat::Uint32 | CorpusFormat::Npy => true,
        CorpusFormat::Text | CorpusFormat::Jsonl | CorpusFormat::Parquet => false,
    };
    let files = &mut spec.files;
    let corpus = files.corpus.iter_mut().filter(|_| is_tokens);
    let paths = corpus.chain(&mut files.order).chain([&mut files.tokenizer]);
    let staged = paths.map(|path| {
        let staged = stage.file(path);
        staged.path().clone_into(path);
        staged
    });
    staged.collect()
}

/// The learner at a run's beginning, and where its checkpoint stands.
///
/// # Errors
/// When the checkpoint cannot be loaded or is not the one that was submitted.
pub(crate) fn load(
    spec: &RunSpec,
    data: &TrainingData,
    parents: &[pb::SavedState],
    stage: &Stage,
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
            let with_moments = *optimizer == OptimizerStart::Load;
            let staged = stage.directory(path, || files_of_checkpoint(path, with_moments));
            let path = staged.path();
            let files = CheckpointFiles::find(path)?;
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
            let copies: Vec<Staged> = (parents.iter())
                .map(|state| stage.directory(Path::new(&state.path), || files_in(&state.path)))
                .collect();
            let on_node = parents
                .iter()
                .zip(&copies)
                .map(|(state, copy)| pb::SavedState {
                    path: copy.path().display().to_string(),
                    ..state.clone()
                });
            let states: Vec<pb::SavedState> = on_node.chain(parents.iter().cloned()).collect();
            let (state, manifest) = state::newest_sound(&states).context("the parent run")?;
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

/// The files of a checkpoint directory that are read.
fn files_of_checkpoint(dir: &Path, with_moments: bool) -> anyhow::Result<Vec<PathBuf>> {
    let files = CheckpointFiles::find(dir)?;
    let moments = files.optimizer.filter(|_| with_moments);
    let of_shards = [
        "model.safetensors.index.json",
        "pytorch_model.bin.index.json",
    ];
    let indexes = of_shards.iter().map(|name| dir.join(name));
    let others = [moments, files.manifest, files.trainer_state];
    Ok([files.config]
        .into_iter()
        .chain(files.weights)
        .chain(others.into_iter().flatten())
        .chain(indexes.filter(|path| path.is_file()))
        .collect())
}

/// All files of a saved state.
fn files_in(dir: &str) -> anyhow::Result<Vec<PathBuf>> {
    let list = || fs::read_dir(dir)?.map(|file| Ok(file?.path())).collect();
    let listed: std::io::Result<Vec<PathBuf>> = list();
    listed.with_context(|| format!("list {dir}"))
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
