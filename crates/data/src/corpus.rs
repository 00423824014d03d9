//! Corpora: files of token ids, and of text that becomes such files, cut into instances of
//! `seq_len` tokens.

use std::path::{Path, PathBuf};

use imprint_core::CorpusFormat;

use crate::array::{IntegerArray, IntegerType};
use crate::documents::TextFormat;
use crate::token_cache::{Text, TokenCache};
use crate::{Error, Result, Tokenizer};

/// Tokens of a corpus that are looked at before anything is trained on them.
const SAMPLED_TOKENS: u64 = 1 << 17;

/// A pretraining corpus as a list of instances of equal length.
///
/// Each file is cut on its own, from its beginning; what is left at its end is dropped.
/// Token files are read where they are needed, so size does not matter and holes are welcome.
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
    /// Number of the file's first instance in the corpus.
    first_instance: u64,
    tokens: IntegerArray,
}

/// What a corpus is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CorpusSource<'a> {
    pub files: &'a [PathBuf],
    pub format: CorpusFormat,
    /// The JSON key or Parquet column of a document's text; empty in other formats.
    pub text_field: &'a str,
    pub seq_len: u32,
}

/// How text becomes tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tokens<'a> {
    pub tokenizer: &'a Tokenizer,
    /// Closes every document.
    pub eos_id: u32,
    pub cache: &'a TokenCache,
}

impl Corpus {
    /// The corpus in these files; text is tokenised first, if the cache does not have its tokens.
    ///
    /// # Errors
    /// When a file is missing or not of its format, or no file has a whole instance.
    pub(crate) fn open(source: &CorpusSource, tokens: &Tokens) -> Result<Self> {
        let mut n_instances = 0;
        let mut files = Vec::with_capacity(source.files.len());
        for path in source.files {
            let tokens = open_file(path, source, tokens)?;
            let n_here = tokens.len() / u64::from(source.seq_len);
            files.push(CorpusFile {
                first_instance: n_instances,
                tokens,
            });
            n_instances += n_here;
        }
        if n_instances == 0 {
            return Err(Error::EmptyCorpus {
                seq_len: source.seq_len,
            });
        }
        Ok(Self {
            seq_len: source.seq_len,
            vocab_size: tokens.tokenizer.vocab_size(),
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
        let position = (instance - file.first_instance) * u64::from(self.seq_len);
        for (at, id) in (position..).zip(file.tokens.read(position, self.seq_len as usize)?) {
            match u32::try_from(id) {
                Ok(token) if token < self.vocab_size => row.push(token),
                _ => {
                    return Err(Error::TokenOutsideVocabulary {
                        path: file.tokens.path().to_owned(),
                        position: at,
                        id,
                        vocab_size: self.vocab_size,
                    });
                }
            }
        }
        Ok(())
    }

    /// The tokens of instances from all over the corpus, not many.
    ///
    /// # Errors
    /// As [`Self::read_instance`].
    pub(crate) fn sample(&self) -> Result<Vec<u32>> {
        let n = SAMPLED_TOKENS
            .div_ceil(self.seq_len.into())
            .min(self.n_instances);
        let mut tokens = Vec::new();
        for i in 0..n {
            let instance = u128::from(i) * u128::from(self.n_instances) / u128::from(n);
            self.read_instance(instance as u64, &mut tokens)?;
        }
        Ok(tokens)
    }
}

fn open_file(path: &Path, source: &CorpusSource, tokens: &Tokens) -> Result<IntegerArray> {
    let format = match source.format {
        CorpusFormat::Uint16 => return IntegerArray::open_headerless(path, IntegerType::Uint16),
        CorpusFormat::Uint32 => return IntegerArray::open_headerless(path, IntegerType::Uint32),
        CorpusFormat::Npy => return IntegerArray::open_npy(path),
        CorpusFormat::Text => TextFormat::Lines,
        CorpusFormat::Jsonl => TextFormat::Jsonl {
            key: source.text_field,
        },
        CorpusFormat::Parquet => TextFormat::Parquet {
            column: source.text_field,
        },
    };
    let (path, integer) = tokens.cache.tokens(&Text {
        path,
        format,
        tokenizer: tokens.tokenizer,
        eos_id: tokens.eos_id,
    })?;
    IntegerArray::open_headerless(&path, integer)
}

#[cfg(test)]
mod tests;
