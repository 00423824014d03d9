//! Damaged files of every format: an error, or tensors; never a panic, an abort, or memory without
//! bound.
//!
//! The inputs are read in a child process with a limit on its address space, so that what a reader
//! sets aside for a lying file ends the child.

use std::env;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;

use rand_core::RngCore;
use rand_pcg::Pcg64;
use tempfile::TempDir;

use super::fixture;
use crate::checkpoint::TensorFiles;
use crate::checkpoint::olmo::fuzzed as olmo;
use crate::checkpoint::pickle::{self, Known};
use crate::checkpoint::tensor::Extent;

/// Address space of a child: the program, its threads' stacks, and room for a reader's bounds.
const LIMIT_KIB: u32 = 2 << 20;
/// What an input may take, with a minute for the child itself, before the child is killed.
const LIMIT_MS_PER_INPUT: u32 = 20;
/// Names the target, the number of inputs and a directory for them to the child.
const TASK: &str = "IMPRINT_FUZZ";

struct Target {
    name: &'static str,
    seeds: &'static [&'static str],
    /// Reads one input, which also lies in the directory under the seed's name.
    read: fn(&Path, &str, &[u8]),
    /// Whether the input has to lie in a file.
    is_file: bool,
}

const TARGETS: &[Target] = &[
    Target {
        name: "safetensors",
        seeds: &["safetensors/model.safetensors"],
        read: |dir, name, _| read_all(TensorFiles::open_file(dir.join(name)).ok()),
        is_file: true,
    },
    Target {
        name: "torch",
        seeds: &["torch/odd.pt", "torch/odd-protocol-5.pt"],
        read: |dir, name, _| read_all(TensorFiles::open_file(dir.join(name)).ok()),
        is_file: true,
    },
    Target {
        name: "pickle",
        seeds: &[
            "torch/odd.pt",
            "torch/odd-protocol-5.pt",
            "olmo-pt/train.pt",
        ],
        read: |_, _, bytes| read_pickle(bytes),
        is_file: false,
    },
    Target {
        name: "index",
        seeds: &["bin-sharded/pytorch_model.bin.index.json"],
        read: |dir, _, _| read_all(TensorFiles::open_dir(dir).ok()),
        is_file: true,
    },
    Target {
        name: "yaml",
        seeds: &["olmo-pt/config.yaml"],
        read: |_, _, bytes| olmo::read_config(bytes),
        is_file: false,
    },
    Target {
        name: "optimizer",
        seeds: &[
            "older/optim-numbered.pt",
            "older/optim-unnamed.pt",
            "olmo-safetensors/optim.safetensors",
        ],
        read: |dir, name, _| read_all(olmo::read_optimizer(&dir.join(name))),
        is_file: true,
    },
];

#[test]
fn damaged_files_are_errors() {
    for target in TARGETS {
        in_a_child(target, 20_000);
    }
}

#[test]
#[ignore = "takes minutes: `cargo xtask soak` runs it"]
fn a_million_damaged_files_of_each_kind_are_errors() {
    for target in TARGETS {
        in_a_child(target, 1_000_000);
    }
}

