//! Corpora: headerless token files, and text, cut into instances of `seq_len` tokens.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use imprint_core::CorpusFormat;

use crate::{Error, Result, Tokenizer};

/// A pretraining corpus as a list of instances of equal length.
///
/// Each file is cut on its own, from its beginning; what is left at its end is dropped.
/// Token files are read where they are needed, so size does not matter and holes are welcome; text
/// is tokenised once, when the corpus is opened.
///
/// # Source
/// OLMo's memory-mapped data sets cut files in the same way.
#[derive(Debug)]
pub(crate) struct Corpus {
    seq_len: u32,
    vocab_size: u32,
    n_instances: u64,
    files: Vec<CorpusFile>,
}

#[derive(Debug)]
struct CorpusFile {
    path: PathBuf,
    /// Number of the file's first instance in the corpus.
    first_instance: u64,
    tokens: Tokens,
}

#[derive(Debug)]
enum Tokens {
    Uint16(File),
    Uint32(File),
    InMemory(Vec<u32>),
}

impl Corpus {
    /// The corpus in these files.
    ///
    /// Text has one document a line, empty lines aside; each document is closed by `eos_id`.
    ///
    /// # Errors
    /// When a file is missing, is no whole number of tokens, or is not UTF-8 text.
    pub(crate) fn open(
        paths: &[PathBuf],
        format: CorpusFormat,
        seq_len: u32,
        tokenizer: &Tokenizer,
        eos_id: u32,
    ) -> Result<Self> {
        let mut n_instances = 0;
        let mut files = Vec::with_capacity(paths.len());
        for path in paths {
            let (tokens, n_tokens) = match format {
                CorpusFormat::Uint16 => {
                    let (file, n) = open_tokens(path, 2)?;
                    (Tokens::Uint16(file), n)
                }
                CorpusFormat::Uint32 => {
                    let (file, n) = open_tokens(path, 4)?;
                    (Tokens::Uint32(file), n)
                }
                CorpusFormat::Text => {
                    let tokens = tokenise_documents(path, tokenizer, eos_id)?;
                    let n = tokens.len() as u64;
                    (Tokens::InMemory(tokens), n)
                }
            };
            files.push(CorpusFile {
                path: path.clone(),
                first_instance: n_instances,
                tokens,
            });
            n_instances += n_tokens / u64::from(seq_len);
        }
        if n_instances == 0 {
            return Err(Error::EmptyCorpus { seq_len });
        }
        Ok(Self {
            seq_len,
            vocab_size: tokenizer.vocab_size(),
            n_instances,
            files,
        })
    }

    /// The number of instances in all files.
    pub(crate) fn n_instances(&self) -> u64 {
        self.n_instances
    }

    /// Appends the `seq_len` tokens of an instance to `row`.
    ///
    /// # Errors
    /// When the file cannot be read any more, or holds a token outside the vocabulary.
    ///
    /// # Panics
    /// When there is no such instance.
    pub(crate) fn read_instance(&self, instance: u64, row: &mut Vec<u32>) -> Result<()> {
        assert!(instance < self.n_instances, "instance of the corpus");
        // Of several files that begin at the same instance all but the last hold none.
        let index = self
            .files
            .partition_point(|f| f.first_instance <= instance)
            .saturating_sub(1);
        let file = &self.files[index];
        let seq_len = self.seq_len as usize;
        let position = (instance - file.first_instance) * u64::from(self.seq_len);
        let from = row.len();
        let read = |err| Error::Read {
            path: file.path.clone(),
            err,
        };
        match &file.tokens {
            Tokens::Uint16(f) => {
                let bytes = read_at(f, position * 2, seq_len * 2).map_err(read)?;
                row.extend(
                    bytes
                        .as_chunks()
                        .0
                        .iter()
                        .map(|b| u32::from(u16::from_le_bytes(*b))),
                );
            }
            Tokens::Uint32(f) => {
                let bytes = read_at(f, position * 4, seq_len * 4).map_err(read)?;
                row.extend(bytes.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)));
            }
            Tokens::InMemory(tokens) => {
                row.extend_from_slice(&tokens[position as usize..][..seq_len]);
            }
        }
        match row[from..].iter().position(|&id| id >= self.vocab_size) {
            None => Ok(()),
            Some(offset) => Err(Error::TokenOutsideVocabulary {
                path: file.path.clone(),
                position: position + offset as u64,
                id: row[from + offset],
                vocab_size: self.vocab_size,
            }),
        }
    }
}

fn open_tokens(path: &Path, width: u64) -> Result<(File, u64)> {
    let read = |err| Error::Read {
        path: path.to_owned(),
        err,
    };
    let file = File::open(path).map_err(read)?;
    let metadata = file.metadata().map_err(read)?;
    if !metadata.is_file() {
        return Err(read(io::Error::other("not a file")));
    }
    let n_bytes = metadata.len();
    if !n_bytes.is_multiple_of(width) {
        return Err(Error::OddLength {
            path: path.to_owned(),
            n_bytes,
            width,
        });
    }
    Ok((file, n_bytes / width))
}

/// Reading, rather than mapping: a file cut short during a run is an error, not a signal.
fn read_at(file: &File, offset: u64, n_bytes: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; n_bytes];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

fn tokenise_documents(path: &Path, tokenizer: &Tokenizer, eos_id: u32) -> Result<Vec<u32>> {
    let bytes = fs::read(path).map_err(|err| Error::Read {
        path: path.to_owned(),
        err,
    })?;
    let text = std::str::from_utf8(&bytes).map_err(|e| Error::NotUtf8 {
        path: path.to_owned(),
        line: 1 + bytes[..e.valid_up_to()]
            .iter()
            .filter(|&&b| b == b'\n')
            .count(),
    })?;
    let mut tokens = Vec::new();
    for document in text.lines().filter(|l| !l.trim().is_empty()) {
        tokens.extend(tokenizer.encode(document)?);
        tokens.push(eos_id);
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests;
