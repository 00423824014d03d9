//! A `tokenizer.json`, and probes as tokens.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use imprint_core::{Probe, TokenizedProbe};

use crate::{Error, Result};

/// The tokenizer of a `tokenizer.json`.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
    vocab_size: u32,
}

impl Tokenizer {
    /// The tokenizer of a file; truncation and padding that the file may ask for are switched off.
    ///
    /// # Errors
    /// When the file is not there or is no tokenizer.
    pub fn open(path: &Path) -> Result<Self> {
        let unusable = |problem: String| Error::Tokenizer {
            path: path.to_owned(),
            problem,
        };
        let json = std::fs::read(path).map_err(|err| Error::Read {
            path: path.to_owned(),
            err,
        })?;
        let mut inner =
            tokenizers::Tokenizer::from_bytes(json).map_err(|e| unusable(e.to_string()))?;
        inner
            .with_truncation(None)
            .map_err(|e| unusable(e.to_string()))?
            .with_padding(None);
        let highest = inner.get_vocab(true).into_values().max();
        Ok(Self {
            vocab_size: highest.ok_or_else(|| unusable("its vocabulary is empty".into()))? + 1,
            inner,
            path: path.to_owned(),
        })
    }

    /// The tokens of a text, without the special tokens that the file may add around it.
    ///
    /// # Errors
    /// When the tokenizer has no token for a part of the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        match self.inner.encode_fast(text, false) {
            Ok(encoding) => Ok(encoding.get_ids().to_vec()),
            Err(e) => Err(Error::Encode {
                path: self.path.clone(),
                text: excerpt(text),
                problem: e.to_string(),
            }),
        }
    }

    /// One more than the highest token id, added tokens included.
    pub fn vocab_size(&self) -> u32 {
        self.vocab_size
    }

    /// The id of a token, given its exact text.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The special tokens by their ids, such as those that open and close sequences.
    pub(crate) fn special_tokens(&self) -> BTreeMap<u32, String> {
        let added = self.inner.get_added_tokens_decoder().into_iter();
        let special = added.filter(|(_, token)| token.special);
        special.map(|(id, token)| (id, token.content)).collect()
    }

    /// The file that it was read from.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The id of the end-of-sequence token.
    ///
    /// # Errors
    /// When the tokenizer has no such token.
    pub fn eos_id(&self, eos: &str) -> Result<u32> {
        self.token_id(eos).ok_or_else(|| Error::UnknownEos {
            path: self.path.clone(),
            eos: eos.to_owned(),
        })
    }

    /// The tokens of a probe: of `prompt + " " + target`, of which the last are the target's.
    ///
    /// # Errors
    /// When the tokens of `" " + target` are not what the tokens of the whole text end with, or
    /// when prompt or target have no token.
    ///
    /// # Source
    /// arXiv 2406.11813's released code: a target is tokenised with the space before it.
    pub fn encode_probe(&self, probe: &Probe) -> Result<TokenizedProbe> {
        let tokens = self.encode(&format!("{} {}", probe.prompt, probe.target))?;
        let target = self.encode(&format!(" {}", probe.target))?;
        let problem = if target.is_empty() {
            "the target has no token".to_owned()
        } else if !tokens.ends_with(&target) {
            let end = &tokens[tokens.len().saturating_sub(target.len())..];
            format!(
                "the boundary of prompt and target is not a boundary of tokens: \" {}\" alone is \
                 {target:?}, but the whole text ends with {end:?}; word the probe otherwise",
                probe.target
            )
        } else if tokens.len() == target.len() {
            "the prompt has no token".to_owned()
        } else {
            return Ok(TokenizedProbe {
                tokens,
                n_target_tokens: target.len(),
            });
        };
        Err(Error::Probe {
            fact: probe.fact,
            depth: probe.depth,
            ordinal: probe.ordinal,
            problem,
        })
    }
}

/// The beginning of a text, enough to recognise it.
fn excerpt(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests;