fn in_a_child(target: &Target, n_inputs: u32) {
    // In memory where there is such a place: a million files are hard work for a disk.
    let in_memory = Path::new("/dev/shm");
    let dir = match in_memory.is_dir() {
        true => TempDir::new_in(in_memory),
        false => TempDir::new(),
    };
    let dir = dir.expect("temporary directory");
    // The shards that the damaged index may name.
    for shard in ["00001", "00002"] {
        let name = format!("pytorch_model-{shard}-of-00002.bin");
        fs::copy(fixture("bin-sharded").join(&name), dir.path().join(&name)).expect("copied");
    }
    let task = format!("{} {n_inputs} {}", target.name, dir.path().display());
    let limit_s = 60 + n_inputs * LIMIT_MS_PER_INPUT / 1000;
    let output = Command::new("sh")
        .args(["-c", &format!("ulimit -v {LIMIT_KIB} && exec \"$@\""), "sh"])
        .args([
            "timeout",
            "--foreground",
            "--signal=KILL",
            &limit_s.to_string(),
        ])
        .arg(env::current_exe().expect("a test is a program"))
        .args(["--exact", "checkpoint::tests::fuzz::child", "--nocapture"])
        .env(TASK, task)
        .output()
        .expect("sh is there");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("read every input"),
        "{}: {}\n{said}\n{}",
        target.name,
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Not a test of its own: what the tests above start.
#[test]
fn child() {
    let Ok(task) = env::var(TASK) else {
        return;
    };
    let mut words = task.splitn(3, ' ');
    let mut word = || words.next().expect("the task is complete");
    let (name, n_inputs, dir) = (word(), word(), word());
    let target = (TARGETS.iter().find(|target| target.name == name)).expect("it is a target");
    let n_inputs: u64 = n_inputs.parse().expect("it is a number");
    let seeds: Vec<(String, Vec<u8>)> = (target.seeds.iter())
        .map(|seed| {
            let path = fixture(seed);
            let name = path.file_name().expect("it is a file").to_string_lossy();
            let bytes = fs::read(&path).expect("fixture is committed");
            match target.name {
                "pickle" => (name.into_owned(), pickle_of(&bytes)),
                _ => (name.into_owned(), bytes),
            }
        })
        .collect();
    for input in 0..n_inputs {
        let mut random = Pcg64::new(u128::from(input), 0);
        let (name, seed) = &seeds[random.next_u64() as usize % seeds.len()];
        let bytes = damaged(seed, &mut random);
        let dir = PathBuf::from(dir);
        if target.is_file {
            fs::write(dir.join(name), &bytes).expect("written");
        }
        let read = || (target.read)(&dir, name, &bytes);
        if catch_unwind(AssertUnwindSafe(read)).is_err() {
            panic!("input {input} of {} ends in a panic", target.name);
        }
    }
    println!("read every input");
}

/// The first pickle in an archive, whose other bytes lie before and after it.
fn pickle_of(archive: &[u8]) -> Vec<u8> {
    let start = archive
        .windows(2)
        .position(|w| w[0] == 0x80 && (2..=5).contains(&w[1]));
    let end = archive.windows(4).position(|w| w == [b'P', b'K', 7, 8]);
    archive[start.expect("there is a pickle")..end.expect("it has an end")].to_vec()
}

/// A seed with some bytes changed, cut out, repeated or cut off; mostly a few.
fn damaged(seed: &[u8], random: &mut Pcg64) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    let n_changes = 1 + random.next_u64() % 4;
    for _ in 0..n_changes {
        if bytes.is_empty() {
            break;
        }
        // Headers are at a file's beginning, directories at its end.
        let near = bytes.len().min(1500);
        let far = bytes.len() - near;
        let at = match random.next_u64() % 4 {
            0 => random.next_u64() as usize % near,
            1 => far + random.next_u64() as usize % near,
            _ => random.next_u64() as usize % bytes.len(),
        };
        let n = (random.next_u64() as usize % 16).min(bytes.len() - at);
        match random.next_u64() % 10 {
            0 => bytes[at] ^= 1 << (random.next_u64() % 8),
            1 | 2 => bytes[at] = random.next_u64() as u8,
            3 => {
                bytes.drain(at..at + n);
            }
            4 => {
                let part = bytes[at..at + n].to_vec();
                bytes.splice(at..at, part);
            }
            5 => {
                let to = random.next_u64() as usize % bytes.len();
                let part = bytes[at..at + n].to_vec();
                bytes.splice(to..to, part);
            }
            6 => {
                // The ends of ranges, in as many bytes as numbers have.
                let extremes = [
                    0,
                    1,
                    0x7f,
                    0xff,
                    0x8000_0000,
                    u64::MAX,
                    1 << 62,
                    u64::MAX - 7,
                ];
                let value = extremes[random.next_u64() as usize % extremes.len()].to_le_bytes();
                let width = (1 << (random.next_u64() % 4)).min(bytes.len() - at);
                bytes[at..at + width].copy_from_slice(&value[..width]);
            }
            7 => {
                // A digit, where lengths are text.
                if let Some(digit) = bytes[at..].iter().position(u8::is_ascii_digit) {
                    bytes[at + digit] = b'0' + (random.next_u64() % 10) as u8;
                }
            }
            8 => {
                let run = vec![bytes[at]; random.next_u64() as usize % 2000];
                bytes.splice(at..at, run);
            }
            _ => bytes.truncate(at),
        }
    }
    bytes
}

fn read_all(files: Option<TensorFiles>) {
    let Some(files) = files else {
        return;
    };
    for (name, tensor) in &files.tensors {
        if files.expect(name, &tensor.shape).is_ok() {
            let mut out = vec![0.0; tensor.n_elements()];
            // Whether it can be read is not the question.
            let _ = files.read(name, &tensor.shape, &mut out);
        }
    }
    let _ = files.warnings();
}

fn read_pickle(bytes: &[u8]) {
    let storages = |_: &str| {
        Some(Extent {
            file: 0,
            start: 0,
            n_bytes: 96,
        })
    };
    for inert in [false, true] {
        let known = Known {
            storages: Some(&storages),
            inert,
        };
        let _ = pickle::read(bytes, &known);
    }
}
