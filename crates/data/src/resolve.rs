//! From the files that an experiment names to the inputs of its expansion.

use crate::checkpoint::CheckpointFiles;
use crate::digest::{corpus_file_sha256, file_sha256};
use crate::{Error, Result, Tokenizer, load_facts};
use imprint_core::{
    CheckpointIdentity, CheckpointSource, CheckpointSpec, CorpusOrder, ExperimentSpec,
    OptimizerStart, ResolvedInputs, SpecHash,
};

/// What expansion needs and the experiment file lacks: facts, vocabulary, and every hash.
///
/// `parent` gives the hash of a run by its label or hash.
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
            .map(|path| corpus_file_sha256(path, data.corpus.format))
            .collect::<Result<_>>()?,
        order_sha256: match &data.corpus.order {
            CorpusOrder::File { path } => Some(file_sha256(path)?),
            CorpusOrder::Shuffled | CorpusOrder::Sequential | CorpusOrder::Pcg64(_) => None,
        },
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
            let files = CheckpointFiles::find(path)?;
            if let Some(vocab_size) = files.vocab_size()? {
                fits(vocab_size)?;
            }
            let has_moments = files.optimizer.is_some();
            let optimizer = spec.optimizer.unwrap_or(match has_moments {
                true => OptimizerStart::Load,
                false => OptimizerStart::RESET,
            });
            if optimizer == OptimizerStart::Load && !has_moments {
                return Err(refuse(format!(
                    "{} has no optimizer moments to load; use `optimizer = \"reset\"`, or \
                     `{{ reset = {{ warmup_steps = … }} }}` to start them gently",
                    path.display()
                )));
            }
            let (mut global_step, mut tokens_seen) = (spec.global_step, spec.tokens_seen);
            let mut trainer_state = None;
            if global_step.is_none() || tokens_seen.is_none() {
                if let Some(saved) = files.saved_standing()? {
                    global_step.get_or_insert(saved.global_step);
                    tokens_seen = tokens_seen.or(saved.tokens_seen);
                }
                trainer_state = files.trainer_state.as_deref();
            }
            if trainer_state.is_none() {
                global_step.get_or_insert(0);
            }
            Ok((
                CheckpointIdentity::Directory {
                    sha256: files.sha256(optimizer == OptimizerStart::Load)?,
                    trainer_state_sha256: trainer_state.map(file_sha256).transpose()?,
                    global_step,
                    tokens_seen,
                    optimizer,
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
                    tokens_seen: spec.tokens_seen,
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

#[cfg(test)]
mod tests;
