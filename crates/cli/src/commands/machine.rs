//! What is on this machine.

use std::env;
use std::path::PathBuf;

use crate::failure::Failure;

const TRAINER: &str = "imprint-trainer";

/// A program along `PATH`.
pub(super) fn on_path(program: &str) -> Option<PathBuf> {
    let searched = env::var_os("PATH")?;
    env::split_paths(&searched)
        .map(|dir| dir.join(program))
        .find(|path| path.is_file())
}

/// The trainer: the one named, else the one beside this program, else the one along `PATH`.
///
/// # Errors
/// When there is none.
pub(super) fn trainer(named: Option<PathBuf>) -> Result<PathBuf, Failure> {
    if let Some(path) = named {
        return if path.is_file() {
            std::path::absolute(&path).map_err(Failure::doing(path.display()))
        } else {
            Err(Failure::bad_input(format!(
                "--trainer {}: no such file",
                path.display()
            )))
        };
    }
    let beside = env::current_exe()
        .ok()
        .map(|own| own.with_file_name(TRAINER));
    beside
        .clone()
        .filter(|path| path.is_file())
        .or_else(|| on_path(TRAINER))
        .ok_or_else(|| {
            Failure::bad_input(format!(
                "{TRAINER} is neither {} nor on PATH; build it (`cargo build --release -p \
                 {TRAINER}`) or name it with --trainer",
                beside.unwrap_or_default().display()
            ))
        })
}
