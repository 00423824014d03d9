//! A user's directory, and the end of everything that runs for it.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::database::{end_cluster, ends};

/// A temporary directory with a data directory in it.
///
/// A private Postgres and trainers outlive an `imprint up` that is killed: dropping this kills every
/// process that was told of the data directory, and the server that it records.
#[derive(Debug)]
pub struct Home(TempDir);

impl Home {
    #[expect(clippy::new_without_default, reason = "it makes a directory")]
    pub fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("imprint-home-")
            // Postgres, as another user, passes through it.
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir()
            .expect("make a directory");
        Self(dir)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// What programs are told as `IMPRINT_DATA_DIR`.
    pub fn data_dir(&self) -> PathBuf {
        self.path().join("data")
    }

    /// The processes that were told of the data directory, but for the database's.
    pub fn pids(&self) -> Vec<i32> {
        let mut told = OsString::from("IMPRINT_DATA_DIR=");
        told.push(self.data_dir());
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        processes
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid| {
                let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                environment(*pid)
                    .split(|&b| b == 0)
                    .any(|v| v == told.as_encoded_bytes())
                    && name.trim() != "postgres"
            })
            .collect()
    }
}

/// What a process was told at its start. It reads as nothing while the kernel is between a program's
/// `exec` and its first instruction, so nothing is looked at again for a while.
pub(crate) fn environment(pid: i32) -> Vec<u8> {
    for _ in 0..20 {
        let said = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let is_program = fs::read_link(format!("/proc/{pid}/exe")).is_ok();
        if !said.is_empty() || !is_program {
            return said;
        }
        thread::sleep(Duration::from_millis(1));
    }
    Vec::new()
}

impl Drop for Home {
    fn drop(&mut self) {
        for pid in self.pids() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            if !ends(pid) {
                eprintln!("process {pid} does not end");
            }
        }
        end_cluster(&self.data_dir().join("postgres"));
    }
}
