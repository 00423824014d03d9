//! Checkpoints in and out: tensors of whatever file format, one at a time, as float32.
//!
//! [`TensorFiles`] is where all formats meet: each is a list of names with places in files.
//! `safetensors` and `torch_zip` make that list, `pickle` says what a pickle holds without doing
//! what it says, and `olmo` presents OLMo's own layout under Hugging Face's names.

mod file;
mod health;
mod olmo;
mod pickle;
mod safetensors;
mod tensor;
mod torch_zip;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ::safetensors::Dtype;
use ::safetensors::tensor::TensorView;
use serde::Deserialize;

pub use self::olmo::{CheckpointFormat, CheckpointInfo};

use self::file::StableFile;
use self::health::Finding;
use self::olmo::OlmoNative;
use self::pickle::Plain;
use self::tensor::Tensor;
use crate::config::ModelConfig;
use crate::error::{Error, io_error};

pub(crate) const CONFIG: &str = "config.json";
pub(crate) const WEIGHTS: &str = "model.safetensors";
pub(crate) const OPTIMIZER: &str = "optimizer.safetensors";
/// Annotation of both safetensors files of a saved state: they belong together.
pub(crate) const N_UPDATES: &str = "n_updates";
const INDEX: &str = "model.safetensors.index.json";
const TORCH_WEIGHTS: &str = "pytorch_model.bin";
const TORCH_INDEX: &str = "pytorch_model.bin.index.json";

/// How the names of an optimizer's moments end, after the name of their parameter.
pub(crate) const EXP_AVG: &str = ".exp_avg";
pub(crate) const EXP_AVG_SQ: &str = ".exp_avg_sq";

/// What those who write checkpoints call a file or directory that is not finished.
const UNFINISHED: &[&str] = &["partial", "tmp", "incomplete", "unfinished", "part"];

/// The configuration in a directory of any format; weights are not looked for.
///
/// # Errors
/// When it is missing or damaged, or asks for what is not done here.
pub(crate) fn config(dir: &Path) -> Result<ModelConfig, Error> {
    match OlmoNative::is_in(dir) {
        true => ModelConfig::from_json(OlmoNative::open(dir)?.config()),
        false => ModelConfig::read(&dir.join(CONFIG)),
    }
}

/// The configuration and the weights in a directory of any format.
///
/// # Errors
/// When a file is missing or damaged, or the configuration asks for what is not done here or for
/// more layers than there are tensors.
pub(crate) fn open(dir: &Path) -> Result<(ModelConfig, TensorFiles), Error> {
    let (config, weights) = match OlmoNative::is_in(dir) {
        true => {
            let native = OlmoNative::open(dir)?;
            (ModelConfig::from_json(native.config())?, native.weights()?)
        }
        false => (
            ModelConfig::read(&dir.join(CONFIG))?,
            TensorFiles::open_dir(dir)?,
        ),
    };
    let n_tensors = weights.names().count();
    if config.num_hidden_layers > n_tensors {
        return Err(Error::Config {
            key: "num_hidden_layers".to_owned(),
            reason: format!(
                "is {}, but {} holds {n_tensors} tensors",
                config.num_hidden_layers,
                weights.source.display()
            ),
        });
    }
    Ok((config, weights))
}

/// The optimizer's moments that were saved with weights, and the updates that they are means of.
///
/// # Errors
/// When they are missing or damaged, or were saved after another update than the weights.
pub(crate) fn open_optimizer(
    dir: &Path,
    weights: &TensorFiles,
) -> Result<(TensorFiles, u64), Error> {
    let missing = |dir: &Path| Error::State {
        path: dir.to_owned(),
        reason: "has no optimizer moments to load; start with a reset optimizer".to_owned(),
    };
    if OlmoNative::is_in(dir) {
        let optimizer = OlmoNative::open(dir)?.optimizer()?;
        let optimizer = optimizer.ok_or_else(|| missing(dir))?;
        return Ok((optimizer.moments, optimizer.n_updates));
    }
    let path = dir.join(OPTIMIZER);
    if !path.exists() {
        return Err(unfinished(dir).unwrap_or_else(|| missing(dir)));
    }
    let moments = TensorFiles::open_file(path.clone())?;
    let n_updates = moments.n_updates()?;
    let of_weights = weights.n_updates()?;
    if n_updates != of_weights {
        return Err(Error::State {
            path,
            reason: format!(
                "holds moments after {n_updates} updates, but the weights beside it are those \
                 after {of_weights}"
            ),
        });
    }
    Ok((moments, n_updates))
}

