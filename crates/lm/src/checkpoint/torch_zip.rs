//! The zip archives that `torch.save` writes: a pickle, and the tensors' bytes beside it.
//!
//! A reader of this one use of the format: what is stored is stored as it is, so a tensor's bytes
//! are a range of the file, and nothing has to be unpacked.

use std::collections::BTreeMap;

use super::file::StableFile;
use super::pickle::{self, Plain, Storages};
use super::tensor::Extent;
use crate::error::Error;

const LOCAL_HEADER: u32 = 0x0403_4b50;
const CENTRAL_HEADER: u32 = 0x0201_4b50;
const END: u32 = 0x0605_4b50;
const END_64_LOCATOR: u32 = 0x0706_4b50;
const END_64: u32 = 0x0606_4b50;
const LOCAL_HEADER_BYTES: u64 = 30;
const CENTRAL_HEADER_BYTES: usize = 46;
const END_BYTES: usize = 22;
const END_64_LOCATOR_BYTES: u64 = 20;
const END_64_BYTES: u64 = 56;
/// An end record with the longest comment.
const MAX_END_BYTES: u64 = END_BYTES as u64 + u16::MAX as u64;
/// A directory has some 150 bytes a tensor; this is for a million.
const MAX_DIRECTORY_BYTES: u64 = 256 << 20;
/// A pickle has some 200 bytes a tensor, and the saved generator states of a trainer some 100 kB.
const MAX_PICKLE_BYTES: u64 = 64 << 20;
const ENCRYPTED: u16 = 1;
/// Extra field with the sizes and offsets that do not fit 32 bits.
const EXTRA_64: u16 = 1;

/// Whether a file begins as a zip archive does.
pub(super) fn is_zip(file: &StableFile) -> Result<bool, Error> {
    let mut magic = [0; 4];
    if file.n_bytes() < 4 {
        return Ok(false);
    }
    file.read_at(0, &mut magic)?;
    Ok(u32::from_le_bytes(magic) == LOCAL_HEADER)
}

