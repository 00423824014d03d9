//! Clusters of tests that were killed: their steps would wait for good for daemons that are gone.

use std::fs::{self, File};
use std::path::Path;

use super::processes;

pub(super) const PREFIX: &str = "imprint-slurm-";

/// Held by the process whose cluster it is, for as long as it lives.
const LOCK: &str = "lock";

/// Takes a cluster's directory into possession.
pub(super) fn claim(dir: &Path) -> File {
    // Under its name only once it is locked.
    let unfinished = dir.join("lock.new");
    let lock = File::create(&unfinished).expect("make a file");
    lock.lock().expect("lock a new file");
    fs::rename(unfinished, dir.join(LOCK)).expect("rename a file");
    lock
}

/// Ends what is left of clusters that nobody possesses any more.
pub(super) fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let dir = entry.path();
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        // Nobody's that is here, or another user's.
        let Ok(lock) = File::options().append(true).open(dir.join(LOCK)) else {
            continue;
        };
        if lock.try_lock().is_ok() {
            processes::kill_all(|| processes::of(&dir, None));
            let _ = fs::remove_dir_all(&dir);
        }
    }
}
