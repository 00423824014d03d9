//! Where the server's programs are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Error;

/// The oldest version that the schema works on.
const MIN_VERSION: u32 = 15;

/// The directory of `initdb`, `pg_ctl` and `postgres` of one version.
#[derive(Clone, Debug)]
pub(super) struct Programs {
    dir: PathBuf,
}

impl Programs {
    /// The programs that fit the cluster in `data`, or the first ones found where there is none.
    ///
    /// Looks at `IMPRINT_PG_BIN`, then along `PATH`, then where Debian puts them, newest first.
    pub(super) fn find(data: &Path) -> Result<Self, Error> {
        let made_by: Option<u32> = fs::read_to_string(data.join("PG_VERSION"))
            .ok()
            .and_then(|v| v.trim().parse().ok());
        let fits = |version: u32| made_by.map_or(version >= MIN_VERSION, |made| made == version);
        candidates()
            .into_iter()
            .find(|dir| version(dir).is_some_and(fits))
            .map(|dir| Self { dir })
            .ok_or_else(|| match made_by {
                Some(version) => Error::NoProgramsOfVersion {
                    dir: data.to_owned(),
                    version,
                },
                None => Error::NoPrograms,
            })
    }

    pub(super) fn path(&self, program: &str) -> PathBuf {
        self.dir.join(program)
    }
}

fn candidates() -> Vec<PathBuf> {
    if let Some(dir) = std::env::var_os("IMPRINT_PG_BIN") {
        return vec![dir.into()];
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    // A link in PATH may point to one program only; its neighbours are where it points to.
    let on_path = std::env::split_paths(&path)
        .filter_map(|dir| fs::canonicalize(dir.join("postgres")).ok())
        .filter_map(|program| program.parent().map(Path::to_owned));
    let mut packaged: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .collect();
    packaged.sort_unstable();
    on_path
        .chain(packaged.into_iter().rev().map(|(_, dir)| dir))
        .collect()
}

/// The major version of the programs in `dir`, where all of them are there.
fn version(dir: &Path) -> Option<u32> {
    if !["initdb", "pg_ctl"].iter().all(|p| dir.join(p).is_file()) {
        return None;
    }
    // `postgres (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)`
    let said = Command::new(dir.join("postgres"))
        .arg("--version")
        .output()
        .ok()?
        .stdout;
    let said = String::from_utf8(said).ok()?;
    let number = said
        .split_whitespace()
        .find(|w| w.starts_with(|c: char| c.is_ascii_digit()))?;
    number
        .split(|c: char| !c.is_ascii_digit())
        .next()?
        .parse()
        .ok()
}
