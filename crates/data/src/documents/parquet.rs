//! The texts of one column of a Parquet file, page by page.
//!
//! A reader of our own, because it holds one page at a time and believes no number of a file that
//! it has not checked: what it allocates is bounded by what it has read.
//!
//! # Source
//! The Apache Parquet format, version 2: `parquet.thrift` and `Encodings.md`.

mod metadata;
mod thrift;
mod values;

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use flate2::read::MultiGzDecoder;
use indicatif::ProgressBar;

use super::{MAX_DOCUMENT_BYTES, too_long};
use metadata::{Chunk, PageHeader, PageKind, columns};
use values::{Dictionary, Page};

const MAGIC: &[u8] = b"PAR1";
/// A page is what has to be in memory as a whole; writers aim at one mebibyte.
const MAX_PAGE_BYTES: u64 = 512 << 20;
/// The same for values, of which a page of a mebibyte has thousands.
const MAX_PAGE_VALUES: u64 = 1 << 24;
/// Snappy's longest copy makes 64 bytes of three.
const MAX_SNAPPY_RATIO: u64 = 22;
/// Page headers are short, unless statistics quote long texts.
const PAGE_HEADER_GUESS_BYTES: u64 = 4 << 10;
const MAX_PAGE_HEADER_BYTES: u64 = 16 << 20;

/// What a Parquet file is read from.
pub(super) trait ReadAt {
    fn n_bytes(&self) -> io::Result<u64>;
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for File {
    fn n_bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, offset)
    }
}

/// The texts of a column, in order; `null` and what is blank are left out.
pub(super) struct Texts<F> {
    file: F,
    column: metadata::Column,
    /// The column's chunks, the next one last.
    chunks: Vec<Chunk>,
    reading: Option<Reading>,
    /// Rows that have been passed, from 0.
    row: u64,
    failed: bool,
    progress: ProgressBar,
}

/// A chunk that is being read.
struct Reading {
    chunk: Chunk,
    /// Byte of the next page.
    position: u64,
    /// Values in the pages to come.
    n_values: u64,
    dictionary: Dictionary,
    page: Option<Page>,
}

impl<F: ReadAt> Texts<F> {
    /// The texts of the column of this (dotted) name.
    ///
    /// # Errors
    /// When this is no Parquet file, or has no such column of texts.
    pub(super) fn open(file: F, column: &str, progress: ProgressBar) -> Result<Self, String> {
        let n_bytes = file.n_bytes().map_err(|err| err.to_string())?;
        let no_parquet = || "it is not a Parquet file, or was cut short".to_owned();
        if n_bytes < 12 {
            return Err(no_parquet());
        }
        let end = read(&file, n_bytes - 8, 8)?;
        let (length, magic) = end.split_at(4);
        let length = u64::from(little_endian(length));
        if magic != MAGIC || length > n_bytes - 12 {
            return Err(no_parquet());
        }
        let footer = read(&file, n_bytes - 8 - length, length)?;
        let (column, mut chunks) = columns(&footer, column)?;
        for chunk in &chunks {
            let end = chunk.offset.checked_add(chunk.n_bytes);
            if end.is_none_or(|end| end > n_bytes - 8 - length) {
                return Err("a column chunk reaches past the end of the data".to_owned());
            }
        }
        chunks.reverse();
        Ok(Self {
            file,
            column,
            chunks,
            reading: None,
            row: 0,
            failed: false,
            progress,
        })
    }

    fn next_text(&mut self) -> Result<Option<String>, String> {
        loop {
            let Some(reading) = &mut self.reading else {
                let Some(chunk) = self.chunks.pop() else {
                    return Ok(None);
                };
                self.reading = Some(Reading::new(chunk));
                continue;
            };
            let Some(page) = &mut reading.page else {
                if reading.n_values == 0 {
                    self.reading = None;
                    continue;
                }
                let before = reading.position;
                reading.next_page(&self.file, &self.column)?;
                self.progress.inc(reading.position - before);
                continue;
            };
            let Some(value) = page.next(&reading.dictionary)? else {
                reading.page = None;
                continue;
            };
            self.row += 1;
            let Some(bytes) = value else {
                continue;
            };
            if bytes.len() > MAX_DOCUMENT_BYTES {
                return Err(too_long("the text"));
            }
            let text = str::from_utf8(bytes).map_err(|_| "the text is not UTF-8".to_owned())?;
            if !text.trim().is_empty() {
                return Ok(Some(text.to_owned()));
            }
        }
    }
}

impl<F: ReadAt> Iterator for Texts<F> {
    type Item = Result<String, String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.next_text();
        self.failed = next.is_err();
        next.map_err(|problem| format!("near row {}: {problem}", self.row))
            .transpose()
    }
}

impl Reading {
    fn new(chunk: Chunk) -> Self {
        Self {
            position: chunk.offset,
            n_values: chunk.n_values,
            dictionary: Dictionary::default(),
            page: None,
            chunk,
        }
    }

