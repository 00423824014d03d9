//! Tensors in and out of safetensors files, one at a time, as float32.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use crate::error::{Error, io_error};

pub(crate) const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The tensors of one or several safetensors files.
pub(crate) struct TensorFiles {
    /// What an error names when no one file is to blame.
    source: PathBuf,
    files: Vec<MappedFile>,
    /// Which file holds a tensor.
    place: BTreeMap<String, usize>,
}

struct MappedFile {
    path: PathBuf,
    bytes: Mmap,
}

impl MappedFile {
    fn open(path: PathBuf) -> Result<Self, Error> {
        let file = File::open(&path).map_err(io_error("open", &path))?;
        #[expect(
            unsafe_code,
            reason = "a mapped file must not be cut while it is read; checkpoints are written \
                      under another name and renamed, never changed in place"
        )]
        let bytes = unsafe { Mmap::map(&file) }.map_err(io_error("map", &path))?;
        Ok(Self { path, bytes })
    }

    fn tensors(&self) -> Result<SafeTensors<'_>, Error> {
        SafeTensors::deserialize(&self.bytes).map_err(|err| Error::Safetensors {
            path: self.path.clone(),
            err,
        })
    }
}

#[derive(Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

impl TensorFiles {
    /// The weights in a Hugging Face directory: one file, or the shards that an index names.
    ///
    /// # Errors
    /// When there are none, a shard is missing or is no safetensors file, or a shard and the
    /// index disagree.
    pub(crate) fn open_dir(dir: &Path) -> Result<Self, Error> {
        let single = dir.join(WEIGHTS);
        if single.exists() {
            return Self::open_file(single);
        }
        let index = dir.join(INDEX);
        if !index.exists() {
            return Err(Error::NoWeights {
                dir: dir.to_owned(),
            });
        }
        Self::open_shards(dir, index)
    }

    /// The tensors of one file.
    ///
    /// # Errors
    /// When it cannot be read or is no safetensors file.
    pub(crate) fn open_file(path: PathBuf) -> Result<Self, Error> {
        let file = MappedFile::open(path.clone())?;
        let place = (file.tensors()?.names().into_iter())
            .map(|name| (name.to_owned(), 0))
            .collect();
        Ok(Self {
            source: path,
            files: vec![file],
            place,
        })
    }

    fn open_shards(dir: &Path, index: PathBuf) -> Result<Self, Error> {
        let text = fs::read_to_string(&index).map_err(io_error("read", &index))?;
        let ShardIndex { weight_map } =
            serde_json::from_str(&text).map_err(|err| Error::ShardIndex {
                path: index.clone(),
                reason: err.to_string(),
            })?;
        let names: BTreeSet<&String> = weight_map.values().collect();
        let mut files = Vec::new();
        let mut file_of = HashMap::new();
        for name in names {
            if Path::new(name).components().count() != 1 {
                return Err(Error::ShardIndex {
                    path: index,
                    reason: format!("`{name}` is not the name of a file beside it"),
                });
            }
            let path = dir.join(name);
            if !path.exists() {
                return Err(Error::MissingShard { path, index });
            }
            file_of.insert(name.clone(), files.len());
            files.push(MappedFile::open(path)?);
        }
        // What the shards really hold: a tensor that only the index knows is missing, and one
        // that the index does not know is unexpected.
        let mut place = BTreeMap::new();
        for (i, file) in files.iter().enumerate() {
            for name in file.tensors()?.names() {
                place.insert(name.to_owned(), i);
            }
        }
        for (tensor, file) in &weight_map {
            let said = file_of[file];
            if place.get(tensor) != Some(&said) {
                return Err(Error::MissingTensor {
                    path: files[said].path.clone(),
                    tensor: tensor.clone(),
                });
            }
        }
        Ok(Self {
            source: index,
            files,
            place,
        })
    }

    /// Names of all tensors.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.place.keys().map(String::as_str)
    }

    /// The file that holds a tensor, or the one to blame for its absence.
    pub(crate) fn path_of(&self, tensor: &str) -> &Path {
        match self.place.get(tensor) {
            Some(&file) => &self.files[file].path,
            None => &self.source,
        }
    }

    /// The first file's own annotations.
    pub(crate) fn metadata(&self) -> Result<HashMap<String, String>, Error> {
        let file = &self.files[0];
        let (_, header) =
            SafeTensors::read_metadata(&file.bytes).map_err(|err| Error::Safetensors {
                path: file.path.clone(),
                err,
            })?;
        Ok(header.metadata().clone().unwrap_or_default())
    }

    /// Copies a tensor of the given shape into `out`, cast to float32.
    ///
    /// # Errors
    /// When it is missing, or has another shape or a type that is not read.
    pub(crate) fn read(&self, tensor: &str, shape: &[usize], out: &mut [f32]) -> Result<(), Error> {
        let Some(&file) = self.place.get(tensor) else {
            return Err(Error::MissingTensor {
                path: self.source.clone(),
                tensor: tensor.to_owned(),
            });
        };
        let file = &self.files[file];
        let tensors = file.tensors()?;
        let view = tensors.tensor(tensor).map_err(|err| Error::Safetensors {
            path: file.path.clone(),
            err,
        })?;
        if view.shape() != shape {
            return Err(Error::Shape {
                path: file.path.clone(),
                tensor: tensor.to_owned(),
                found: view.shape().to_vec(),
                expected: shape.to_vec(),
            });
        }
        let bytes = view.data();
        match view.dtype() {
            Dtype::F32 => widen(bytes, out, f32::from_le_bytes),
            Dtype::BF16 => widen(bytes, out, |le| bf16::from_le_bytes(le).to_f32()),
            Dtype::F16 => widen(bytes, out, |le| f16::from_le_bytes(le).to_f32()),
            other => {
                return Err(Error::Dtype {
                    path: file.path.clone(),
                    tensor: tensor.to_owned(),
                    dtype: format!("{other:?}"),
                });
            }
        }
        Ok(())
    }
}

fn widen<const N: usize>(bytes: &[u8], out: &mut [f32], read: impl Fn([u8; N]) -> f32) {
    let (values, rest) = bytes.as_chunks::<N>();
    assert!(
        rest.is_empty() && values.len() == out.len(),
        "the shape was checked"
    );
    for (out, &value) in out.iter_mut().zip(values) {
        *out = read(value);
    }
}

/// A float32 matrix to be written.
pub(crate) struct NamedMatrix<'a> {
    pub(crate) name: String,
    pub(crate) rows: usize,
    pub(crate) values: &'a [f32],
}

/// Writes a safetensors file under a temporary name, syncs it and renames it into place.
///
/// # Errors
/// When the file cannot be written; what lay at `path` is then as it was.
pub(crate) fn write_matrices(
    path: &Path,
    matrices: &[NamedMatrix<'_>],
    metadata: HashMap<String, String>,
) -> Result<(), Error> {
    let views = matrices.iter().map(|matrix| {
        let shape = vec![matrix.rows, matrix.values.len() / matrix.rows];
        let bytes = bytemuck::cast_slice(matrix.values);
        let view = TensorView::new(Dtype::F32, shape, bytes).expect("rows divide the values");
        (matrix.name.as_str(), view)
    });
    replace(path, |partial| {
        safetensors::serialize_to_file(views, Some(metadata), partial).map_err(|err| match err {
            safetensors::SafeTensorError::IoError(err) => io_error("write", partial)(err),
            err => Error::Safetensors {
                path: partial.to_owned(),
                err,
            },
        })
    })
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
