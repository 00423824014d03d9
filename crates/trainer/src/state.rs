//! Saved states: the parameters before an update, with everything needed to go on from them.
//!
//! A state is a directory: a Hugging Face checkpoint (`config.json`, `model.safetensors`), the
//! optimizer's moments and update count (`optimizer.safetensors`), and `state.json`, the manifest,
//! which holds the rest and the hash of every other file.
//! It is written under another name, synced and renamed, so it is there whole or not at all; what
//! is recorded of it is the hash of its manifest.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use imprint_core::{RunIdentity, Settled, SpecHash, Standing};
use imprint_lm::Learner;
use imprint_proto::pb;
use imprint_spool::{UNFINISHED, delete_state};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::machine::Machine;

const MANIFEST: &str = "state.json";
const VERSION: u32 = 1;

/// What a state says of itself, besides weights and moments.
///
/// A run draws no random numbers on its way: its first weights, the order of its data and its
/// injections follow from the seed and the step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    /// Of this file's form.
    version: u32,
    pub(crate) run: SpecHash,
    attempt: u32,
    /// The next update of the run.
    pub(crate) step: u32,
    /// Updates that these parameters have seen since they were initialised.
    global_step: u64,
    /// Tokens that these parameters have seen, where that is known.
    tokens_seen: Option<u64>,
    /// Position in the data order of the first row of the next update.
    next_instance: u64,
    pub(crate) settled: Settled,
    pub(crate) machine: Machine,
    files: BTreeMap<String, FileRecord>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileRecord {
    n_bytes: u64,
    sha256: String,
}

impl Manifest {
    pub(crate) fn standing(&self) -> Standing {
        Standing {
            global_step: self.global_step,
            tokens_seen: self.tokens_seen,
        }
    }

    /// Makes sure that the state is of a run, and stands in its data where the run would.
    ///
    /// # Errors
    /// When it does not.
    pub(crate) fn check_position(&self, identity: &RunIdentity) -> anyhow::Result<()> {
        let (run, position) = (identity.hash(), Position::at(identity, self.step));
        anyhow::ensure!(
            self.run == run && self.next_instance == position.next_instance,
            "the state at step {} is of run {} at instance {} of its data, not of run {run} at {}",
            self.step,
            self.run,
            self.next_instance,
            position.next_instance
        );
        Ok(())
    }
}

/// Where a run is before an update.
#[derive(Clone, Debug)]
pub(crate) struct Position {
    step: u32,
    /// Position in the data order of the first row of the update.
    next_instance: u64,
    /// Tokens that the run itself has trained on.
    n_tokens: u64,
}

impl Position {
    pub(crate) fn at(identity: &RunIdentity, step: u32) -> Self {
        let n_rows = u64::from(step) * u64::from(identity.batch_size);
        Self {
            step,
            next_instance: identity.corpus.start_instance + n_rows,
            n_tokens: u64::from(step) * identity.tokens_per_update(),
        }
    }
}

/// Where an attempt keeps what it writes.
#[derive(Clone, Debug)]
pub(crate) struct AttemptDir {
    run_dir: PathBuf,
    attempt: u32,
}