    /// Goes on to the next page, be it of values or a dictionary.
    fn next_page(&mut self, file: &impl ReadAt, column: &metadata::Column) -> Result<(), String> {
        let (header, header_bytes) = self.page_header(file)?;
        let data_at = self.position + header_bytes;
        let left = self.chunk.offset + self.chunk.n_bytes - data_at;
        if header.compressed_bytes > left {
            return Err(format!(
                "a page claims {} bytes, but its column chunk has {left} left",
                header.compressed_bytes
            ));
        }
        if header.uncompressed_bytes > MAX_PAGE_BYTES || header.n_values > MAX_PAGE_VALUES {
            return Err(format!(
                "a page claims {} bytes and {} values, more than the {} MiB and {MAX_PAGE_VALUES} \
                 that one may have; write the file with smaller pages",
                header.uncompressed_bytes,
                header.n_values,
                MAX_PAGE_BYTES >> 20
            ));
        }
        let bytes = read(file, data_at, header.compressed_bytes)?;
        self.position = data_at + header.compressed_bytes;
        if header.crc.is_some_and(|crc| crc != crc32fast::hash(&bytes)) {
            return Err("a page's checksum is wrong".to_owned());
        }
        match header.kind {
            PageKind::Index => Ok(()),
            PageKind::Dictionary { encoding } => {
                let data = self.decompress(&bytes, header.uncompressed_bytes)?;
                self.dictionary = Dictionary::new(data, header.n_values, encoding)?;
                Ok(())
            }
            PageKind::DataV1 {
                encoding,
                level_encoding,
            } => {
                let data = self.decompress(&bytes, header.uncompressed_bytes)?;
                let page = Page::v1(data, header.n_values, encoding, level_encoding, column)?;
                self.take(page, header.n_values)
            }
            PageKind::DataV2 {
                encoding,
                level_bytes,
                is_compressed,
            } => {
                let (levels, values) = bytes
                    .split_at_checked(level_bytes as usize)
                    .ok_or("a page's levels are longer than the page")?;
                let n_bytes = header.uncompressed_bytes.checked_sub(level_bytes);
                let n_bytes = n_bytes.ok_or("a page's levels are longer than the page")?;
                let values = match is_compressed {
                    true => self.decompress(values, n_bytes)?,
                    false => values.to_vec(),
                };
                let page = Page::v2(levels, &values, header.n_values, encoding, column)?;
                self.take(page, header.n_values)
            }
        }
    }

    fn take(&mut self, page: Page, n_values: u64) -> Result<(), String> {
        let left = self.n_values.checked_sub(n_values);
        self.n_values = left.ok_or("the pages of a column chunk have more values than it says")?;
        self.page = Some(page);
        Ok(())
    }

    fn page_header(&self, file: &impl ReadAt) -> Result<(PageHeader, u64), String> {
        let left = self.chunk.offset + self.chunk.n_bytes - self.position;
        let mut window = PAGE_HEADER_GUESS_BYTES;
        loop {
            let start = read(file, self.position, window.min(left))?;
            match PageHeader::parse(&start) {
                Ok((header, n_bytes)) => return Ok((header, n_bytes)),
                Err(_) if window < left && window < MAX_PAGE_HEADER_BYTES => window *= 16,
                Err(problem) => return Err(format!("a page header is damaged: {problem}")),
            }
        }
    }

    fn decompress(&self, bytes: &[u8], n_bytes: u64) -> Result<Vec<u8>, String> {
        let wrong = || "a page cannot be decompressed; is the file complete?".to_owned();
        let read_all = |from: &mut dyn Read| {
            let mut data = Vec::new();
            let n_read = from.take(n_bytes + 1).read_to_end(&mut data);
            n_read.map(|_| data).map_err(|_| wrong())
        };
        let data = match self.chunk.codec {
            0 => bytes.to_vec(),
            1 => {
                let promised = snap::raw::decompress_len(bytes).map_err(|_| wrong())? as u64;
                if promised != n_bytes || n_bytes > MAX_SNAPPY_RATIO * bytes.len() as u64 {
                    return Err(wrong());
                }
                let data = snap::raw::Decoder::new().decompress_vec(bytes);
                data.map_err(|_| wrong())?
            }
            2 => read_all(&mut MultiGzDecoder::new(bytes))?,
            6 => {
                let decoder = zstd::stream::read::Decoder::with_buffer(bytes);
                read_all(&mut decoder.map_err(|_| wrong())?)?
            }
            other => {
                let name = match other {
                    3 => "LZO",
                    4 => "Brotli",
                    5 | 7 => "LZ4",
                    _ => "an unknown codec",
                };
                return Err(format!(
                    "it is compressed with {name}; write it with zstd, snappy or gzip"
                ));
            }
        };
        match data.len() as u64 == n_bytes {
            true => Ok(data),
            false => Err(wrong()),
        }
    }
}

fn read(file: &impl ReadAt, offset: u64, n_bytes: u64) -> Result<Vec<u8>, String> {
    let mut bytes = vec![0; n_bytes as usize];
    match file.read_exact_at(&mut bytes, offset) {
        Ok(()) => Ok(bytes),
        Err(err) => Err(err.to_string()),
    }
}

/// A number of up to four bytes.
fn little_endian(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .rev()
        .fold(0, |number, &byte| number << 8 | u32::from(byte))
}

#[cfg(test)]
mod tests;
