//! `imprint-trainer memory`: how much memory runs will fill, for `imprint submit --dry-run`.

use std::io::Read as _;

use anyhow::Context as _;
use imprint_core::{MemoryAnswer, MemoryQuestion, ModelSource};
use imprint_lm::{DeviceChoice, ModelConfig, Updates};

/// Answers the questions of standard input, a JSON array, in another: each an answer or why not.
pub(crate) fn run() -> anyhow::Result<()> {
    let mut questions = String::new();
    std::io::stdin()
        .read_to_string(&mut questions)
        .context("read the questions")?;
    let questions: Vec<MemoryQuestion> =
        serde_json::from_str(&questions).context("read the questions")?;
    let answers = questions
        .iter()
        .map(|q| answer(q).map_err(|e| format!("{e:#}")));
    let answers: Vec<Result<MemoryAnswer, String>> = answers.collect();
    println!(
        "{}",
        serde_json::to_string(&answers).context("write the answers")?
    );
    Ok(())
}

fn answer(question: &MemoryQuestion) -> anyhow::Result<MemoryAnswer> {
    let resources = &question.resources;
    let config = match &question.model {
        ModelSource::Directory(path) => {
            ModelConfig::of_checkpoint(path).with_context(|| path.display().to_string())?
        }
        ModelSource::Scratch(spec) => ModelConfig::from_spec(spec)?,
    };
    let updates = Updates {
        n_rows: question.batch_size,
        seq_len: question.seq_len as usize,
        device: DeviceChoice::parse(&resources.device)?,
        threads: resources.threads as usize,
        recompute_layers: resources.recompute_layers,
    };
    let given = question.micro_batch_rows;
    let fitting = || {
        let bytes = resources.memory_gib? * f64::from(1 << 30);
        Some(config.micro_batch_rows_in(&updates, bytes as u64))
    };
    let rows = given
        .map(|rows| rows.min(question.batch_size))
        .or_else(fitting);
    Ok(MemoryAnswer {
        n_parameters: config.n_parameters() as u64,
        micro_batch_rows: rows,
        bytes: config.bytes_of(&updates, rows.unwrap_or(1)),
    })
}

#[cfg(test)]
mod tests;
