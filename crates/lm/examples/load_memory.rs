//! Host memory that loading a checkpoint of OLMo-1B's shapes takes, beyond the checkpoint's size.
//!
//! ```sh
//! cargo run -p imprint-lm --example load_memory -- /a/directory/with/5/GB
//! ```
//!
//! Writes random float32 weights, loads them in a child process, prints the peak of what was
//! resident there (`VmHWM`) against the file's size and its largest tensor, and removes them.
//! A second argument is the number of layers, 16 where absent.

use std::env;
use std::error::Error;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::Command;

use imprint_lm::{Learner, LearnerOptions};

/// As in the trainer.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const HIDDEN: usize = 2048;
const MLP: usize = 8192;
const VOCABULARY: usize = 50_304;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .as_slice()
    {
        ["load", dir] => load(Path::new(dir)),
        [parent] => measure(Path::new(parent), 16),
        [parent, n_layers] => measure(Path::new(parent), n_layers.parse()?),
        _ => Err("name a directory with room for 5 GB".into()),
    }
}

fn load(dir: &Path) -> Result<(), Box<dyn Error>> {
    let before = resident_bytes("VmHWM")?;
    let learner = Learner::load_checkpoint(dir, &LearnerOptions::default())?;
    println!("{before} {}", resident_bytes("VmHWM")?);
    drop(learner);
    Ok(())
}

fn measure(parent: &Path, n_layers: usize) -> Result<(), Box<dyn Error>> {
    let dir = parent.join(format!("imprint-load-memory-{}", std::process::id()));
    fs::create_dir(&dir)?;
    let measured = write(&dir, n_layers).and_then(|(n_bytes, largest)| {
        let child = Command::new(env::current_exe()?)
            .arg("load")
            .arg(&dir)
            .output()?;
        let said = String::from_utf8_lossy(&child.stdout).into_owned();
        let peaks: Vec<u64> = (said.split_whitespace())
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        let [before, peak] = peaks[..] else {
            return Err(String::from_utf8_lossy(&child.stderr).into());
        };
        let mib = |bytes: i64| bytes as f64 / f64::from(1 << 20);
        println!("file             {:9.1} MiB", mib(n_bytes as i64));
        println!("largest tensor   {:9.1} MiB", mib(largest as i64));
        println!("before loading   {:9.1} MiB", mib(before as i64));
        println!("peak             {:9.1} MiB", mib(peak as i64));
        println!(
            "peak − file      {:9.1} MiB",
            mib(peak as i64 - n_bytes as i64)
        );
        Ok(())
    });
    fs::remove_dir_all(&dir)?;
    measured
}

/// Bytes that `/proc/self/status` gives under a name.
fn resident_bytes(name: &str) -> Result<u64, Box<dyn Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = (status.lines()).find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let kib: u64 = kib.ok_or("no such line in /proc/self/status")?.parse()?;
    Ok(kib << 10)
}

/// Writes `config.json` and `model.safetensors`; the bytes of the latter and of its largest tensor.
fn write(dir: &Path, n_layers: usize) -> Result<(u64, u64), Box<dyn Error>> {
    let config = serde_json::json!({
        "model_type": "olmo",
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": MLP,
        "num_hidden_layers": n_layers,
        "num_attention_heads": 16,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": true,
        "hidden_act": "silu",
    });
    fs::write(dir.join("config.json"), config.to_string())?;
    let mut shapes = vec![("model.embed_tokens.weight".to_owned(), [VOCABULARY, HIDDEN])];
    for layer in 0..n_layers {
        let mut add = |name: &str, shape| {
            shapes.push((format!("model.layers.{layer}.{name}.weight"), shape));
        };
        for name in ["q_proj", "k_proj", "v_proj", "o_proj"] {
            add(&format!("self_attn.{name}"), [HIDDEN, HIDDEN]);
        }
        add("mlp.gate_proj", [MLP, HIDDEN]);
        add("mlp.up_proj", [MLP, HIDDEN]);
        add("mlp.down_proj", [HIDDEN, MLP]);
    }
    let mut header = serde_json::Map::new();
    let (mut end, mut largest) = (0, 0);
    for (name, shape) in shapes {
        let n_bytes = 4 * (shape[0] * shape[1]) as u64;
        let offsets = [end, end + n_bytes];
        let entry = serde_json::json!({ "dtype": "F32", "shape": shape, "data_offsets": offsets });
        header.insert(name, entry);
        end += n_bytes;
        largest = largest.max(n_bytes);
    }
    let header = serde_json::Value::Object(header).to_string();
    let path = dir.join("model.safetensors");
    let mut file = BufWriter::new(File::create(&path)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    // A block of small numbers again and again, each time begun elsewhere: no row is like the next.
    let mut seed = 1_u32;
    let block: Vec<u8> = (0..1 << 20)
        .flat_map(|_| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((f64::from(seed) / f64::from(u32::MAX) - 0.5) as f32 / 20.0).to_le_bytes()
        })
        .collect();
    let mut left = end as usize;
    let mut from = 0;
    while left > 0 {
        let n = left.min(block.len() - from);
        file.write_all(&block[from..from + n])?;
        left -= n;
        from = (from + 4 * 977) % (1 << 20);
    }
    file.into_inner()?.sync_all()?;
    Ok((fs::metadata(&path)?.len(), largest))
}
