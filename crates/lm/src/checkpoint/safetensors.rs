//! The header of a safetensors file: read with nothing of the data, and nothing in it believed.

use std::collections::{HashMap, HashSet};
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

use super::file::StableFile;
use super::tensor::{Dtype, Extent, Tensor};
use crate::error::Error;

/// The format's own limit.
const MAX_HEADER_BYTES: u64 = 100_000_000;
const LENGTH_BYTES: u64 = 8;

/// What a file says that it holds.
pub(super) struct Header {
    pub(super) tensors: Vec<(String, Tensor)>,
    /// The file's own annotations.
    pub(super) metadata: HashMap<String, String>,
}

/// The header of file number `idx`.
///
/// # Errors
/// When it is not a header, contradicts itself, or the file is shorter or longer than it says.
pub(super) fn read_header(file: &StableFile, idx: usize) -> Result<Header, Error> {
    let refuse = |reason: String| Error::Safetensors {
        path: file.path().to_owned(),
        reason,
    };
    let mut length = [0; LENGTH_BYTES as usize];
    if file.n_bytes() < LENGTH_BYTES {
        return Err(refuse(format!(
            "it is cut short: it has {} bytes, and a header alone has more",
            file.n_bytes()
        )));
    }
    file.read_at(0, &mut length)?;
    let n_header = u64::from_le_bytes(length);
    if n_header > MAX_HEADER_BYTES {
        return Err(refuse(format!(
            "its first 8 bytes give its header {n_header} bytes, more than the format allows"
        )));
    }
    let data_start = LENGTH_BYTES + n_header;
    if data_start > file.n_bytes() {
        return Err(refuse(format!(
            "it is cut short: its header alone should have {n_header} bytes, and the file has {}; \
             is it still being written?",
            file.n_bytes()
        )));
    }
    let bytes = file.bytes(LENGTH_BYTES, n_header as usize)?;
    let RawHeader { entries, metadata } =
        serde_json::from_slice(&bytes).map_err(|err| refuse(format!("its header: {err}")))?;

    let mut tensors = Vec::with_capacity(entries.len());
    let mut ranges = Vec::with_capacity(entries.len());
    for (name, entry) in entries {
        let wrong = |reason: String| refuse(format!("tensor `{name}`: {reason}"));
        let dtype = Dtype::named(&entry.dtype)
            .ok_or_else(|| wrong(format!("the type `{}` is not known", entry.dtype)))?;
        let (from, to) = entry.data_offsets;
        let n_bytes = (entry.shape.iter())
            .try_fold(dtype.n_bytes() as u64, |n, &size| {
                n.checked_mul(size as u64)
            })
            .filter(|&n| to.checked_sub(from) == Some(n));
        let Some(n_bytes) = n_bytes else {
            return Err(wrong(format!(
                "{} of shape {:?} do not fill bytes {from} to {to}",
                dtype.name(),
                entry.shape
            )));
        };
        let extent = Extent {
            file: idx,
            start: data_start.saturating_add(from),
            n_bytes,
        };
        let tensor = Tensor::contiguous(dtype, entry.shape, extent).map_err(wrong)?;
        ranges.push((from, to));
        tensors.push((name, tensor));
    }
    ranges.sort_unstable();
    let mut end = 0;
    for (from, to) in ranges {
        if from != end {
            return Err(refuse(format!(
                "its tensors overlap or leave a gap: one ends at byte {end} and the next begins \
                 at byte {from}"
            )));
        }
        end = to;
    }
    let n_data = file.n_bytes() - data_start;
    if end > n_data {
        return Err(refuse(format!(
            "it is cut short: its header calls for {end} bytes of data, and it has {n_data}; is it \
             still being written?"
        )));
    }
    if end < n_data {
        return Err(refuse(format!(
            "its header calls for {end} bytes of data, and it has {n_data}"
        )));
    }
    Ok(Header { tensors, metadata })
}

#[derive(Deserialize)]
struct RawEntry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

struct RawHeader {
    entries: Vec<(String, RawEntry)>,
    metadata: HashMap<String, String>,
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(RawHeaderVisitor)
    }
}

struct RawHeaderVisitor;

impl<'de> Visitor<'de> for RawHeaderVisitor {
    type Value = RawHeader;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
        let mut header = RawHeader {
            entries: Vec::new(),
            metadata: HashMap::new(),
        };
        let mut seen = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            // A name that comes twice would leave it to the reader which of the two it is.
            if !seen.insert(name.clone()) {
                return Err(A::Error::custom(format!("`{name}` is there twice")));
            }
            if name == "__metadata__" {
                header.metadata = map.next_value()?;
            } else {
                header.entries.push((name, map.next_value()?));
            }
        }
        Ok(header)
    }
}

#[cfg(test)]
mod tests;
