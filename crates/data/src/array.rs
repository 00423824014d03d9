//! Integers in a file: headerless, or under a NumPy header.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

const MAGIC: &[u8] = b"\x93NUMPY";
/// NumPy itself reads no longer header unless it is told to.
const MAX_HEADER_BYTES: u64 = 10_000;

/// How an integer lies in a file, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IntegerType {
    Uint16,
    Uint32,
    Int32,
    Int64,
}

impl IntegerType {
    pub(crate) fn n_bytes(self) -> u64 {
        match self {
            Self::Uint16 => 2,
            Self::Uint32 | Self::Int32 => 4,
            Self::Int64 => 8,
        }
    }

    fn of_descr(descr: &str) -> Option<Self> {
        match descr {
            "<u2" => Some(Self::Uint16),
            "<u4" => Some(Self::Uint32),
            "<i4" => Some(Self::Int32),
            "<i8" => Some(Self::Int64),
            _ => None,
        }
    }
}

/// A one-dimensional array of integers that stays in its file.
///
/// It is read, not mapped: a file cut short during a run is an error then, not a signal.
#[derive(Debug)]
pub(crate) struct IntegerArray {
    path: PathBuf,
    file: File,
    /// Byte of the first integer.
    offset: u64,
    integer: IntegerType,
    len: u64,
}

impl IntegerArray {
    /// The integers that a file is made of, from its first byte to its last.
    ///
    /// # Errors
    /// When the file cannot be read, is no whole number of integers, or has a NumPy header.
    pub(crate) fn open_headerless(path: &Path, integer: IntegerType) -> Result<Self> {
        let (file, n_bytes) = open(path)?;
        if read_start(path, &file, n_bytes)?.starts_with(MAGIC) {
            return Err(Error::Npy {
                path: path.to_owned(),
                problem: "it begins with a NumPy header; set `data.corpus.format = \"npy\"`"
                    .to_owned(),
            });
        }
        Self::headerless(path, file, n_bytes, integer)
    }

    /// The array of a `.npy` file.
    ///
    /// # Errors
    /// When the file cannot be read, has no header, or is not what its header says.
    pub(crate) fn open_npy(path: &Path) -> Result<Self> {
        let (file, n_bytes) = open(path)?;
        let start = read_start(path, &file, n_bytes)?;
        let header = parse_header(&start, n_bytes).map_err(|problem| Error::Npy {
            path: path.to_owned(),
            problem,
        })?;
        Ok(Self {
            path: path.to_owned(),
            file,
            offset: header.offset,
            integer: header.integer,
            len: header.len,
        })
    }

    /// The array of a `.npy` file, or where there is no header the integers the file is made of.
    ///
    /// # Errors
    /// As [`Self::open_npy`] and [`Self::open_headerless`].
    pub(crate) fn open_npy_or_headerless(path: &Path, integer: IntegerType) -> Result<Self> {
        let (file, n_bytes) = open(path)?;
        if read_start(path, &file, n_bytes)?.starts_with(MAGIC) {
            return Self::open_npy(path);
        }
        Self::headerless(path, file, n_bytes, integer)
    }