/// What was saved into file number `idx`, with tensors as places in it.
///
/// # Errors
/// When it is not such an archive, is cut short or damaged, or holds anything but tensors and plain
/// containers (and, where `inert`, the few plain objects of a trainer's state).
pub(super) fn read(file: &StableFile, idx: usize, inert: bool) -> Result<Plain, Error> {
    let refuse = |reason: String| Error::Torch {
        path: file.path().to_owned(),
        reason,
    };
    if !is_zip(file)? {
        return Err(refuse(what_else(file)?));
    }
    let archive = Archive::open(file)?;
    if archive.records.contains_key("constants.pkl") {
        return Err(refuse(
            "it is a TorchScript program, not a checkpoint; save the model's `state_dict()`"
                .to_owned(),
        ));
    }
    if let Some(record) = archive.records.get("byteorder") {
        let n = record.n_bytes.min(16) as usize;
        let order = file.bytes(record.start, n)?;
        if order != b"little" {
            return Err(refuse(format!(
                "its byte order is `{}`; only little-endian files are read: load it with PyTorch on \
                 an ordinary machine and save it again",
                String::from_utf8_lossy(&order)
            )));
        }
    }
    let record = archive.records["data.pkl"];
    if record.n_bytes > MAX_PICKLE_BYTES {
        return Err(refuse(format!(
            "its pickle has {} bytes; such a file has at most {MAX_PICKLE_BYTES}",
            record.n_bytes
        )));
    }
    let bytes = file.bytes(record.start, record.n_bytes as usize)?;
    let storages = |key: &str| {
        let record = archive.records.get(&format!("data/{key}"))?;
        Some(Extent {
            file: idx,
            start: record.start,
            n_bytes: record.n_bytes,
        })
    };
    let known = pickle::Known {
        storages: Some(&storages as &Storages<'_>),
        inert,
    };
    pickle::read(&bytes, &known).map_err(refuse)
}

/// What a file is that is no zip archive.
fn what_else(file: &StableFile) -> Result<String, Error> {
    let mut head = [0; 512];
    let n = file.n_bytes().min(512) as usize;
    file.read_at(0, &mut head[..n])?;
    let again = "load it with PyTorch (1.6 or later) and `torch.save` it again, which writes the \
                 format that is read here";
    // The magic number that the format before PyTorch 1.6 pickled first.
    let is_legacy = head.starts_with(b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19");
    let is_tar = &head[257..262] == b"ustar";
    Ok(if is_legacy || is_tar {
        format!("it is in the old format of `torch.save`; {again}")
    } else if head[0] == 0x80 {
        format!("it is a bare pickle, not what `torch.save` writes; {again}")
    } else {
        "it is not a file that `torch.save` wrote, or is damaged".to_owned()
    })
}

/// The bytes of a file in an archive.
#[derive(Clone, Copy)]
struct Record {
    start: u64,
    n_bytes: u64,
}

/// The files of an archive, by their names below the one directory that holds them all.
struct Archive {
    records: BTreeMap<String, Record>,
}

/// Where the central directory lies.
struct Directory {
    start: u64,
    n_bytes: u64,
}

impl Archive {
    fn open(file: &StableFile) -> Result<Self, Error> {
        let refuse = |reason: String| Error::Torch {
            path: file.path().to_owned(),
            reason,
        };
        let damaged = || refuse("its zip directory is damaged".to_owned());
        let directory = find_directory(file)?;
        let is_inside = (directory.start.checked_add(directory.n_bytes))
            .is_some_and(|end| end <= file.n_bytes());
        if !is_inside || directory.n_bytes > MAX_DIRECTORY_BYTES {
            return Err(damaged());
        }
        let bytes = file.bytes(directory.start, directory.n_bytes as usize)?;
        let mut rest = bytes.as_slice();
        let mut named = BTreeMap::new();
        while !rest.is_empty() {
            let (entry, after) = central_entry(rest).ok_or_else(damaged)?;
            rest = after;
            let name = String::from_utf8(entry.name.to_vec()).map_err(|_| damaged())?;
            if entry.flags & ENCRYPTED != 0 || entry.method != 0 || entry.n_packed != entry.n_bytes
            {
                return Err(refuse(format!(
                    "`{name}` in it is compressed or encrypted; `torch.save` does neither, so pack \
                     it again as it was"
                )));
            }
            let record = locate(file, &entry)?.ok_or_else(|| {
                refuse(format!(
                    "`{name}` in it does not lie where the directory says"
                ))
            })?;
            if named.insert(name.clone(), record).is_some() {
                return Err(refuse(format!("`{name}` is in it twice")));
            }
        }
        let mut pickles = (named.keys()).filter_map(|name| name.strip_suffix("/data.pkl"));
        let (Some(root), None) = (pickles.next(), pickles.next()) else {
            return Err(refuse(
                "it is a zip archive, but not one that `torch.save` wrote: it does not hold one \
                 data.pkl"
                    .to_owned(),
            ));
        };
        let below = format!("{root}/");
        let records = (named.iter())
            .filter_map(|(name, record)| Some((name.strip_prefix(&below)?.to_owned(), *record)))
            .collect();
        Ok(Self { records })
    }
}

fn find_directory(file: &StableFile) -> Result<Directory, Error> {
    let cut_short = || Error::Torch {
        path: file.path().to_owned(),
        reason: "it is cut short: the directory at a zip archive's end is not there; is it still \
                 being written?"
            .to_owned(),
    };
    let n_tail = file.n_bytes().min(MAX_END_BYTES);
    let tail_start = file.n_bytes() - n_tail;
    let tail = file.bytes(tail_start, n_tail as usize)?;
    let last = tail.len().checked_sub(END_BYTES).ok_or_else(cut_short)?;
    let at = (0..=last)
        .rev()
        .find(|&at| {
            let comment = u16_at(&tail, at + 20).unwrap_or(0);
            u32_at(&tail, at) == Some(END) && at + END_BYTES + usize::from(comment) == tail.len()
        })
        .ok_or_else(cut_short)?;
    let small = Directory {
        n_bytes: u32_at(&tail, at + 12).ok_or_else(cut_short)?.into(),
        start: u32_at(&tail, at + 16).ok_or_else(cut_short)?.into(),
    };
    // Archives beyond 4 GiB have a second, wider record before the first.
    let Some(locator_start) = (tail_start + at as u64).checked_sub(END_64_LOCATOR_BYTES) else {
        return Ok(small);
    };
    let locator = file.bytes(locator_start, END_64_LOCATOR_BYTES as usize)?;
    if u32_at(&locator, 0) != Some(END_64_LOCATOR) {
        return Ok(small);
    }
    let start = u64_at(&locator, 8).ok_or_else(cut_short)?;
    let is_inside = (start.checked_add(END_64_BYTES)).is_some_and(|end| end <= file.n_bytes());
    if !is_inside {
        return Err(cut_short());
    }
    let wide = file.bytes(start, END_64_BYTES as usize)?;
    if u32_at(&wide, 0) != Some(END_64) {
        return Err(cut_short());
    }
    Ok(Directory {
        n_bytes: u64_at(&wide, 40).ok_or_else(cut_short)?,
        start: u64_at(&wide, 48).ok_or_else(cut_short)?,
    })
}

struct CentralEntry<'a> {
    name: &'a [u8],
    flags: u16,
    method: u16,
    n_packed: u64,
    n_bytes: u64,
    local_header: u64,
}

/// The first entry of a directory, and what follows it.
fn central_entry(bytes: &[u8]) -> Option<(CentralEntry<'_>, &[u8])> {
    if u32_at(bytes, 0)? != CENTRAL_HEADER {
        return None;
    }
    let n_name = usize::from(u16_at(bytes, 28)?);
    let n_extra = usize::from(u16_at(bytes, 30)?);
    let n_comment = usize::from(u16_at(bytes, 32)?);
    let after_header = bytes.get(CENTRAL_HEADER_BYTES..)?;
    let (name, rest) = after_header.split_at_checked(n_name)?;
    let (extra, rest) = rest.split_at_checked(n_extra)?;
    let (_, rest) = rest.split_at_checked(n_comment)?;
    // A field of all ones is in the extra field instead, in this order.
    let mut wide = extra_64(extra);
    let mut widen = |narrow: u32| match narrow {
        u32::MAX => {
            let value = u64_at(wide, 0)?;
            wide = &wide[8..];
            Some(value)
        }
        narrow => Some(narrow.into()),
    };
    let n_bytes = widen(u32_at(bytes, 24)?)?;
    let n_packed = widen(u32_at(bytes, 20)?)?;
    let local_header = widen(u32_at(bytes, 42)?)?;
    let entry = CentralEntry {
        name,
        flags: u16_at(bytes, 8)?,
        method: u16_at(bytes, 10)?,
        n_packed,
        n_bytes,
        local_header,
    };
    Some((entry, rest))
}

/// The wide sizes among an entry's extra fields; empty where there are none.
fn extra_64(mut extra: &[u8]) -> &[u8] {
    while let (Some(id), Some(n)) = (u16_at(extra, 0), u16_at(extra, 2)) {
        let Some((field, rest)) = extra[4..].split_at_checked(n.into()) else {
            break;
        };
        if id == EXTRA_64 {
            return field;
        }
        extra = rest;
    }
    &[]
}

/// Where an entry's bytes lie: after the header that precedes them.
fn locate(file: &StableFile, entry: &CentralEntry<'_>) -> Result<Option<Record>, Error> {
    let header_end = entry.local_header.checked_add(LOCAL_HEADER_BYTES);
    let Some(header_end) = header_end.filter(|&end| end <= file.n_bytes()) else {
        return Ok(None);
    };
    let mut header = [0; LOCAL_HEADER_BYTES as usize];
    file.read_at(entry.local_header, &mut header)?;
    let (Some(LOCAL_HEADER), Some(n_name), Some(n_extra)) =
        (u32_at(&header, 0), u16_at(&header, 26), u16_at(&header, 28))
    else {
        return Ok(None);
    };
    let start = header_end + u64::from(n_name) + u64::from(n_extra);
    let is_inside = (start.checked_add(entry.n_bytes)).is_some_and(|end| end <= file.n_bytes());
    Ok(is_inside.then_some(Record {
        start,
        n_bytes: entry.n_bytes,
    }))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests;
