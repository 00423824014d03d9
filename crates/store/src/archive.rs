//! A run as a directory of Parquet files: put away, dropped, and brought back bit for bit.
//!
//! ```text
//! <dir>/manifest.json     what run it is, and of each table its columns, rows and hashes
//! <dir>/<table>.parquet   the run's rows of that table, in the order of its key
//! ```
//!
//! Which tables belong to a run is read from the database's catalog (those with a `run_id`, and its
//! probes and experiments), so that a table of a later migration is not forgotten.
//! Derived tables are left out and made again.

mod dropping;
mod file;
mod restoring;
mod rows;
mod table;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use sqlx::{Connection as _, PgConnection};

pub use dropping::{Dropped, Sure, drop_run};
pub use restoring::{Restored, restore};

use self::file::{TableWriter, corrupt, hex};
use self::table::Column;
use crate::runs::RunState;
use crate::{Error, Store};

const FORMAT: &str = "imprint-run-archive";

/// Of the directory's layout; tables and columns are matched by name.
const VERSION: u32 = 1;

const MANIFEST: &str = "manifest.json";

/// Numbers that a database gives out by itself, and what goes with one: a restored run may get others.
const NUMBERS: [&str; 5] = [
    "run_id",
    "probe_set_id",
    "experiment_id",
    "parent_run_id",
    "parent_step",
];

/// What an archive holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    format: String,
    version: u32,
    pub run: RunName,
    /// The newest migration of the database that it is from.
    pub schema_version: i64,
    pub tables: Vec<TableManifest>,
}

/// Which run it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunName {
    /// The identity: SHA-256 of the canonical configuration.
    pub hash: String,
    pub label: String,
    /// Its number in the database that it is from.
    pub run_id: i32,
}

/// The rows of one table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableManifest {
    pub name: String,
    pub columns: Vec<ColumnManifest>,
    pub n_rows: u64,
    /// Over every row, but for the numbers that a database gives out by itself.
    pub rows_sha256: String,
    pub file_bytes: u64,
    pub file_sha256: String,
}

/// A column as Postgres calls it and its type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnManifest {
    pub name: String,
    pub sql_type: String,
}

impl Manifest {
    /// The manifest of an archive.
    ///
    /// # Errors
    /// When there is none in `dir`, or it is of a later version.
    pub fn read(dir: &Path) -> Result<Self, Error> {
        let path = dir.join(MANIFEST);
        let text = fs::read(&path).map_err(Error::file("read", &path))?;
        let manifest: Self =
            serde_json::from_slice(&text).map_err(|e| corrupt(&path, e.to_string()))?;
        if manifest.format != FORMAT || manifest.version != VERSION {
            return Err(corrupt(&path, "not an archive that this version reads"));
        }
        Ok(manifest)
    }

    /// Fails unless every file is as it was written.
    fn check_files(&self, dir: &Path) -> Result<(), Error> {
        for table in &self.tables {
            let path = table_path(dir, &table.name)?;
            let has = file::hash(&path)?;
            if has.n_bytes != table.file_bytes || has.sha256 != table.file_sha256 {
                return Err(corrupt(&path, "its hash is not that of the manifest"));
            }
        }
        Ok(())
    }

    fn table(&self, name: &str) -> Option<&TableManifest> {
        self.tables.iter().find(|t| t.name == name)
    }
}

/// Where a table's rows are; its name comes from a file.
fn table_path(dir: &Path, name: &str) -> Result<PathBuf, Error> {
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Err(corrupt(dir, format!("`{name}` is no table")));
    }
    Ok(dir.join(format!("{name}.parquet")))
}

/// Writes all that is stored of a run that has ended to the directory `dir`, which must not be there.
///
/// It is as of one moment, and nobody waits for it.
/// The directory is there whole or not at all; memory is bounded.
///
/// # Errors
/// [`Error::NotFound`] for an unknown run; [`Error::Invalid`] when it has not ended or the directory
/// is there.
pub async fn archive(store: &Store, run_id: i32, dir: &Path) -> Result<Manifest, Error> {
    let doing = || Error::doing(format!("archive run {run_id}"));
    let unfinished = Unfinished::begin(dir)?;
    let mut connection = store.pool().acquire().await.map_err(doing())?;
    let mut tx = connection
        .begin_with("begin isolation level repeatable read read only")
        .await
        .map_err(doing())?;
    let run = run_name(&mut tx, run_id, "archived").await?;
    let schema_version: i64 =
        sqlx::query_scalar("select coalesce(max(version), 0) from public._sqlx_migrations")
            .fetch_one(&mut *tx)
            .await
            .map_err(doing())?;
    let mut tables = Vec::new();
    for table in table::of_runs(&mut tx).await? {
        let path = table_path(&unfinished.path, &table.name)?;
        let mut writer = TableWriter::create(&path, &table.columns)?;
        let mut digest = RowDigest::new(&table.columns);
        table
            .each_row(&mut tx, run_id, |row| {
                digest.update(row);
                writer.push(row)
            })
            .await?;
        let written = writer.finish()?;
        let (n_rows, rows_sha256) = digest.finish();
        tables.push(TableManifest {
            columns: table.columns.iter().map(ColumnManifest::from).collect(),
            name: table.name,
            n_rows,
            rows_sha256,
            file_bytes: written.n_bytes,
            file_sha256: written.sha256,
        });
    }
    let manifest = Manifest {
        format: FORMAT.to_owned(),
        version: VERSION,
        run,
        schema_version,
        tables,
    };
    unfinished.finish(&manifest)?;
    Ok(manifest)
}

