//! `imprint-trainer convert`: a checkpoint of any format as a Hugging Face directory.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use imprint_lm::{Learner, LearnerOptions};

/// Writes beside `out` and renames, so that a directory of that name is complete.
pub(crate) fn run(checkpoint: &Path, out: &Path) -> anyhow::Result<()> {
    anyhow::ensure!(
        !out.exists(),
        "{} exists already; give a directory that does not",
        out.display()
    );
    let learner = Learner::load_checkpoint(checkpoint, &LearnerOptions::default())?;
    let mut partial = out.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let written = learner
        .save_hugging_face(&partial)
        .map_err(anyhow::Error::from);
    let renamed = written.and_then(|()| {
        std::fs::rename(&partial, out)
            .with_context(|| format!("rename {} into place", partial.display()))
    });
    if renamed.is_err() {
        // The first error is the one to report.
        let _ = std::fs::remove_dir_all(&partial);
    }
    renamed
}