impl AttemptDir {
    pub(crate) fn of(run_dir: &Path, attempt: u32) -> Self {
        Self {
            run_dir: run_dir.to_owned(),
            attempt,
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.run_dir.join("attempts").join(self.attempt.to_string())
    }

    /// Makes sure that the directory and the names in it survive the machine.
    pub(crate) fn sync(&self) -> anyhow::Result<()> {
        let path = self.path();
        for dir in path.ancestors().take(3) {
            File::open(dir)
                .and_then(|d| d.sync_all())
                .with_context(|| format!("sync the directory {}", dir.display()))?;
        }
        Ok(())
    }

    fn state(&self, step: u32) -> PathBuf {
        self.path().join("states").join(format!("step-{step}"))
    }
}

/// What all states of an attempt have in common.
#[derive(Clone, Debug)]
pub(crate) struct StateWriter {
    pub(crate) dir: AttemptDir,
    pub(crate) run: SpecHash,
    pub(crate) settled: Settled,
    pub(crate) machine: Machine,
}

impl StateWriter {
    /// Writes the state at a position and says where it is.
    pub(crate) fn save(
        &self,
        learner: &Learner,
        position: &Position,
    ) -> anyhow::Result<pb::SavedState> {
        let path = self.dir.state(position.step);
        let unfinished = path.with_extension(UNFINISHED);
        let global_step = self.settled.first_global_step + u64::from(position.step);
        let write = || -> anyhow::Result<String> {
            fs::create_dir_all(&unfinished)?;
            learner.save_state(&unfinished)?;
            let manifest = Manifest {
                version: VERSION,
                run: self.run.clone(),
                attempt: self.dir.attempt,
                step: position.step,
                global_step,
                tokens_seen: (self.settled.tokens_seen).map(|before| before + position.n_tokens),
                next_instance: position.next_instance,
                settled: self.settled.clone(),
                machine: self.machine.clone(),
                files: records(&unfinished)?,
            };
            let manifest = serde_json::to_vec_pretty(&manifest)?;
            fs::write(unfinished.join(MANIFEST), &manifest)?;
            for entry in fs::read_dir(&unfinished)? {
                File::open(entry?.path())?.sync_all()?;
            }
            File::open(&unfinished)?.sync_all()?;
            fs::rename(&unfinished, &path)?;
            if let Some(parent) = path.parent() {
                File::open(parent)?.sync_all()?;
            }
            Ok(format!("{:x}", Sha256::digest(manifest)))
        };
        let sha256 = write().inspect_err(|_| {
            // Half a state helps nobody and may be what filled the disk.
            let _ = fs::remove_dir_all(&unfinished);
        });
        let sha256 = sha256.with_context(|| format!("save the state {}", path.display()))?;
        Ok(pb::SavedState {
            step: position.step,
            attempt: self.dir.attempt,
            path: path.display().to_string(),
            sha256,
            global_step,
        })
    }
}

/// The manifest of a recorded state, which is on this machine and holds what was recorded.
///
/// # Errors
/// With what is wrong with it.
pub(crate) fn open(state: &pb::SavedState) -> anyhow::Result<Manifest> {
    let dir = Path::new(&state.path);
    let path = dir.join(MANIFEST);
    let text = fs::read(&path).with_context(|| format!("read the state {}", path.display()))?;
    let found = format!("{:x}", Sha256::digest(&text));
    anyhow::ensure!(
        found == state.sha256,
        "the state {} does not hold what was saved (the hash of its {MANIFEST} is {found}, recorded \
         was {})",
        state.path,
        state.sha256
    );
    let manifest = parse(dir, &text)?;
    verify(dir, &manifest)?;
    Ok(manifest)
}

/// The first of several equal states that is on this machine and holds what was recorded.
///
/// # Errors
/// When there is none, with what is wrong with the last.
pub(crate) fn newest_sound(
    states: &[pb::SavedState],
) -> anyhow::Result<(&pb::SavedState, Manifest)> {
    let mut wrong = anyhow::anyhow!("no state of it is recorded");
    for state in states {
        match open(state) {
            Ok(manifest) => return Ok((state, manifest)),
            Err(e) => {
                tracing::warn!("{e:#}; looking for another");
                wrong = e;
            }
        }
    }
    Err(wrong)
}

/// The manifest of a directory that is a state; `None` where it is none. Its files are not verified.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn find(dir: &Path) -> anyhow::Result<Option<Manifest>> {
    match fs::read(dir.join(MANIFEST)) {
        Ok(text) => parse(dir, &text).map(Some),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("read the state {}", dir.display())),
    }
}

fn parse(dir: &Path, text: &[u8]) -> anyhow::Result<Manifest> {
    let manifest: Manifest = serde_json::from_slice(text)
        .with_context(|| format!("{} is no manifest of a state", dir.join(MANIFEST).display()))?;
    anyhow::ensure!(
        manifest.version == VERSION,
        "the state {} is of version {}; this program reads version {VERSION}",
        dir.display(),
        manifest.version
    );
    Ok(manifest)
}

/// Holds every file of a state to what its manifest says.
fn verify(dir: &Path, manifest: &Manifest) -> anyhow::Result<()> {
    for (name, recorded) in &manifest.files {
        let path = dir.join(name);
        let found = record(&path).with_context(|| format!("read {}", path.display()))?;
        anyhow::ensure!(
            found == *recorded,
            "{} does not hold what was saved (its SHA-256 is {} over {} bytes, saved was {} over {})",
            path.display(),
            found.sha256,
            found.n_bytes,
            recorded.sha256,
            recorded.n_bytes
        );
    }
    Ok(())
}

/// Removes what attempts before `attempt` left of states that they could not record.
///
/// They have ended, so none of it will ever be recorded.
/// What is not known to be this run's stays: the directory may be another database's.
pub(crate) fn sweep(run_dir: &Path, run: &SpecHash, attempt: u32, recorded: &[pb::SavedState]) {
    let is_recorded = |of: u32, name: &str| {
        let step = name
            .strip_prefix("step-")
            .and_then(|step| step.parse().ok());
        recorded
            .iter()
            .any(|s| s.attempt == of && Some(s.step) == step)
    };
    for of in 1..attempt {
        let states = AttemptDir::of(run_dir, of).path().join("states");
        for entry in fs::read_dir(states).into_iter().flatten().flatten() {
            if is_recorded(of, &entry.file_name().to_string_lossy()) {
                continue;
            }
            let path = entry.path();
            let is_unfinished = path.extension().is_some_and(|e| e == UNFINISHED);
            if !is_unfinished && !find(&path).is_ok_and(|m| m.is_some_and(|m| m.run == *run)) {
                continue;
            }
            delete_state(run_dir, &path.to_string_lossy());
        }
    }
}

/// What each file of a directory holds, by name.
fn records(dir: &Path) -> io::Result<BTreeMap<String, FileRecord>> {
    fs::read_dir(dir)?
        .map(|entry| {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            Ok((name, record(&entry.path())?))
        })
        .collect()
}

fn record(path: &Path) -> io::Result<FileRecord> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut n_bytes = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => {
                hasher.update(&buffer[..n]);
                n_bytes += n as u64;
            }
        }
    }
    Ok(FileRecord {
        n_bytes,
        sha256: format!("{:x}", hasher.finalize()),
    })
}

#[cfg(test)]
pub(crate) mod tests;
