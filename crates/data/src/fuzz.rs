//! Readers of foreign files, fed with damaged ones: each is read or refused, without a panic, an
//! abort, or memory beyond what the file is worth.
//!
//! The readers run in a child process whose address space is limited, for one that asks for too
//! much is ended by the allocator and takes no test down with it.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

use indicatif::ProgressBar;
use nix::sys::resource::{Resource, setrlimit};
use rand_core::{RngCore, SeedableRng};
use rand_pcg::Pcg64;

use crate::array::IntegerArray;
use crate::documents::tests::{gzip, zst};
use crate::documents::{TextFormat, documents};
use crate::order::OrderFile;

const ADDRESS_SPACE_BYTES: u64 = 1 << 30;
const MAX_INPUT_BYTES: usize = 1 << 14;
/// Documents that are asked of one input: a few bytes may rightly stand for very many.
const MAX_DOCUMENTS: usize = 2000;
/// What an input may take, with a minute for the child itself, before the child is killed.
const LIMIT_MS_PER_INPUT: usize = 20;
const CHILD: &str = "IMPRINT_FUZZ";
const READERS: [&str; 6] = ["npy", "order", "jsonl", "jsonl.gz", "jsonl.zst", "parquet"];

/// Whether a file was read as a whole.
fn read(reader: &str, path: &Path) -> bool {
    let format = match reader {
        "npy" => {
            return IntegerArray::open_npy(path).is_ok_and(|array| {
                let integers = array.read(0, array.len() as usize).unwrap();
                integers.len() as u64 == array.len()
            });
        }
        "order" => return OrderFile::open(path).is_ok(),
        "parquet" => TextFormat::Parquet { column: "text" },
        _ => TextFormat::Jsonl { key: "text" },
    };
    let Ok(documents) = documents(path, format, &ProgressBar::hidden()) else {
        return false;
    };
    let mut failed = false;
    for document in documents.take(MAX_DOCUMENTS) {
        assert!(!failed, "nothing comes after an error");
        failed = document.is_err();
    }
    !failed
}

/// Sound files for a reader.
fn sound(reader: &str) -> Vec<Vec<u8>> {
    let npy = |descr: &str, n: usize, data: &[u8]| {
        let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({n},), }}");
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    };
    match reader {
        "npy" => vec![
            npy("<u2", 8, &[1; 16]),
            npy("<u4", 4, &[2; 16]),
            npy("<i8", 2, &[3; 16]),
        ],
        "order" => vec![
            [3u32, 1, 0, 2].map(u32::to_le_bytes).concat(),
            npy("<u4", 4, &[0; 16]),
        ],
        "jsonl" => vec![lines()],
        "jsonl.gz" | "jsonl.zst" => vec![compressed(reader, &lines())],
        "parquet" => {
            let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parquet");
            let mut paths: Vec<_> = fs::read_dir(fixtures)
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .filter(|path| path.extension().is_some_and(|e| e == "parquet"))
                .collect();
            paths.sort();
            paths.iter().map(|path| fs::read(path).unwrap()).collect()
        }
        other => panic!("{other} is no reader"),
    }
}

fn lines() -> Vec<u8> {
    "{\"id\": 7, \"text\": \"w0 w1 \\u00fc\", \"meta\": {\"a\": [1, 2.5e3, null]}}\n\n\
     {\"text\": \"\\\"quoted\\\" and \\\\ more\"}\n{\"text\": null}\n"
        .repeat(4)
        .into_bytes()
}

fn compressed(reader: &str, bytes: &[u8]) -> Vec<u8> {
    match reader {
        "jsonl.gz" => gzip(bytes),
        _ => zst(bytes),
    }
}

/// Damages a file in a few places.
struct Mutator {
    rng: Pcg64,
}

impl Mutator {
    fn below(&mut self, n: usize) -> usize {
        (self.rng.next_u64() % n.max(1) as u64) as usize
    }

