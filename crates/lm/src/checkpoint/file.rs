//! A file that must not change while it is read.

use std::fs::{self, File, Metadata};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::error::{Error, io_error};

/// An open file and what it was when it was opened.
///
/// It is read at offsets, not mapped: mapped pages would count as this process's memory beside the
/// values that are made of them, and a file that is cut while it is mapped ends the process.
pub(crate) struct StableFile {
    path: PathBuf,
    file: File,
    version: Version,
}

/// What tells a file from the same file later.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Version {
    device: u64,
    inode: u64,
    n_bytes: u64,
    modified: Option<SystemTime>,
}

impl Version {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            n_bytes: metadata.len(),
            modified: metadata.modified().ok(),
        }
    }
}

impl StableFile {
    /// An open regular file.
    ///
    /// # Errors
    /// When it cannot be opened or is no regular file.
    pub(crate) fn open(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let path = path.into();
        // Before it is opened: opening a pipe would wait for a writer.
        let metadata = fs::metadata(&path).map_err(io_error("open", &path))?;
        if !metadata.is_file() {
            return Err(Error::NotAFile { path });
        }
        let file = File::open(&path).map_err(io_error("open", &path))?;
        let metadata = file.metadata().map_err(io_error("open", &path))?;
        let version = Version::of(&metadata);
        Ok(Self {
            path,
            file,
            version,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn n_bytes(&self) -> u64 {
        self.version.n_bytes
    }

    /// Fills `out` from an offset.
    ///
    /// # Errors
    /// When the file cannot be read, or has become shorter since it was opened.
    pub(crate) fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        self.file.read_exact_at(out, offset).map_err(|err| {
            if err.kind() == std::io::ErrorKind::UnexpectedEof {
                self.changed()
            } else {
                io_error("read", &self.path)(err)
            }
        })
    }

    /// The bytes of a range, which the caller has held to the file's length.
    pub(crate) fn bytes(&self, offset: u64, n_bytes: usize) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; n_bytes];
        self.read_at(offset, &mut bytes)?;
        Ok(bytes)
    }

    /// Holds the file, by its name, to what was opened.
    ///
    /// # Errors
    /// When it has been written to, cut or replaced.
    pub(crate) fn check_unchanged(&self) -> Result<(), Error> {
        let now = fs::metadata(&self.path).map(|metadata| Version::of(&metadata));
        match now {
            Ok(now) if now == self.version => Ok(()),
            _ => Err(self.changed()),
        }
    }

    fn changed(&self) -> Error {
        Error::Changed {
            path: self.path.clone(),
        }
    }
}
