//! What simulated trainers and the tests that watch them agree on.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use imprint_testkit::SeedRun;

/// The environment variable that names the directory where simulated trainers say what they do, out
/// of reach of what is tested.
pub const DIR: &str = "IMPRINT_SIMULATED_DIR";

/// The run with a label: hundreds of updates, some kilobytes a reading, a state every 25 steps.
pub fn run(label: &str) -> SeedRun {
    SeedRun {
        label: label.to_owned(),
        n_facts: 12,
        probes_per_fact: 12,
        n_updates: 600,
        // Readings and updates count differently in every other run.
        read_every: if label.ends_with(['1', '3']) { 3 } else { 1 },
        save_every: 25,
        ..SeedRun::default()
    }
}

/// What one attempt has said of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttemptLog {
    /// The attempt whose state it went on from; 0 for the run's beginning.
    pub from_attempt: u32,
    /// The first step that it measured itself.
    pub from_step: u32,
    /// Everything from there on was delivered by it.
    pub deliver_from: u32,
    /// Readings below this index were acknowledged to it.
    pub next_reading: u32,
    /// Updates below this step were acknowledged to it.
    pub next_update: u32,
}

impl AttemptLog {
    /// What the attempts of a run have said, by number; those that died before they could say where
    /// they went on have delivered nothing.
    pub fn of_run(dir: &Path, run_id: i32) -> BTreeMap<u32, Self> {
        let attempts = (1..).map_while(|attempt| {
            // Attempts that died early leave gaps; no run has so many in a row.
            (attempt..attempt + 50)
                .any(|a| path(dir, run_id, a).exists())
                .then_some(attempt)
        });
        attempts
            .filter_map(|attempt| Some((attempt, Self::read(&path(dir, run_id, attempt))?)))
            .collect()
    }

    fn read(path: &Path) -> Option<Self> {
        let text = fs::read_to_string(path).ok()?;
        let mut log = Self::default();
        let mut has_begun = false;
        // A line that a kill cut in two was never whole.
        for line in text.split_inclusive('\n').filter(|l| l.ends_with('\n')) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let number = |i: usize| words[i].parse().expect("a number in a log");
            match words[0] {
                "from" => {
                    (log.from_attempt, log.from_step) = (number(1), number(2));
                    log.deliver_from = number(3);
                    has_begun = true;
                }
                "acknowledged" => (log.next_reading, log.next_update) = (number(1), number(2)),
                other => panic!("{other} in a log"),
            }
        }
        has_begun.then_some(log)
    }
}

fn path(dir: &Path, run_id: i32, attempt: u32) -> PathBuf {
    dir.join(format!("{run_id}-{attempt}"))
}

/// The process that began the newest attempt of a run, by its own word.
pub fn newest_pid(dir: &Path, run_id: i32) -> Option<i32> {
    let text = fs::read_to_string(dir.join(format!("{run_id}.pid")));
    text.ok()?.parse().ok()
}

/// A simulated trainer's side of [`AttemptLog`]: a line is on the disk before anything follows.
#[derive(Debug)]
pub struct LogWriter(File);

impl LogWriter {
    /// # Errors
    /// When it cannot be written.
    pub fn begin(dir: &Path, run_id: i32, attempt: u32) -> io::Result<Self> {
        // Whoever looks finds a whole number.
        let pid = dir.join(format!("{run_id}.pid"));
        let unfinished = dir.join(format!("{run_id}-{attempt}.unfinished"));
        fs::write(&unfinished, std::process::id().to_string())?;
        fs::rename(unfinished, pid)?;
        let mut options = File::options();
        options.create_new(true).append(true);
        options.open(path(dir, run_id, attempt)).map(Self)
    }

    /// # Errors
    /// When it cannot be written.
    pub fn from(&mut self, attempt: u32, step: u32, deliver_from: u32) -> io::Result<()> {
        self.say(&format!("from {attempt} {step} {deliver_from}\n"))
    }

    /// # Errors
    /// When it cannot be written.
    pub fn acknowledged(&mut self, next_reading: u32, next_update: u32) -> io::Result<()> {
        self.say(&format!("acknowledged {next_reading} {next_update}\n"))
    }

    fn say(&mut self, line: &str) -> io::Result<()> {
        self.0.write_all(line.as_bytes())?;
        self.0.sync_data()
    }
}