/// The tensors of one or several files.
pub(crate) struct TensorFiles {
    /// What an error names when no one file is to blame.
    source: PathBuf,
    files: Vec<StableFile>,
    tensors: BTreeMap<String, Tensor>,
    /// The first file's own annotations.
    metadata: HashMap<String, String>,
    /// What looked wrong of what has been read.
    findings: Mutex<Vec<Finding>>,
}

#[derive(Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

impl TensorFiles {
    /// The weights in a Hugging Face directory: one file, or the shards that an index names, as
    /// safetensors or else as PyTorch files.
    ///
    /// # Errors
    /// When there are none, a shard is missing or damaged, or a shard and the index disagree.
    pub(crate) fn open_dir(dir: &Path) -> Result<Self, Error> {
        for (single, index) in [(WEIGHTS, INDEX), (TORCH_WEIGHTS, TORCH_INDEX)] {
            if dir.join(single).exists() {
                return Self::open_file(dir.join(single));
            }
            if dir.join(index).exists() {
                return Self::open_shards(dir, dir.join(index));
            }
        }
        Err(unfinished(dir).unwrap_or_else(|| Error::NoWeights {
            dir: dir.to_owned(),
        }))
    }

    /// The tensors of one file.
    ///
    /// # Errors
    /// When it cannot be read, or is neither a safetensors file nor one of PyTorch's.
    pub(crate) fn open_file(path: PathBuf) -> Result<Self, Error> {
        let mut files = Self::empty(path.clone());
        files.add(path)?;
        Ok(files)
    }

    fn empty(source: PathBuf) -> Self {
        Self {
            source,
            files: Vec::new(),
            tensors: BTreeMap::new(),
            metadata: HashMap::new(),
            findings: Mutex::default(),
        }
    }

    /// Adds the tensors of a file under their own names.
    fn add(&mut self, path: PathBuf) -> Result<(), Error> {
        let file = StableFile::open(path)?;
        let idx = self.files.len();
        let tensors = if is_torch(&file)? {
            torch_tensors(&file, idx)?
        } else {
            let header = safetensors::read_header(&file, idx)?;
            if idx == 0 {
                self.metadata = header.metadata;
            }
            header.tensors
        };
        for (name, tensor) in tensors {
            if self.tensors.contains_key(&name) {
                return Err(Error::RepeatedTensor {
                    path: file.path().to_owned(),
                    tensor: name,
                });
            }
            self.tensors.insert(name, tensor);
        }
        self.files.push(file);
        Ok(())
    }

    fn open_shards(dir: &Path, index: PathBuf) -> Result<Self, Error> {
        let text = fs::read_to_string(&index).map_err(io_error("read", &index))?;
        let ShardIndex { weight_map } =
            serde_json::from_str(&text).map_err(|err| Error::ShardIndex {
                path: index.clone(),
                reason: err.to_string(),
            })?;
        let names: BTreeSet<&String> = weight_map.values().collect();
        let mut files = Self::empty(index.clone());
        let mut file_of = HashMap::new();
        for name in names {
            let own_name = Path::new(name).file_name();
            if own_name.is_none_or(|own| own != name.as_str()) {
                return Err(Error::ShardIndex {
                    path: index,
                    reason: format!("`{name}` is not the name of a file beside it"),
                });
            }
            let path = dir.join(name);
            if !path.exists() {
                return Err(unfinished(dir).unwrap_or(Error::MissingShard { path, index }));
            }
            file_of.insert(name.clone(), files.files.len());
            files.add(path)?;
        }
        // What the shards really hold: a tensor that only the index knows is missing, and one
        // that the index does not know is unexpected.
        for (tensor, file) in &weight_map {
            let said = file_of[file];
            if files.tensors.get(tensor).map(|tensor| tensor.file) != Some(said) {
                return Err(Error::MissingTensor {
                    path: files.files[said].path().to_owned(),
                    tensor: tensor.clone(),
                });
            }
        }
        if let Some(name) = files
            .tensors
            .keys()
            .find(|&name| !weight_map.contains_key(name))
        {
            return Err(Error::ShardIndex {
                reason: format!(
                    "does not name the tensor `{name}`, which {} holds",
                    files.path_of(name).display()
                ),
                path: files.source,
            });
        }
        Ok(files)
    }

