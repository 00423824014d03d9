//! Prints the most memory that updates take on the CPU, to hold the estimate of micro-batches to.
//!
//! `cargo run --release -p imprint-lm --example pass_memory [rows [threads]]`

use imprint_core::ModelSpec;
use imprint_lm::{Learner, LearnerOptions, ModelConfig};

/// As in the trainer: it keeps what was freed.
#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

const VOCABULARY: u32 = 8000;
const SEQ_LEN: usize = 512;

fn main() -> Result<(), imprint_lm::Error> {
    let mut arguments = std::env::args()
        .skip(1)
        .map_while(|a| a.parse::<usize>().ok());
    let (rows, threads) = (arguments.next().unwrap_or(8), arguments.next().unwrap_or(1));
    let options = LearnerOptions {
        threads,
        micro_batch_rows: Some(rows),
        ..LearnerOptions::default()
    };
    let config = ModelConfig::from_spec(&ModelSpec {
        vocab_size: Some(VOCABULARY),
        hidden_size: 256,
        intermediate_size: 1024,
        num_hidden_layers: 6,
        num_attention_heads: 4,
        tie_word_embeddings: true,
        max_position_embeddings: Some(SEQ_LEN as u32),
        rope_theta: 10_000.0,
    })?;
    let mut learner = Learner::initialise(config, 0, &options)?;
    let n_rows = (rows * threads) as u32;
    let batch: Vec<u32> = (0..n_rows * SEQ_LEN as u32)
        .map(|i| i.wrapping_mul(2_654_435_761) >> 7)
        .map(|i| i % VOCABULARY)
        .collect();
    for _ in 0..2 {
        learner.update(&batch, SEQ_LEN, 1e-3)?;
    }
    let mut enough = 1 << 20;
    while learner.micro_batch_rows_in(n_rows, SEQ_LEN, enough, true) < rows as u32 {
        enough += 1 << 20;
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find(|line| line.starts_with("VmHWM"));
    println!(
        "{rows} rows on {threads} thread(s): estimated {} MiB, {}",
        enough >> 20,
        peak.unwrap_or("the peak is not known on this system")
    );
    Ok(())
}