    fn headerless(path: &Path, file: File, n_bytes: u64, integer: IntegerType) -> Result<Self> {
        let width = integer.n_bytes();
        if !n_bytes.is_multiple_of(width) {
            return Err(Error::OddLength {
                path: path.to_owned(),
                n_bytes,
                width,
            });
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            offset: 0,
            integer,
            len: n_bytes / width,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The number of integers.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// The `n` integers from `position` on.
    ///
    /// # Errors
    /// When the file does not have them any more.
    pub(crate) fn read(&self, position: u64, n: usize) -> Result<Vec<i64>> {
        let width = self.integer.n_bytes();
        let mut bytes = vec![0; n * width as usize];
        self.file
            .read_exact_at(&mut bytes, self.offset + position * width)
            .map_err(|err| Error::Read {
                path: self.path.clone(),
                err,
            })?;
        Ok(integers(&bytes, self.integer))
    }
}

pub(crate) fn integers(bytes: &[u8], integer: IntegerType) -> Vec<i64> {
    fn each<const N: usize>(bytes: &[u8], of: impl Fn([u8; N]) -> i64) -> Vec<i64> {
        bytes.as_chunks().0.iter().map(|b| of(*b)).collect()
    }
    match integer {
        IntegerType::Uint16 => each(bytes, |b| u16::from_le_bytes(b).into()),
        IntegerType::Uint32 => each(bytes, |b| u32::from_le_bytes(b).into()),
        IntegerType::Int32 => each(bytes, |b| i32::from_le_bytes(b).into()),
        IntegerType::Int64 => each(bytes, i64::from_le_bytes),
    }
}

fn open(path: &Path) -> Result<(File, u64)> {
    let read = |err| Error::Read {
        path: path.to_owned(),
        err,
    };
    let file = File::open(path).map_err(read)?;
    let metadata = file.metadata().map_err(read)?;
    if !metadata.is_file() {
        return Err(read(io::Error::other("not a file")));
    }
    Ok((file, metadata.len()))
}

/// The beginning of a file, long enough for any header.
fn read_start(path: &Path, file: &File, n_bytes: u64) -> Result<Vec<u8>> {
    let mut start = vec![0; n_bytes.min(12 + MAX_HEADER_BYTES) as usize];
    match file.read_exact_at(&mut start, 0) {
        Ok(()) => Ok(start),
        Err(err) => Err(Error::Read {
            path: path.to_owned(),
            err,
        }),
    }
}

/// What a NumPy header says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub integer: IntegerType,
    pub len: u64,
    /// Byte of the first integer.
    pub offset: u64,
}

/// The header at the `start` of a file of `n_bytes`, if it is one of ours and the file has just the
/// integers that it promises.
///
/// # Source
/// NumPy's `numpy.lib.format`, versions 1.0 to 3.0.
pub(crate) fn parse_header(start: &[u8], n_bytes: u64) -> Result<Header, String> {
    let Some(rest) = start.strip_prefix(MAGIC) else {
        return Err(
            "it has no NumPy header; headerless token ids are `data.corpus.format = \"uint16\"` \
             or \"uint32\""
                .to_owned(),
        );
    };
    let cut_short = || "its NumPy header is cut short".to_owned();
    let (version, rest) = rest.split_at_checked(2).ok_or_else(cut_short)?;
    let (header_bytes, rest) = match version[0] {
        1 => {
            let (length, rest) = rest.split_first_chunk().ok_or_else(cut_short)?;
            (u64::from(u16::from_le_bytes(*length)), rest)
        }
        2 | 3 => {
            let (length, rest) = rest.split_first_chunk().ok_or_else(cut_short)?;
            (u64::from(u32::from_le_bytes(*length)), rest)
        }
        other => return Err(format!("its NumPy header has the unknown version {other}")),
    };
    if header_bytes > MAX_HEADER_BYTES {
        return Err(format!(
            "its NumPy header claims {header_bytes} bytes, more than {MAX_HEADER_BYTES}"
        ));
    }
    let text = rest.get(..header_bytes as usize).ok_or_else(cut_short)?;
    let text = str::from_utf8(text).map_err(|_| "its NumPy header is not UTF-8".to_owned())?;
    let fields = Literal { rest: text }.fields().ok_or_else(|| {
        format!(
            "its NumPy header is not the dictionary it should be: {:?}",
            text.trim_end()
        )
    })?;

    let descr = fields.descr;
    let integer = IntegerType::of_descr(descr).ok_or_else(|| {
        format!(
            "its NumPy header says dtype {descr:?}; token ids are uint16, uint32, int32 or int64, \
             little-endian"
        )
    })?;
    if fields.fortran_order {
        return Err("its NumPy header says Fortran order; write a plain array".to_owned());
    }
    let [len] = fields.shape[..] else {
        return Err(format!(
            "its NumPy header says {} dimensions; token ids are one",
            fields.shape.len()
        ));
    };
    let offset = (start.len() - rest.len()) as u64 + header_bytes;
    let promised = len
        .checked_mul(integer.n_bytes())
        .and_then(|data| data.checked_add(offset));
    if promised != Some(n_bytes) {
        return Err(format!(
            "its NumPy header promises {len} integers of {} bytes after byte {offset}, but the \
             file has {n_bytes} bytes",
            integer.n_bytes()
        ));
    }
    Ok(Header {
        integer,
        len,
        offset,
    })
}

struct Fields<'a> {
    descr: &'a str,
    fortran_order: bool,
    shape: Vec<u64>,
}

/// The little of Python's literals that NumPy writes.
struct Literal<'a> {
    rest: &'a str,
}

impl<'a> Literal<'a> {
    fn fields(mut self) -> Option<Fields<'a>> {
        let (mut descr, mut fortran_order, mut shape) = (None, None, None);
        self.skip("{")?;
        while self.skip("}").is_none() {
            let key = self.string()?;
            self.skip(":")?;
            let new = match key {
                "descr" => descr.replace(self.string()?).is_none(),
                "fortran_order" => fortran_order.replace(self.boolean()?).is_none(),
                "shape" => shape.replace(self.tuple()?).is_none(),
                _ => false,
            };
            if !new {
                return None;
            }
            if self.skip(",").is_none() {
                self.skip("}")?;
                break;
            }
        }
        self.rest.trim().is_empty().then_some(Fields {
            descr: descr?,
            fortran_order: fortran_order?,
            shape: shape?,
        })
    }

    fn skip(&mut self, word: &str) -> Option<()> {
        self.rest = self.rest.trim_start().strip_prefix(word)?;
        Some(())
    }

    fn string(&mut self) -> Option<&'a str> {
        let rest = self.rest.trim_start();
        let quote = rest.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
        let (string, rest) = rest[1..].split_once(quote)?;
        self.rest = rest;
        (!string.contains('\\')).then_some(string)
    }

    fn boolean(&mut self) -> Option<bool> {
        match self.skip("True") {
            Some(()) => Some(true),
            None => self.skip("False").map(|()| false),
        }
    }

    fn tuple(&mut self) -> Option<Vec<u64>> {
        let mut numbers = Vec::new();
        self.skip("(")?;
        while self.skip(")").is_none() {
            let rest = self.rest.trim_start();
            let end = rest.find(|c: char| !c.is_ascii_digit())?;
            numbers.push(rest[..end].parse().ok()?);
            self.rest = &rest[end..];
            if self.skip(",").is_none() {
                self.skip(")")?;
                break;
            }
        }
        Some(numbers)
    }
}

#[cfg(test)]
mod tests;
