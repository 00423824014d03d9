//! What can go wrong between a checkpoint's files and an optimizer update.

use std::io;
use std::path::PathBuf;

/// An error of this crate; each is one line that names the file, the key or the value.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {action} {path}")]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        err: io::Error,
    },
    #[error("{path} is not a model configuration: it is not valid JSON")]
    ConfigJson {
        path: PathBuf,
        #[source]
        err: serde_json::Error,
    },
    #[error("model configuration, `{key}`: {reason}")]
    Config { key: String, reason: String },
    #[error("{path} is not a configuration of OLMo that can be used: {reason}")]
    NativeConfig { path: PathBuf, reason: String },
    #[error(
        "no weights in {dir}: expected model.safetensors or pytorch_model.bin, shards of either \
         with their .index.json, or OLMo's config.yaml with model.safetensors or model.pt"
    )]
    NoWeights { dir: PathBuf },
    #[error("{dir} is still being written: it holds {}; try again when it is done", file.display())]
    Unfinished { dir: PathBuf, file: PathBuf },
    #[error(
        "{path} was written to, cut or replaced while it was read; try again when nobody writes to it"
    )]
    Changed { path: PathBuf },
    #[error("{path} is not a file")]
    NotAFile { path: PathBuf },
    #[error("{path} is not a shard index: {reason}")]
    ShardIndex { path: PathBuf, reason: String },
    #[error("shard {path} is missing; {index} names it")]
    MissingShard { path: PathBuf, index: PathBuf },
    #[error("{path} is not a safetensors file that can be read: {reason}")]
    Safetensors { path: PathBuf, reason: String },
    #[error("cannot write {path}")]
    SafetensorsWrite {
        path: PathBuf,
        #[source]
        err: safetensors::SafeTensorError,
    },
    #[error("{path} is not a PyTorch file that can be read: {reason}")]
    Torch { path: PathBuf, reason: String },
    #[error("tensor `{tensor}` is in {path}, and has been there before or in another file")]
    RepeatedTensor { path: PathBuf, tensor: String },
    #[error("tensor `{tensor}` is missing from {path}; the configuration calls for it")]
    MissingTensor { path: PathBuf, tensor: String },
    #[error(
        "tensor `{tensor}` in {path} has no place in the model that the configuration describes"
    )]
    UnexpectedTensor { path: PathBuf, tensor: String },
    #[error(
        "tensor `{tensor}` in {path} is not the embedding, but the configuration ties the two \
         (`tie_word_embeddings`)"
    )]
    Untied { path: PathBuf, tensor: String },
    #[error(
        "tensor `{tensor}` in {path} has shape {found:?}; the configuration calls for {expected:?}"
    )]
    Shape {
        path: PathBuf,
        tensor: String,
        found: Vec<usize>,
        expected: Vec<usize>,
    },
    #[error("tensor `{tensor}` in {path} has type {dtype}; floats of 16, 32 and 64 bits are read")]
    Dtype {
        path: PathBuf,
        tensor: String,
        dtype: &'static str,
    },
    #[error("{path}: {reason}")]
    State { path: PathBuf, reason: String },
    #[error("device `{name}`: use `cpu` or `cuda:N`")]
    UnknownDevice { name: String },
    #[error("device `cuda:{index}`: {reason}")]
    NoCuda { index: usize, reason: String },
    #[error("cannot start {threads} threads")]
    Threads {
        threads: usize,
        #[source]
        err: rayon::ThreadPoolBuildError,
    },
    #[error("optimizer, `{key}`: {reason}")]
    Optimizer { key: &'static str, reason: String },
    #[error("batch: {reason}")]
    Batch { reason: String },
    #[error("probe {probe}: {reason}")]
    Probe { probe: usize, reason: String },
    #[error("{place}: token id {token} is outside the model's vocabulary of {vocab_size} tokens")]
    Token {
        place: String,
        token: u32,
        vocab_size: usize,
    },
    #[error("the loss of update {update} is {loss_nats}; the parameters were left as they were")]
    NonFiniteLoss { update: u64, loss_nats: f64 },
    #[error(
        "the gradient norm of update {update} is {grad_norm}; the parameters were left as they were"
    )]
    NonFiniteGradient { update: u64, grad_norm: f64 },
}

/// Names the file an input or output error belongs to.
pub(crate) fn io_error(
    action: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(io::Error) -> Error {
    let path = path.into();
    move |err| Error::Io { action, path, err }
}
