//! Tokens a second of updates at published shapes; `python/bench_throughput.py` runs it beside
//! `transformers` on the same device.
//!
//! ```sh
//! cargo run --release -p imprint-lm --features cuda --example throughput -- cuda:0 olmo-1b bfloat16 8 2048 2
//! ```
//!
//! Arguments: device, shape, precision, rows of a batch, tokens of a row, rows of a micro-batch; with
//! a seventh, any word, layers are computed again on the way back.
//! Prints one JSON object: the best of the timed updates.

use std::error::Error;
use std::time::Instant;

use imprint_core::{ModelSpec, Precision};
use imprint_lm::{DeviceChoice, Learner, LearnerOptions, ModelConfig};

/// As in the trainer.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The first updates compile and choose kernels.
const WARM_UP: usize = 3;
const TIMED: usize = 5;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [
        device,
        shape,
        precision,
        rows,
        seq_len,
        micro_rows,
        recompute @ ..,
    ] = arguments.as_slice()
    else {
        return Err("arguments: device shape precision rows tokens micro-rows [recompute]".into());
    };
    let (rows, seq_len): (usize, usize) = (rows.parse()?, seq_len.parse()?);
    let options = LearnerOptions {
        device: DeviceChoice::parse(device)?,
        precision: match precision.as_str() {
            "float32" => Precision::Float32,
            "bfloat16" => Precision::Bfloat16,
            other => return Err(format!("precision `{other}`: float32 or bfloat16").into()),
        },
        micro_batch_rows: Some(micro_rows.parse()?),
        recompute_layers: !recompute.is_empty(),
        ..LearnerOptions::default()
    };
    let mut learner = Learner::initialise(config(shape, seq_len)?, 0, &options)?;
    let vocab_size = learner.config().vocab_size as u32;
    let n_tokens = rows * seq_len;
    let batch: Vec<u32> = (0..n_tokens as u32)
        .map(|i| i.wrapping_mul(2_654_435_761) % vocab_size)
        .collect();
    let mut best = f64::INFINITY;
    let mut loss_nats = 0.0;
    for update in 0..WARM_UP + TIMED {
        let began = Instant::now();
        // Reads the loss and two norms back, and so waits for the device.
        loss_nats = learner.update(&batch, seq_len, 1e-4)?.loss_nats;
        if update >= WARM_UP {
            best = best.min(began.elapsed().as_secs_f64());
        }
    }
    println!(
        "{{\"tokens_per_second\": {:.1}, \"seconds_per_update\": {best:.4}, \"loss_nats\": {loss_nats:.4}}}",
        n_tokens as f64 / best
    );
    Ok(())
}

fn config(shape: &str, seq_len: usize) -> Result<ModelConfig, Box<dyn Error>> {
    let [
        hidden_size,
        intermediate_size,
        num_hidden_layers,
        num_attention_heads,
        vocabulary,
    ] = match shape {
        "olmo-1b" => [2048, 8192, 16, 16, 50_304],
        "tiny" => [64, 256, 2, 4, 512],
        other => return Err(format!("shape `{other}`: olmo-1b or tiny").into()),
    };
    Ok(ModelConfig::from_spec(&ModelSpec {
        vocab_size: Some(vocabulary),
        hidden_size,
        intermediate_size,
        num_hidden_layers,
        num_attention_heads,
        tie_word_embeddings: true,
        max_position_embeddings: Some(seq_len as u32),
        rope_theta: 10_000.0,
    })?)
}
