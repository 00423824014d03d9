//! A file that appears whole or not at all.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::failure::Failure;

/// A file beside its place; dropped before [`Output::commit`] it is gone.
pub(super) struct Output {
    half: NamedTempFile,
    path: PathBuf,
}

impl Output {
    pub(super) fn create(path: &Path) -> Result<Self, Failure> {
        let dir = match path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        let half = tempfile::Builder::new()
            .prefix(".imprint-export-")
            // Less what the user's mask takes away, as for any file.
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(dir)
            .map_err(|err| Failure::bad_input(format!("write {}: {err}", path.display())))?;
        Ok(Self {
            half,
            path: path.to_owned(),
        })
    }

    /// The file to write to.
    pub(super) fn file(&self) -> io::Result<File> {
        self.half.as_file().try_clone()
    }

    /// Puts the file into its place, in which there may be an older one.
    pub(super) fn commit(self) -> Result<(), Failure> {
        let Self { half, path } = self;
        let writing = || Failure::doing(format!("write {}", path.display()));
        half.as_file().sync_all().map_err(writing())?;
        half.persist(&path).map_err(|err| writing()(err.error))?;
        Ok(())
    }
}