    /// A place in a file, often near one of its ends, where formats keep their numbers.
    fn place(&mut self, len: usize) -> usize {
        let near = self.below(len.min(300));
        match self.below(3) {
            0 => near,
            1 => len.saturating_sub(1 + near),
            _ => self.below(len),
        }
    }

    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        const TELLING: [u64; 12] = [
            0,
            1,
            0x7f,
            0xff,
            0x7fff,
            0xffff,
            0x7fff_ffff,
            0x8000_0000,
            0xffff_ffff,
            i64::MAX as u64,
            1 << 63,
            u64::MAX,
        ];
        for _ in 0..=self.below(6) {
            let at = self.place(bytes.len());
            let n = 1 + self.below(16);
            let end = (at + n).min(bytes.len());
            match self.below(7) {
                _ if bytes.is_empty() => bytes.push(self.rng.next_u32() as u8),
                0 => bytes[at] ^= 1 << self.below(8),
                1 => bytes[at] = self.rng.next_u32() as u8,
                2 => {
                    let number = TELLING[self.below(TELLING.len())].to_le_bytes();
                    let width = [1, 2, 4, 8][self.below(4)].min(bytes.len() - at);
                    bytes[at..at + width].copy_from_slice(&number[..width]);
                }
                3 => bytes.truncate(at),
                4 => drop(bytes.drain(at..end)),
                5 => {
                    let copied = bytes[at..end].to_vec();
                    let to = self.place(bytes.len());
                    bytes.splice(to..to, copied);
                }
                // The largest varint, or one that is too long.
                _ => {
                    bytes[at..end].fill(0xff);
                    bytes[end - 1] = 0x7f;
                }
            }
        }
        bytes.truncate(MAX_INPUT_BYTES);
    }
}

/// What the child process does; without its variable there is nothing to do.
#[test]
fn child() {
    let Ok(task) = env::var(CHILD) else {
        return;
    };
    let (reader, n) = task.split_once(' ').unwrap();
    setrlimit(
        Resource::RLIMIT_AS,
        ADDRESS_SPACE_BYTES,
        ADDRESS_SPACE_BYTES,
    )
    .unwrap();
    // In memory where there is such a place: a disk takes longer than the readers.
    let memory = Path::new("/dev/shm");
    let directory = match memory.is_dir() {
        true => tempfile::tempdir_in(memory),
        false => tempfile::tempdir(),
    };
    let directory = directory.unwrap();
    let path = directory.path().join(format!("input.{reader}"));
    let sound = sound(reader);
    let mut mutator = Mutator {
        rng: Pcg64::seed_from_u64(6198),
    };
    let n: usize = n.parse().unwrap();
    let mut n_whole = 0;
    for i in 0..n {
        let mut bytes = sound[i % sound.len()].clone();
        mutator.mutate(&mut bytes);
        if i % 2 == 0 && reader.starts_with("jsonl.") {
            // A sound file of damaged lines, for checksums keep damaged files from being read far.
            bytes = lines();
            mutator.mutate(&mut bytes);
            bytes = compressed(reader, &bytes);
        }
        fs::write(&path, &bytes).unwrap();
        n_whole += usize::from(read(reader, &path));
    }
    println!("read {n} of {reader}, {n_whole} as a whole");
    // Damage that is always noticed at once would never reach the inside of a reader.
    assert!((n / 100..n - n / 100).contains(&n_whole));
}

#[track_caller]
fn feed(reader: &str, n_inputs: usize) {
    let limit_s = 60 + n_inputs * LIMIT_MS_PER_INPUT / 1000;
    let output = Command::new("timeout")
        .args(["--foreground", "--signal=KILL", &limit_s.to_string()])
        .arg(env::current_exe().unwrap())
        .args(["--exact", "fuzz::child", "--nocapture"])
        .env(CHILD, format!("{reader} {n_inputs}"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains(&format!("read {n_inputs} of {reader}")),
        "{reader}: {}\n{said}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn damaged_files_are_read_or_refused() {
    for reader in READERS {
        feed(reader, 4_000);
    }
}

#[test]
#[ignore = "takes minutes: `cargo xtask soak` runs it"]
fn a_million_damaged_files_are_read_or_refused() {
    for reader in READERS {
        feed(reader, 1_000_000);
    }
}
