//! A small disk that a test can fill.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;

/// A file system in memory of its own; dropping it unmounts and forgets it.
#[derive(Debug)]
pub struct Tmpfs {
    dir: TempDir,
}

impl Tmpfs {
    /// # Errors
    /// Where this process may not mount, with the reason.
    pub fn mount(n_bytes: u64) -> Result<Self, String> {
        let dir = tempfile::Builder::new()
            .prefix("imprint-tmpfs-")
            .tempdir()
            .expect("make a directory");
        let options = format!("size={n_bytes},mode=755");
        mount(
            Some("tmpfs"),
            dir.path(),
            Some("tmpfs"),
            MsFlags::empty(),
            Some(options.as_str()),
        )
        .map_err(|e| format!("a small disk cannot be mounted here: {e}"))?;
        Ok(Self { dir })
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }

    /// Writes until the disk takes nothing any more.
    pub fn fill(&self) {
        let mut ballast = File::options()
            .create(true)
            .append(true)
            .open(self.ballast())
            .expect("make a file");
        // In pieces that become small: half a page of room would be room.
        for n_bytes in [1 << 20, 4096, 1] {
            while ballast.write_all(&vec![0; n_bytes]).is_ok() {}
        }
    }

    /// Makes room again.
    pub fn free(&self) {
        let _ = fs::remove_file(self.ballast());
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Whoever still has a file open there keeps it; nobody finds it any more.
        if let Err(e) = umount2(self.path(), MntFlags::MNT_DETACH) {
            eprintln!("cannot unmount {}: {e}", self.path().display());
        }
    }
}
