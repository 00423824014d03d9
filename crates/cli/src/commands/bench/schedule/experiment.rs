//! An experiment of many runs over a small synthetic world.

use std::path::{Path, PathBuf};

use imprint_world::{World, WorldConfig};

use super::write;
use crate::failure::Failure;

pub(super) const NAME: &str = "bench";

/// Two scenarios at two batch sizes.
pub(super) const RUNS_PER_SEED: u32 = 4;

/// What each run shows and reads is stored: here 28 facts, 20 injections of `once` or 100 of
/// `paraphrase`, 201 readings.
const EXPERIMENT: &str = r#"
name = "bench"
scenarios = ["once", "paraphrase"]
batch_sizes = [4, 8]
seeds = SEEDS

[data]
facts = "world/facts.json"
tokenizer = "world/tokenizer.json"
seq_len = 64

[data.corpus]
files = ["world/corpus.u16"]
format = "uint16"

[[checkpoint]]
name = "scratch"
init = { hidden_size = 16, intermediate_size = 32, num_hidden_layers = 1, num_attention_heads = 2, tie_word_embeddings = true }

[training]
steps = 200
learning_rate = { kind = "constant", peak = 5e-3, warmup_steps = 5 }

[injection]
every = 20
count = 5
stagger = { groups = 10, every = 2 }
"#;

/// Writes the experiment with its world into a directory, and says where its file is.
pub(super) fn write_into(dir: &Path, n_seeds: u32) -> Result<PathBuf, Failure> {
    World::generate(WorldConfig::ci())
        .and_then(|world| world.write(&dir.join("world")))
        .map_err(Failure::doing("write a world"))?;
    let seeds: Vec<u32> = (0..n_seeds).collect();
    let file = dir.join("bench.toml");
    write(&file, &EXPERIMENT.replace("SEEDS", &format!("{seeds:?}")))?;
    Ok(file)
}
