//! Saved states: the parameters before an update, with everything needed to go on from them.
//!
//! A state is a directory: a Hugging Face checkpoint (`config.json`, `model.safetensors`), the
//! optimizer's moments (`optimizer.safetensors`) and `trainer.json`.
//! It is written under another name, synced and renamed, so it is there whole or not at all.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use imprint_core::SpecHash;
use imprint_lm::Learner;
use imprint_proto::pb;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// What a state says of itself, besides weights and moments.
///
/// Data position and schedule follow from the step, and a run draws no other random numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TrainerState {
    step: u32,
    /// Updates that these parameters have seen since they were initialised.
    global_step: u64,
    run: SpecHash,
    attempt: u32,
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

    pub(crate) fn spool(&self) -> PathBuf {
        self.path().join("spool")
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

/// Writes the state before update `step` and says where it is.
pub(crate) fn save(
    learner: &Learner,
    dir: &AttemptDir,
    run: &SpecHash,
    step: u32,
    global_step: u64,
) -> anyhow::Result<pb::SavedState> {
    let path = dir.state(step);
    let unfinished = path.with_extension("unfinished");
    let write = || -> anyhow::Result<String> {
        fs::create_dir_all(&unfinished)?;
        learner.save_state(&unfinished)?;
        let state = TrainerState {
            step,
            global_step,
            run: run.clone(),
            attempt: dir.attempt,
        };
        fs::write(
            unfinished.join("trainer.json"),
            serde_json::to_vec_pretty(&state)?,
        )?;
        for file in files(&unfinished)? {
            File::open(&file)?.sync_all()?;
        }
        File::open(&unfinished)?.sync_all()?;
        let sha256 = digest(&unfinished)?;
        fs::rename(&unfinished, &path)?;
        if let Some(parent) = path.parent() {
            File::open(parent)?.sync_all()?;
        }
        Ok(sha256)
    };
    let sha256 = write().inspect_err(|_| {
        // Half a state helps nobody and may be what filled the disk.
        let _ = fs::remove_dir_all(&unfinished);
    });
    let sha256 = sha256.with_context(|| format!("save the state {}", path.display()))?;
    Ok(pb::SavedState {
        step,
        attempt: dir.attempt,
        path: path.display().to_string(),
        sha256,
        global_step,
    })
}

/// Whether a state is on this machine and holds what was recorded.
///
/// # Errors
/// With what is wrong with it.
pub(crate) fn verify(state: &pb::SavedState) -> anyhow::Result<()> {
    let found =
        digest(Path::new(&state.path)).with_context(|| format!("read the state {}", state.path))?;
    anyhow::ensure!(
        found == state.sha256,
        "the state {} does not hold what was saved (its hash is {found}, recorded was {})",
        state.path,
        state.sha256
    );
    Ok(())
}

/// The files of a directory, by name.
fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir)?
        .map(|entry| entry.map(|e| e.path()))
        .collect::<io::Result<_>>()?;
    paths.sort();
    Ok(paths)
}

/// SHA-256 over the names and contents of a directory's files.
fn digest(dir: &Path) -> io::Result<String> {
    let mut all = Sha256::new();
    for path in files(dir)? {
        all.update(path.file_name().unwrap_or_default().as_encoded_bytes());
        let mut one = Sha256::new();
        let mut file = File::open(&path)?;
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                n => one.update(&buffer[..n]),
            }
        }
        all.update(one.finalize());
    }
    Ok(format!("{:x}", all.finalize()))
}
