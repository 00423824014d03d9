//! Hashes of a run's inputs: whole files, checkpoint directories, and corpora by their ends.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::SystemTime;

use imprint_core::CorpusFormat;
use sha2::{Digest, Sha256};

use crate::hash_memo::{Memo, Version};
use crate::token_cache::cache_directory;
use crate::{Error, Result};

/// Bytes at each end of a corpus file that its hash covers.
const CORPUS_END_BYTES: u64 = 1 << 20;

/// Hashes of this process, so that twenty-four runs from one checkpoint read it once.
static KNOWN: LazyLock<Mutex<HashMap<Version, String>>> = LazyLock::new(Mutex::default);

/// SHA-256 of a file's content, in hexadecimal; remembered while the file system says that the
/// file has not changed, and of large files in the cache directory too.
///
/// # Errors
/// When the file cannot be read.
pub fn file_sha256(path: &Path) -> Result<String> {
    hash_file(path, SystemTime::now()).map_err(|err| Error::Read {
        path: path.to_owned(),
        err,
    })
}

/// Holds a file's hash to what it was.
///
/// # Errors
/// When the two differ.
pub(crate) fn check_hash(path: &Path, now: String, then: &str) -> Result<()> {
    if now == then {
        return Ok(());
    }
    Err(Error::Changed {
        path: path.to_owned(),
        now,
        then: then.to_owned(),
    })
}

fn hash_file(path: &Path, now: SystemTime) -> io::Result<String> {
    let mut file = File::open(path)?;
    let version = Version::of(path, &file.metadata()?)?;
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = known().get(&version) {
        return Ok(found.clone());
    }
    let cache = cache_directory();
    let memo = Memo::of(cache.as_deref(), &version);
    if let Some(found) = memo.as_ref().and_then(Memo::recall) {
        known().insert(version, found.clone());
        return Ok(found);
    }
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => hasher.update(&buffer[..n]),
        }
    }
    let sha256 = format!("{:x}", hasher.finalize());
    if version.is_settled(now) && Version::of(path, &file.metadata()?)? == version {
        known().insert(version, sha256.clone());
        if let Some(memo) = memo {
            memo.remember(&sha256);
        }
    }
    Ok(sha256)
}

/// SHA-256 of a corpus file: of text its content, of token ids its length (8 bytes,
/// little-endian), first mebibyte and last mebibyte.
///
/// # Errors
/// When the file cannot be read.
pub fn corpus_file_sha256(path: &Path, format: CorpusFormat) -> Result<String> {
    if format.is_text() {
        return file_sha256(path);
    }
    let hash = || -> io::Result<String> {
        let file = File::open(path)?;
        let n_bytes = file.metadata()?.len();
        let mut end = vec![0; n_bytes.min(CORPUS_END_BYTES) as usize];
        let mut hasher = Sha256::new();
        hasher.update(n_bytes.to_le_bytes());
        for offset in [0, n_bytes - end.len() as u64] {
            file.read_exact_at(&mut end, offset)?;
            hasher.update(&end);
        }
        Ok(format!("{:x}", hasher.finalize()))
    };
    hash().map_err(|err| Error::Read {
        path: path.to_owned(),
        err,
    })
}

#[cfg(test)]
mod tests;