/// Which run it is, if it has ended; `done` is what would be done to it.
async fn run_name(db: &mut PgConnection, run_id: i32, done: &str) -> Result<RunName, Error> {
    let row: Option<(String, String, RunState)> =
        sqlx::query_as("select hash, label, state from imprint.run where run_id = $1")
            .bind(run_id)
            .fetch_optional(db)
            .await
            .map_err(Error::doing(format!("look run {run_id} up")))?;
    let Some((hash, label, state)) = row else {
        return Err(Error::NotFound {
            what: format!("run {run_id}"),
        });
    };
    if !state.has_ended() {
        return Err(Error::Invalid {
            field: "run",
            problem: format!(
                "{label} is {}; it can be {done} once it has ended (`imprint cancel` ends it)",
                state.as_str()
            ),
        });
    }
    Ok(RunName {
        hash,
        label,
        run_id,
    })
}

/// A hash over rows, whichever numbers a database gave them.
struct RowDigest {
    counts: Vec<bool>,
    n_rows: u64,
    sha256: Sha256,
}

impl RowDigest {
    fn new(columns: &[Column]) -> Self {
        Self {
            counts: columns.iter().map(|c| !c.is_number()).collect(),
            n_rows: 0,
            sha256: Sha256::new(),
        }
    }

    fn update(&mut self, row: &[Option<&[u8]>]) {
        self.n_rows += 1;
        for (field, _) in row.iter().zip(&self.counts).filter(|(_, counts)| **counts) {
            let length = field.map_or(-1, |f| f.len() as i64);
            self.sha256.update(length.to_be_bytes());
            self.sha256.update(field.unwrap_or_default());
        }
    }

    /// The number of rows and their hash.
    fn finish(self) -> (u64, String) {
        (self.n_rows, hex(&self.sha256.finalize()))
    }
}

/// An archive that is being written, beside its place; dropping it removes it.
struct Unfinished {
    dir: PathBuf,
    path: PathBuf,
    finished: bool,
    /// Tells a directory at work from one whose process was killed.
    _lock: File,
}

impl Unfinished {
    fn begin(dir: &Path) -> Result<Self, Error> {
        let taken = |problem: &str| Error::Invalid {
            field: "out",
            problem: format!("{} {problem}", dir.display()),
        };
        if dir.exists() {
            return Err(taken("is there already"));
        }
        let Some(name) = dir.file_name() else {
            return Err(taken("is no name for a directory"));
        };
        let mut partial = name.to_owned();
        partial.push(".partial");
        let path = dir.with_file_name(partial);
        fs::create_dir_all(&path).map_err(Error::file("make the directory", &path))?;
        let manifest = path.join(MANIFEST);
        // Not emptied: another process may be about to finish it.
        let lock = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&manifest)
            .map_err(Error::file("create", &manifest))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                return Err(taken("is being written by another process"));
            }
            Err(fs::TryLockError::Error(source)) => {
                return Err(Error::file("lock", &manifest)(source));
            }
        }
        let begun = Self {
            dir: dir.to_owned(),
            path,
            finished: false,
            _lock: lock,
        };
        // What a killed process left.
        let entries = fs::read_dir(&begun.path).map_err(Error::file("read", &begun.path))?;
        for entry in entries {
            let path = entry.map_err(Error::file("read", &begun.path))?.path();
            if path != manifest {
                fs::remove_file(&path).map_err(Error::file("remove", &path))?;
            }
        }
        Ok(begun)
    }

    fn finish(mut self, manifest: &Manifest) -> Result<(), Error> {
        let path = self.path.join(MANIFEST);
        let text = serde_json::to_string_pretty(manifest).expect("a manifest is plain data");
        fs::write(&path, text + "\n")
            .and_then(|()| File::open(&path)?.sync_all())
            .map_err(Error::file("write", &path))?;
        file::sync_dir(&self.path)?;
        fs::rename(&self.path, &self.dir).map_err(Error::file("name the archive", &self.dir))?;
        self.finished = true;
        file::sync_dir(self.dir.parent().unwrap_or(Path::new("")))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.finished {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}
