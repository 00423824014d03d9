//! Hashes of large files, remembered from process to process in the cache directory.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A file changed twice within the clock's resolution has the same time of change; hashes of files
/// changed this recently are not remembered.
const SETTLED: Duration = Duration::from_secs(2);

/// Smaller files are hashed faster than looked up.
const MIN_BYTES: u64 = 16 << 20;

/// What a file system says of a file: another file of the same name is another inode, and any
/// write to it changes `changed_ns`, which nobody can set.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Version {
    path: PathBuf,
    device: u64,
    inode: u64,
    n_bytes: u64,
    modified_ns: i128,
    changed_ns: i128,
}

impl Version {
    /// The version of an open file.
    ///
    /// # Errors
    /// When the path cannot be made absolute.
    pub(crate) fn of(path: &Path, metadata: &Metadata) -> io::Result<Self> {
        let nanoseconds =
            |seconds: i64, ns: i64| i128::from(seconds) * 1_000_000_000 + i128::from(ns);
        Ok(Self {
            path: fs::canonicalize(path)?,
            device: metadata.dev(),
            inode: metadata.ino(),
            n_bytes: metadata.len(),
            modified_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    /// Whether the file last changed so long before `now` that another change would show.
    pub(crate) fn is_settled(&self, now: SystemTime) -> bool {
        let changed = u64::try_from(self.changed_ns).map(Duration::from_nanos);
        let age = changed.ok().and_then(|since_epoch| {
            now.duration_since(UNIX_EPOCH.checked_add(since_epoch)?)
                .ok()
        });
        age.is_some_and(|age| age > SETTLED)
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Known {
    file: Version,
    sha256: String,
}

/// One file as it is now, if it is worth remembering and there is a place to.
pub(crate) struct Memo {
    entry: PathBuf,
    file: Version,
}

impl Memo {
    /// The memo of a file's version, in the cache directory.
    pub(crate) fn of(directory: Option<&Path>, file: &Version) -> Option<Self> {
        if file.n_bytes < MIN_BYTES {
            return None;
        }
        let path = file.path.as_os_str().as_encoded_bytes();
        let name = format!("{:x}", Sha256::digest(path));
        Some(Self {
            entry: directory?.join("hashes").join(format!("{name}.json")),
            file: file.clone(),
        })
    }

    /// The hash, if the file has not changed since it was remembered.
    pub(crate) fn recall(&self) -> Option<String> {
        let known: Known = serde_json::from_slice(&fs::read(&self.entry).ok()?).ok()?;
        (known.file == self.file).then_some(known.sha256)
    }

    /// Remembers the hash if it can: without it the file is only hashed again.
    pub(crate) fn remember(self, sha256: &str) {
        let partial = self
            .entry
            .with_extension(format!("{}.partial", std::process::id()));
        let known = Known {
            file: self.file,
            sha256: sha256.to_owned(),
        };
        let json = serde_json::to_vec_pretty(&known).expect("a memo is plain data");
        let written = self
            .entry
            .parent()
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| fs::write(&partial, json))
            .and_then(|()| fs::rename(&partial, &self.entry));
        if let Err(err) = written {
            tracing::debug!("cannot remember a hash in {}: {err}", self.entry.display());
        }
    }
}

#[cfg(test)]
mod tests;
