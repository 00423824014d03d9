use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("a world with these numbers cannot be: `{field}`: {problem}")]
    Config {
        field: &'static str,
        problem: String,
    },
    #[error("cannot write {path}")]
    Write {
        path: PathBuf,
        #[source]
        err: io::Error,
    },
    #[error("cannot write the facts")]
    Facts(#[source] imprint_data::Error),
}
