//! What fits in how much memory: the arithmetic for published shapes, and a measurement of it.
//!
//! ```sh
//! cargo run -p imprint-lm --example update_memory
//! ```
//!
//! The arithmetic is that by which a run chooses its micro-batch.
//! It is measured on the CPU, where smaller models fit: each in a child process that makes two
//! updates, whose peak of resident memory (`VmHWM`) is set against the estimate.

use std::env;
use std::error::Error;
use std::fs;
use std::process::Command;

use imprint_core::ModelSpec;
use imprint_lm::{DeviceChoice, Learner, LearnerOptions, ModelConfig};

/// As in the trainer.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const GIB: f64 = (1_u64 << 30) as f64;
const SEQ_LEN: usize = 2048;

/// Name, hidden size, feed-forward size, layers, heads, vocabulary, tied.
type Shape = (&'static str, u32, u32, u32, u32, u32, bool);

const PUBLISHED: [Shape; 2] = [
    ("OLMo-1B", 2048, 8192, 16, 16, 50_304, true),
    ("OLMo-7B", 4096, 11_008, 32, 32, 50_304, false),
];

/// Hidden size, layers, tokens of a row, rows.
const MEASURED: [[u32; 4]; 3] = [[512, 8, 256, 4], [512, 8, 256, 16], [512, 8, 1024, 4]];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.as_slice() {
        [] => {
            arithmetic()?;
            measurement()
        }
        [recompute, sizes @ ..] => {
            let sizes: Vec<u32> = sizes.iter().map(|n| n.parse()).collect::<Result<_, _>>()?;
            update(&sizes, recompute == "recompute")
        }
    }
}

fn config(
    (_, hidden, mlp, layers, heads, vocabulary, tied): Shape,
) -> Result<ModelConfig, Box<dyn Error>> {
    Ok(ModelConfig::from_spec(&ModelSpec {
        vocab_size: Some(vocabulary),
        hidden_size: hidden,
        intermediate_size: mlp,
        num_hidden_layers: layers,
        num_attention_heads: heads,
        tie_word_embeddings: tied,
        max_position_embeddings: Some(SEQ_LEN as u32),
        rope_theta: 10_000.0,
    })?)
}

/// GiB by arithmetic, on a GPU.
fn arithmetic() -> Result<(), Box<dyn Error>> {
    println!("| model | parameters | rows of {SEQ_LEN} | GiB | GiB, layers computed again |");
    println!("|---|---|---|---|---|");
    for shape in PUBLISHED {
        let config = config(shape)?;
        for rows in [1, 4, 16] {
            let [kept, again] = [false, true].map(|recompute| {
                config.update_bytes(rows, SEQ_LEN, DeviceChoice::Cuda(0), recompute) as f64 / GIB
            });
            let n = config.n_parameters() as f64 / 1e9;
            println!(
                "| {} | {n:.2} G | {rows} | {kept:.1} | {again:.1} |",
                shape.0
            );
        }
    }
    Ok(())
}

fn small(hidden: u32, layers: u32) -> Shape {
    ("", hidden, 4 * hidden, layers, hidden / 64, 50_304, true)
}

fn measurement() -> Result<(), Box<dyn Error>> {
    println!(
        "\n| hidden | layers | tokens | rows | layers again | estimate, GiB | peak, GiB | peak / estimate |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for [hidden, layers, tokens, rows] in MEASURED {
        let config = config(small(hidden, layers))?;
        for recompute in [false, true] {
            let estimate = config.update_bytes(rows, tokens as usize, DeviceChoice::Cpu, recompute);
            let child = Command::new(env::current_exe()?)
                .arg(if recompute { "recompute" } else { "keep" })
                .args([hidden, layers, tokens, rows].map(|n| n.to_string()))
                .output()?;
            let said = String::from_utf8(child.stdout)?;
            let peak: f64 = said.trim().parse().map_err(|_| {
                format!(
                    "the child said {said}{}",
                    String::from_utf8_lossy(&child.stderr)
                )
            })?;
            let estimate = estimate as f64;
            println!(
                "| {hidden} | {layers} | {tokens} | {rows} | {} | {:.2} | {:.2} | {:.2} |",
                if recompute { "yes" } else { "no" },
                estimate / GIB,
                peak / GIB,
                peak / estimate
            );
        }
    }
    Ok(())
}

/// Two updates, so that the moments are there in the second; prints the peak in bytes.
fn update(sizes: &[u32], recompute_layers: bool) -> Result<(), Box<dyn Error>> {
    let &[hidden, layers, tokens, rows] = sizes else {
        return Err("the child wants four sizes".into());
    };
    let options = LearnerOptions {
        recompute_layers,
        ..LearnerOptions::default()
    };
    let mut learner = Learner::initialise(config(small(hidden, layers))?, 0, &options)?;
    let batch: Vec<u32> = (0..rows * tokens).map(|i| i * 7919 % 50_304).collect();
    for _ in 0..2 {
        learner.update(&batch, tokens as usize, 1e-4)?;
    }
    let status = fs::read_to_string("/proc/self/status")?;
    let line = (status.lines().find(|line| line.starts_with("VmHWM:"))).ok_or("no VmHWM")?;
    let kib: u64 = line.split_whitespace().nth(1).ok_or("no VmHWM")?.parse()?;
    println!("{}", kib * 1024);
    Ok(())
}
