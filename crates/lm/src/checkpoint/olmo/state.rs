//! A state dict that OLMo saved: nested containers of tensors and plain values.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Mutex;

use crate::checkpoint::file::StableFile;
use crate::checkpoint::pickle::{self, Known, Plain};
use crate::checkpoint::tensor::{Dtype, Tensor};
use crate::checkpoint::{TensorFiles, is_torch, safetensors, torch_zip};
use crate::error::Error;

/// How long a pickled value in a safetensors file may be: parameter groups have some kilobytes.
const MAX_PICKLED_BYTES: usize = 16 << 20;

/// One file and what it holds.
pub(super) struct State {
    pub(super) path: PathBuf,
    file: StableFile,
    pub(super) root: Plain,
}

impl State {
    /// What a file holds, whether `torch.save` wrote it or OLMo as safetensors.
    ///
    /// # Errors
    /// When it is damaged, or holds anything but tensors and plain containers; with `inert` the few
    /// plain objects of a trainer's state are passed over.
    pub(super) fn read(path: PathBuf, inert: bool) -> Result<Self, Error> {
        let file = StableFile::open(path.clone())?;
        let root = match is_torch(&file)? {
            true => torch_zip::read(&file, 0, inert)?,
            false => flat_state(&file, inert)?,
        };
        Ok(Self { path, file, root })
    }

    pub(super) fn refuse(&self, reason: impl Into<String>) -> Error {
        Error::State {
            path: self.path.clone(),
            reason: reason.into(),
        }
    }

    /// The tensors of a state dict that holds nothing else.
    pub(super) fn named_tensors(&self) -> Result<Vec<(String, Tensor)>, Error> {
        let Plain::Dict(entries) = &self.root else {
            return Err(self.refuse("does not hold a dict of tensors"));
        };
        (entries.iter())
            .map(|(key, value)| match (key, value) {
                (Plain::Str(name), Plain::Tensor(tensor)) => {
                    Ok((name.clone(), tensor.as_ref().clone()))
                }
                (key, value) => Err(self.refuse(format!(
                    "holds {} under {}, not a tensor under its name",
                    value.kind(),
                    key.as_str()
                        .map_or_else(|| key.kind(), |key| format!("`{key}`")),
                ))),
            })
            .collect()
    }

    /// A whole number, which may be held as a tensor of one element.
    pub(super) fn count(&self, value: &Plain) -> Result<Option<u64>, Error> {
        match value {
            Plain::Tensor(tensor) => tensor.read_count(&self.file),
            plain => Ok(plain.as_count()),
        }
    }

    /// The file under other names of its tensors.
    pub(super) fn tensor_files(self, tensors: BTreeMap<String, Tensor>) -> TensorFiles {
        TensorFiles {
            source: self.path,
            files: vec![self.file],
            tensors,
            metadata: HashMap::new(),
            findings: Mutex::default(),
        }
    }

    /// Holds the file to what it was when it was opened.
    pub(super) fn check_unchanged(&self) -> Result<(), Error> {
        self.file.check_unchanged()
    }
}

/// The nested dicts that OLMo flattens into a safetensors file: each name is the base64 of a pickle
/// of the path of keys, and of whether the bytes are a pickle themselves.
fn flat_state(file: &StableFile, inert: bool) -> Result<Plain, Error> {
    let refuse = |name: &str, reason: String| Error::Safetensors {
        path: file.path().to_owned(),
        reason: format!("tensor `{name}`: {reason}"),
    };
    let known = Known {
        storages: None,
        inert,
    };
    let mut root = Branch::default();
    for (name, tensor) in safetensors::read_header(file, 0)?.tensors {
        let (path, is_pickled) = decode_key(&name).unwrap_or_else(|| {
            // A file that others made, with the names as they are.
            (vec![Key::Str(name.clone())], false)
        });
        let value = match is_pickled {
            false => Plain::Tensor(Box::new(tensor)),
            true => {
                if tensor.dtype != Dtype::U8 || tensor.n_elements() > MAX_PICKLED_BYTES {
                    return Err(refuse(&name, "is not a pickled value".to_owned()));
                }
                let bytes = tensor.raw_bytes(file)?;
                pickle::read(&bytes, &known).map_err(|reason| refuse(&name, reason))?
            }
        };
        root.insert(&path, value)
            .map_err(|reason| refuse(&name, reason.to_owned()))?;
    }
    Ok(root.into_plain())
}

/// How deep keys may lie in keys; OLMo has three.
const MAX_KEYS: usize = 8;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Int(i64),
    Str(String),
}

fn decode_key(name: &str) -> Option<(Vec<Key>, bool)> {
    let bytes = base64_url(name)?;
    let Plain::List(key) = pickle::read(&bytes, &Known::default()).ok()? else {
        return None;
    };
    let [Plain::List(path), Plain::Bool(is_pickled)] = key.as_slice() else {
        return None;
    };
    let path: Option<Vec<Key>> = (path.iter())
        .map(|key| match key {
            Plain::Int(n) => Some(Key::Int(*n)),
            Plain::Str(text) => Some(Key::Str(text.clone())),
            _ => None,
        })
        .collect();
    path.filter(|path| (1..=MAX_KEYS).contains(&path.len()))
        .map(|path| (path, *is_pickled))
}

/// The bytes of a base64 text in the alphabet for URLs.
fn base64_url(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=');
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 3);
    let (mut bits, mut n_bits) = (0_u32, 0);
    for byte in text.bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'-' => 62,
            b'_' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        n_bits += 6;
        if n_bits >= 8 {
            n_bits -= 8;
            bytes.push((bits >> n_bits) as u8);
            bits &= (1 << n_bits) - 1;
        }
    }
    Some(bytes)
}

/// A dict that is being filled.
#[derive(Default)]
struct Branch(BTreeMap<Key, Grown>);

enum Grown {
    Leaf(Plain),
    Branch(Branch),
}

impl Branch {
    fn insert(&mut self, path: &[Key], value: Plain) -> Result<(), &'static str> {
        let (key, rest) = path.split_first().ok_or("it has no name")?;
        if rest.is_empty() {
            return match self.0.insert(key.clone(), Grown::Leaf(value)) {
                None => Ok(()),
                Some(_) => Err("is there twice"),
            };
        }
        let inner = (self.0.entry(key.clone())).or_insert_with(|| Grown::Branch(Self::default()));
        match inner {
            Grown::Branch(branch) => branch.insert(rest, value),
            Grown::Leaf(_) => Err("is below what is no dict"),
        }
    }

    fn into_plain(self) -> Plain {
        let entries = self.0.into_iter().map(|(key, grown)| {
            let key = match key {
                Key::Int(n) => Plain::Int(n),
                Key::Str(text) => Plain::Str(text),
            };
            let value = match grown {
                Grown::Leaf(value) => value,
                Grown::Branch(branch) => branch.into_plain(),
            };
            (key, value)
        });
        Plain::Dict(entries.collect())
    }
}
