//! Prints the milliseconds of an update and of a reading at the shapes of the demo, on one thread.
//!
//! `cargo run --release -p imprint-lm --example step_time [threads [micro_batch_rows]]`

use std::time::Instant;

use imprint_core::{ModelSpec, TokenizedProbe};
use imprint_lm::{Learner, LearnerOptions, ModelConfig};

/// As in the trainer: buffers of a step are made and dropped all the time.
#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

const VOCABULARY: u32 = 574;
const SEQ_LEN: usize = 64;
const N_PROBES: usize = 480;
const LEARNING_RATE: f64 = 5e-3;

fn main() -> Result<(), imprint_lm::Error> {
    let mut arguments = std::env::args()
        .skip(1)
        .map_while(|a| a.parse::<usize>().ok());
    let options = LearnerOptions {
        threads: arguments.next().unwrap_or(1),
        micro_batch_rows: arguments.next(),
        ..LearnerOptions::default()
    };
    let config = ModelConfig::from_spec(&ModelSpec {
        vocab_size: Some(VOCABULARY),
        hidden_size: 64,
        intermediate_size: 168,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        tie_word_embeddings: true,
        max_position_embeddings: Some(SEQ_LEN as u32),
        rope_theta: 10_000.0,
    })?;
    let mut learner = Learner::initialise(config, 0, &options)?;
    let mut random = 1_u64;
    let mut token = || {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (random >> 33) as u32 % VOCABULARY
    };
    let probes: Vec<_> = (0..N_PROBES)
        .map(|i| TokenizedProbe {
            tokens: (0..7 + i % 5).map(|_| token()).collect(),
            n_target_tokens: 1 + i % 2,
        })
        .collect();
    let packed = learner.pack(&probes)?;
    for batch_size in [32, 4] {
        let batch: Vec<u32> = (0..batch_size * SEQ_LEN).map(|_| token()).collect();
        let mut failed = None;
        let name = format!("update, batch {batch_size}");
        time(&name, || {
            match learner.update(&batch, SEQ_LEN, LEARNING_RATE) {
                Ok(_) => {}
                Err(err) => failed = Some(err),
            }
        });
        if let Some(err) = failed {
            return Err(err);
        }
    }
    let n_tokens: usize = probes.iter().map(|probe| probe.tokens.len()).sum();
    time(
        &format!("reading, {N_PROBES} probes of {n_tokens} tokens"),
        || {
            std::hint::black_box(learner.read(&packed));
        },
    );
    Ok(())
}

/// Prints the median and the least of some repetitions.
fn time(what: &str, mut f: impl FnMut()) {
    const WARM_UP: usize = 10;
    const REPETITIONS: usize = 100;
    (0..WARM_UP).for_each(|_| f());
    let mut ms: Vec<f64> = (0..REPETITIONS)
        .map(|_| {
            let start = Instant::now();
            f();
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    ms.sort_by(f64::total_cmp);
    println!(
        "{what:45} median {:7.2} ms   least {:7.2} ms",
        ms[REPETITIONS / 2],
        ms[0]
    );
}
