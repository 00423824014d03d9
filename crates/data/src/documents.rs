//! Documents of a text corpus, one after the other: never a whole file in memory.

mod parquet;

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use indicatif::ProgressBar;
use serde::de::{self, DeserializeSeed, IgnoredAny, MapAccess, Visitor};

use crate::{Error, Result};

/// The longest document: what a reader may have to hold in memory.
const MAX_DOCUMENT_BYTES: usize = 64 << 20;

/// Where a file has its documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TextFormat<'a> {
    /// One a line.
    Lines,
    /// In this key of the JSON object on each line.
    Jsonl { key: &'a str },
    /// In this column.
    Parquet { column: &'a str },
}

/// The documents of a file in their order; those without any text are left out.
pub(crate) type Documents<'a> = Box<dyn Iterator<Item = Result<String>> + 'a>;

/// The documents of a file; `progress` counts its bytes.
///
/// # Errors
/// When the file cannot be opened or is not of this format; and, item by item, when it goes wrong
/// further on.
pub(crate) fn documents<'a>(
    path: &'a Path,
    format: TextFormat<'a>,
    progress: &ProgressBar,
) -> Result<Documents<'a>> {
    let file = File::open(path).map_err(|err| Error::Read {
        path: path.to_owned(),
        err,
    })?;
    match format {
        TextFormat::Lines => {
            let lines = Lines::open(path, progress.wrap_read(file))?;
            Ok(Box::new(lines.documents(|line| Ok(Some(line)))))
        }
        TextFormat::Jsonl { key } => {
            let lines = Lines::open(path, progress.wrap_read(file))?;
            Ok(Box::new(lines.documents(|line| json_text(&line, key))))
        }
        TextFormat::Parquet { column } => {
            let texts = parquet::Texts::open(file, column, progress.clone());
            let refuse = |problem| Error::Parquet {
                path: path.to_owned(),
                problem,
            };
            let texts = texts.map_err(refuse)?;
            Ok(Box::new(texts.map(move |text| text.map_err(refuse))))
        }
    }
}

/// How a file of lines is compressed: by its first bytes, and where it is empty by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    fn of(path: &Path, start: &[u8]) -> Self {
        let named = |ending| path.extension().is_some_and(|e| e == ending);
        if start.starts_with(&[0x1f, 0x8b]) || named("gz") {
            Self::Gzip
        } else if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) || named("zst") {
            Self::Zstd
        } else {
            Self::None
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "plain",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        })
    }
}

/// The lines of a file, decompressed.
struct Lines<'a> {
    path: PathBuf,
    compression: Compression,
    reader: Box<dyn BufRead + 'a>,
    /// The number of the line read last, from 1.
    number: u64,
    failed: bool,
}

impl<'a> Lines<'a> {
    fn open(path: &Path, file: impl Read + 'a) -> Result<Self> {
        let read = |err| Error::Read {
            path: path.to_owned(),
            err,
        };
        let mut file = BufReader::with_capacity(1 << 16, file);
        let compression = Compression::of(path, file.fill_buf().map_err(read)?);
        let reader: Box<dyn BufRead + 'a> = match compression {
            Compression::None => Box::new(file),
            Compression::Gzip => Box::new(BufReader::new(MultiGzDecoder::new(file))),
            Compression::Zstd => {
                let decoder = zstd::stream::read::Decoder::with_buffer(file).map_err(read)?;
                Box::new(BufReader::new(decoder))
            }
        };
        Ok(Self {
            path: path.to_owned(),
            compression,
            reader,
            number: 0,
            failed: false,
        })
    }

    /// What `text` finds on each line, up to the first error.
    fn documents(
        mut self,
        text: impl Fn(String) -> Result<Option<String>, String> + 'a,
    ) -> impl Iterator<Item = Result<String>> + 'a {
        std::iter::from_fn(move || {
            while !self.failed {
                let line = match self.next() {
                    Ok(Some(line)) => line,
                    Ok(None) => return None,
                    Err(err) => {
                        self.failed = true;
                        return Some(Err(err));
                    }
                };
                if line.trim().is_empty() {
                    continue;
                }
                match text(line) {
                    Ok(Some(text)) if !text.trim().is_empty() => return Some(Ok(text)),
                    Ok(_) => (),
                    Err(problem) => {
                        self.failed = true;
                        return Some(Err(Error::Line {
                            path: self.path.clone(),
                            line: self.number,
                            problem,
                        }));
                    }
                }
            }
            None
        })
    }

    /// The next line, without its end.
    fn next(&mut self) -> Result<Option<String>> {
        let mut line = Vec::new();
        let mut limited = self.reader.by_ref().take(MAX_DOCUMENT_BYTES as u64 + 1);
        let n_read = match limited.read_until(b'\n', &mut line) {
            Ok(n_read) => n_read,
            Err(err) => return Err(self.unreadable(err)),
        };
        if n_read == 0 {
            return Ok(None);
        }
        self.number += 1;
        if line.last() == Some(&b'\n') {
            line.pop();
            if line.last() == Some(&b'\r') {
                line.pop();
            }
        }
        let refuse = |problem: String| Error::Line {
            path: self.path.clone(),
            line: self.number,
            problem,
        };
        if line.len() > MAX_DOCUMENT_BYTES {
            return Err(refuse(too_long("it")));
        }
        match String::from_utf8(line) {
            Ok(line) => Ok(Some(line)),
            Err(_) => Err(refuse("it is not UTF-8".to_owned())),
        }
    }

    fn unreadable(&self, err: io::Error) -> Error {
        let path = self.path.clone();
        match self.compression {
            Compression::None => Error::Read { path, err },
            compression => Error::Decompress {
                path,
                compression: compression.to_string(),
                after_line: self.number,
                err,
            },
        }
    }
}

fn too_long(what: &str) -> String {
    format!(
        "{what} is longer than {} MiB, the most of one document",
        MAX_DOCUMENT_BYTES >> 20
    )
}

/// The text under a key of a JSON object; nothing where it is `null`.
fn json_text(line: &str, key: &str) -> Result<Option<String>, String> {
    let mut json = serde_json::Deserializer::from_str(line);
    let found = Field { key }
        .deserialize(&mut json)
        .and_then(|found| json.end().map(|()| found));
    match found {
        Ok(Some(text)) => Ok(text),
        Ok(None) => Err(format!(
            "the object has no `{key}`; set `data.corpus.text_field` to the key that holds the text"
        )),
        Err(err) => {
            let told = err.to_string();
            // The library counts lines too, within this one, and knows no place of some errors.
            let what = told.split(" at line ").next().unwrap_or_default();
            let place = match err.column() {
                0 => String::new(),
                column => format!(" at column {column}"),
            };
            Err(format!("not the JSON object it should be{place}: {what}"))
        }
    }
}

/// The value of one key of an object, the others passed over; the last one where it is repeated.
struct Field<'k> {
    key: &'k str,
}

impl<'de> DeserializeSeed<'de> for Field<'_> {
    type Value = Option<Option<String>>;

    fn deserialize<D: de::Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Field<'_> {
    type Value = Option<Option<String>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with the key `{}`", self.key)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<String>()? {
            if key == self.key {
                found = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
pub(crate) mod tests;