    /// Names of all tensors.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The file that holds a tensor, or the one to blame for its absence.
    pub(crate) fn path_of(&self, tensor: &str) -> &Path {
        match self.tensors.get(tensor) {
            Some(tensor) => self.files[tensor.file].path(),
            None => &self.source,
        }
    }

    /// The updates that a state had made when this file of it was saved.
    fn n_updates(&self) -> Result<u64, Error> {
        let n_updates = self.metadata.get(N_UPDATES).and_then(|n| n.parse().ok());
        n_updates.ok_or_else(|| Error::State {
            path: self.source.clone(),
            reason: format!("has no `{N_UPDATES}`: it is not part of a saved state"),
        })
    }

    /// Holds a tensor to a shape and to the types that are read: before memory is set aside for
    /// it, since a configuration may ask for any amount.
    ///
    /// # Errors
    /// When it is missing, or has another shape or a type that is not read.
    pub(crate) fn expect(&self, tensor: &str, shape: &[usize]) -> Result<(), Error> {
        self.expected(tensor, shape).map(|_| ())
    }

    fn expected(&self, tensor: &str, shape: &[usize]) -> Result<&Tensor, Error> {
        let Some(found) = self.tensors.get(tensor) else {
            return Err(Error::MissingTensor {
                path: self.source.clone(),
                tensor: tensor.to_owned(),
            });
        };
        if found.shape != shape {
            return Err(Error::Shape {
                path: self.path_of(tensor).to_owned(),
                tensor: tensor.to_owned(),
                found: found.shape.clone(),
                expected: shape.to_vec(),
            });
        }
        if !found.is_numeric() {
            return Err(Error::Dtype {
                path: self.path_of(tensor).to_owned(),
                tensor: tensor.to_owned(),
                dtype: found.dtype.name(),
            });
        }
        Ok(found)
    }

    /// Copies a tensor of the given shape into `out`, cast to float32.
    ///
    /// # Errors
    /// When it is missing, has another shape or a type that is not read, or its file has become
    /// shorter meanwhile.
    pub(crate) fn read(&self, tensor: &str, shape: &[usize], out: &mut [f32]) -> Result<(), Error> {
        let place = self.expected(tensor, shape)?;
        let file = &self.files[place.file];
        place.read(file, out)?;
        let found = health::examine(file.path(), tensor, shape, out);
        (self.findings.lock().unwrap_or_else(PoisonError::into_inner)).extend(found);
        Ok(())
    }

    /// One line for each of the tensors read so far whose values look wrong.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let findings = self.findings.lock().unwrap_or_else(PoisonError::into_inner);
        health::lines(&findings)
    }

    /// Holds every file to what it was when it was opened.
    ///
    /// # Errors
    /// When one has been written to, cut or replaced meanwhile.
    pub(crate) fn check_unchanged(&self) -> Result<(), Error> {
        self.files.iter().try_for_each(StableFile::check_unchanged)
    }
}

/// Whether a file is PyTorch's: by its first bytes, or by its name, so that its error is of that
/// format too.
fn is_torch(file: &StableFile) -> Result<bool, Error> {
    let is_named = (file.path().extension())
        .is_some_and(|extension| ["bin", "pt", "pth"].iter().any(|torch| extension == *torch));
    Ok(is_named || torch_zip::is_zip(file)?)
}

