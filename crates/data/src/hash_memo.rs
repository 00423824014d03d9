//! Hashes of large files, remembered from process to process in the cache directory.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Smaller files are hashed faster than looked up.
const MIN_BYTES: u64 = 16 << 20;

/// What a file system says of a file: any write to it changes `changed_ns`.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Version {
    path: PathBuf,
    device: u64,
    inode: u64,
    n_bytes: u64,
    modified_ns: i128,
    changed_ns: i128,
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
    /// The memo of an open file's metadata, in the cache directory.
    pub(crate) fn of(directory: Option<&Path>, path: &Path, metadata: &Metadata) -> Option<Self> {
        if metadata.len() < MIN_BYTES {
            return None;
        }
        let nanoseconds =
            |seconds: i64, ns: i64| i128::from(seconds) * 1_000_000_000 + i128::from(ns);
        let path = fs::canonicalize(path).ok()?;
        let name = format!("{:x}", Sha256::digest(path.as_os_str().as_encoded_bytes()));
        Some(Self {
            entry: directory?.join("hashes").join(format!("{name}.json")),
            file: Version {
                path,
                device: metadata.dev(),
                inode: metadata.ino(),
                n_bytes: metadata.len(),
                modified_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
                changed_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
            },
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
