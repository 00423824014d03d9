//! Secrets: never shown, and only read from files that nobody but their owner can read.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// The longest secret that is read; a larger file is something else.
const MAX_BYTES: u64 = 64 << 10;

/// A token or a key; what is printed of it is only that it is there.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("open the secret {path}")]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("write the secret {path}")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "others than its owner may read the secret {path} (its mode is {mode:04o}): run \
         `chmod 600 {path}`"
    )]
    Exposed { path: PathBuf, mode: u32 },
    #[error("the secret {path} is no text of 1 to {MAX_BYTES} bytes")]
    NoText { path: PathBuf },
}

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself: for its use, never for a message.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The secret in a file, without white space around it.
    ///
    /// # Errors
    /// When the file cannot be read, is no text, or may be read by others than its owner.
    pub fn read(path: &Path) -> Result<Self, SecretError> {
        let open = |source| SecretError::Open {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(open)?;
        // Of the open file: the path may name another by now.
        let mode = file.metadata().map_err(open)?.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(SecretError::Exposed {
                path: path.to_owned(),
                mode,
            });
        }
        let mut bytes = Vec::new();
        let n_bytes = file
            .take(MAX_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(open)?;
        match String::from_utf8(bytes) {
            Ok(text) if n_bytes as u64 <= MAX_BYTES && !text.trim().is_empty() => {
                Ok(Self(text.trim().to_owned()))
            }
            _ => Err(SecretError::NoText {
                path: path.to_owned(),
            }),
        }
    }

    /// Writes a new file that only its owner can read.
    ///
    /// # Errors
    /// When there is one already, or it cannot be written.
    pub fn create(&self, path: &Path) -> Result<(), SecretError> {
        let written = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .and_then(|mut file| {
                file.write_all(self.0.as_bytes())?;
                file.write_all(b"\n")
            });
        written.map_err(|source| SecretError::Write {
            path: path.to_owned(),
            source,
        })
    }

    /// Writes a file that only its owner can read, in the place of one that may be there.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn replace(&self, path: &Path) -> Result<(), SecretError> {
        let failed = |source| SecretError::Write {
            path: path.to_owned(),
            source,
        };
        // Renamed into place: whoever reads meanwhile finds a whole secret. A new file, because the
        // mode of one that is there would stay as it is.
        let mut new = path.to_owned().into_os_string();
        new.push(".new");
        let new = PathBuf::from(new);
        match fs::remove_file(&new) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
        self.create(&new)?;
        fs::rename(&new, path).map_err(failed)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests;
