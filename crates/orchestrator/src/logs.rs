//! What trainer processes said: `runs/<run id>/logs/job-<job>….log`, one file a job at least.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

/// The end of a log in which its last line is looked for.
const TAIL_BYTES: u64 = 4096;

/// The longest line of a log that becomes part of a reason.
const LINE_CHARS: usize = 300;

/// The directory of a run's logs, which it makes.
pub(crate) fn dir_of(run_dir: &Path) -> io::Result<PathBuf> {
    let logs = run_dir.join("logs");
    fs::create_dir_all(&logs)?;
    Ok(logs)
}

/// The log of a job of which there is one process at most.
pub(crate) fn name_of(job: u32) -> String {
    format!("job-{job}.log")
}

/// The last line of a log that says something.
pub(crate) fn last_line(log: &Path) -> Option<String> {
    let mut file = File::open(log).ok()?;
    let n_bytes = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(n_bytes.saturating_sub(TAIL_BYTES)))
        .ok()?;
    let mut tail = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut tail).ok()?;
    let tail = String::from_utf8_lossy(&tail);
    let mut lines = tail.lines().map(str::trim);
    // What Slurm adds to a job's log, it tells otherwise as well.
    let line = lines.rfind(|line| !line.is_empty() && !line.starts_with("slurmstepd"))?;
    // A log may be JSON, an object a line.
    let object = serde_json::from_str::<serde_json::Value>(line).ok();
    let message = object.as_ref().and_then(|o| o.get("message")?.as_str());
    Some(message.unwrap_or(line).chars().take(LINE_CHARS).collect())
}
