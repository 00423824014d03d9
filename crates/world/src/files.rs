//! A world's files, in the forms of real inputs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use imprint_data::write_facts;

use crate::world::EOS;
use crate::{Error, World};

/// Where a world's files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorldFiles {
    /// Headerless little-endian 16-bit token ids.
    pub corpus: PathBuf,
    /// The authors' JSON form, with a `subject` for every fact.
    pub facts: PathBuf,
    /// A word-level `tokenizer.json` whose end-of-sequence token is `<|endoftext|>`.
    pub tokenizer: PathBuf,
    /// The numbers of the world; written last.
    pub config: PathBuf,
}

impl WorldFiles {
    /// The files of a world in a directory.
    pub fn in_directory(directory: &Path) -> Self {
        Self {
            corpus: directory.join("corpus.u16"),
            facts: directory.join("facts.json"),
            tokenizer: directory.join("tokenizer.json"),
            config: directory.join("world.json"),
        }
    }
}

impl World {
    /// Writes the world into a directory, which is made if need be.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, directory: &Path) -> Result<WorldFiles, Error> {
        let files = WorldFiles::in_directory(directory);
        fs::create_dir_all(directory).map_err(|err| Error::Write {
            path: directory.to_owned(),
            err,
        })?;
        let corpus: Vec<u8> = self
            .corpus()
            .into_iter()
            .flat_map(u16::to_le_bytes)
            .collect();
        let config = serde_json::to_string_pretty(self.config()).expect("numbers are plain data");
        write(&files.corpus, &corpus)?;
        write_facts(&files.facts, self.facts()).map_err(Error::Facts)?;
        write(&files.tokenizer, self.tokenizer_json().as_bytes())?;
        write(&files.config, (config + "\n").as_bytes())?;
        Ok(files)
    }

    /// Written out by hand, so that its bytes, and with them the identity of every run, depend on no
    /// library's order of keys.
    fn tokenizer_json(&self) -> String {
        let ids: BTreeMap<&str, usize> = self
            .vocabulary()
            .iter()
            .map(String::as_str)
            .zip(0..)
            .collect();
        let vocabulary = serde_json::to_string_pretty(&ids).expect("words are plain data");
        format!(
            r#"{{
  "version": "1.0",
  "truncation": null,
  "padding": null,
  "added_tokens": [
    {{
      "id": {eos_id},
      "content": "{EOS}",
      "single_word": false,
      "lstrip": false,
      "rstrip": false,
      "normalized": false,
      "special": true
    }}
  ],
  "normalizer": null,
  "pre_tokenizer": {{ "type": "Whitespace" }},
  "post_processor": null,
  "decoder": null,
  "model": {{
    "type": "WordLevel",
    "unk_token": "<|unknown|>",
    "vocab": {vocabulary}
  }}
}}
"#,
            eos_id = ids[EOS],
        )
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    fs::write(path, bytes).map_err(|err| Error::Write {
        path: path.to_owned(),
        err,
    })
}