/// The tensors of a file that holds one dict of them.
fn torch_tensors(file: &StableFile, idx: usize) -> Result<Vec<(String, Tensor)>, Error> {
    let refuse = |reason: String| Error::Torch {
        path: file.path().to_owned(),
        reason,
    };
    let Plain::Dict(entries) = torch_zip::read(file, idx, false)? else {
        return Err(refuse("it does not hold a dict of tensors".to_owned()));
    };
    (entries.into_iter())
        .map(|(key, value)| match (key, value) {
            (Plain::Str(name), Plain::Tensor(tensor)) => Ok((name, *tensor)),
            (Plain::Str(name), other) => Err(refuse(format!(
                "`{name}` in it is {}, not a tensor; is this a file of weights?",
                other.kind()
            ))),
            (other, _) => Err(refuse(format!(
                "{} in it stands where a tensor's name should",
                other.kind()
            ))),
        })
        .collect()
}

/// The error of a directory in which something is still being written; `None` where nothing is.
fn unfinished(dir: &Path) -> Option<Error> {
    let is_unfinished = |path: &Path| {
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("");
        UNFINISHED.contains(&extension)
    };
    let mut paths: Vec<PathBuf> = (fs::read_dir(dir).ok()?)
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| is_unfinished(path))
        .collect();
    paths.sort();
    Some(Error::Unfinished {
        dir: dir.to_owned(),
        file: paths.first()?.file_name()?.into(),
    })
}

/// A float32 tensor to be written.
pub(crate) struct NamedTensor<'a> {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Cow<'a, [f32]>,
}

/// Writes a safetensors file under a temporary name, syncs it and renames it into place.
///
/// # Errors
/// When the file cannot be written; what lay at `path` is then as it was.
pub(crate) fn write_tensors(
    path: &Path,
    tensors: &[NamedTensor<'_>],
    metadata: HashMap<String, String>,
) -> Result<(), Error> {
    let views = tensors.iter().map(|tensor| {
        let bytes = bytemuck::cast_slice(&tensor.values);
        let view = TensorView::new(Dtype::F32, tensor.shape.clone(), bytes)
            .expect("the shape is that of the values");
        (tensor.name.as_str(), view)
    });
    replace(path, |partial| {
        ::safetensors::serialize_to_file(views, Some(metadata), partial).map_err(
            |err| match err {
                ::safetensors::SafeTensorError::IoError(err) => io_error("write", partial)(err),
                err => Error::SafetensorsWrite {
                    path: partial.to_owned(),
                    err,
                },
            },
        )?;
        sort_header(partial).map_err(io_error("write", partial))
    })
}

/// Puts the names in a safetensors header in order, so that equal tensors make equal files: the
/// library leaves the annotations in the order of a hash table, which differs from process to
/// process.
fn sort_header(path: &Path) -> std::io::Result<()> {
    type Header = BTreeMap<String, BTreeMap<String, serde_json::Value>>;

    let file = File::options().read(true).write(true).open(path)?;
    let mut n_bytes = [0; 8];
    file.read_exact_at(&mut n_bytes, 0)?;
    let mut header = vec![0; u64::from_le_bytes(n_bytes) as usize];
    file.read_exact_at(&mut header, 8)?;
    let sorted = serde_json::from_slice::<Header>(&header)?;
    let mut sorted = serde_json::to_vec(&sorted)?;
    // What the tensors' places are counted from stays where it is.
    sorted.resize(header.len(), b' ');
    file.write_all_at(&sorted, 8)
}

/// Writes a text file under a temporary name, syncs it and renames it into place.
pub(crate) fn write_text(path: &Path, text: &str) -> Result<(), Error> {
    replace(path, |partial| {
        fs::write(partial, text).map_err(io_error("write", partial))
    })
}

fn replace(path: &Path, write: impl FnOnce(&Path) -> Result<(), Error>) -> Result<(), Error> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let written = write(&partial).and_then(|()| {
        let file = File::open(&partial).map_err(io_error("open", &partial))?;
        set_mode(&file).map_err(io_error("set the mode of", &partial))?;
        file.sync_all().map_err(io_error("sync", &partial))?;
        fs::rename(&partial, path).map_err(io_error("rename into place", path))
    });
    if written.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(&partial);
    }
    written
}

/// The writer of safetensors makes its files readable to their owner alone; a checkpoint is for
/// others to load as well.
#[cfg(unix)]
fn set_mode(file: &File) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn set_mode(_: &File) -> std::io::Result<()> {
    Ok(())
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), Error> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(io_error("sync", dir))
}

#[cfg(test)]
mod tests;
