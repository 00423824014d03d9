//! Bringing a run back from its archive.

use std::collections::BTreeMap;
use std::path::Path;

use sqlx::PgConnection;

use super::file::{TableReader, corrupt};
use super::rows::{COPY_HEADER, COPY_TRAILER, ColumnRows, Cursor, Values};
use super::table::{Column, Table};
use super::{Manifest, RowDigest, RunName, TableManifest, table, table_path};
use crate::{Error, Store, derived};

/// Rows are sent once they take so much memory.
const PIECE_BYTES: usize = 1 << 20;

/// What is back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// With its number in this database, which may be another than it had.
    pub run: RunName,
    pub n_rows: u64,
    /// Readings from which the derived tables were made again.
    pub n_readings: u32,
}

/// Numbers of the archive's database and those of this one.
#[derive(Debug, Default)]
struct Numbers {
    /// By column, then by the archive's number.
    new: BTreeMap<&'static str, BTreeMap<i32, Option<i32>>>,
}

impl Numbers {
    fn map(&mut self, column: &'static str, old: i32, new: Option<i32>) {
        self.new.entry(column).or_default().insert(old, new);
    }

    /// The number to store; `Err` for one that the archive does not explain.
    fn of(&self, column: &str, old: i32) -> Result<Option<i32>, String> {
        let known = self.new.get(column).and_then(|numbers| numbers.get(&old));
        match (known, column) {
            (Some(new), _) => Ok(*new),
            // A parent that is not here: restoring it brings the reference back.
            (None, "parent_run_id" | "parent_step") => Ok(None),
            (None, _) => Err(format!("{column} {old} is in no other table")),
        }
    }
}

/// Brings an archived run back, under the same identity and label, and rebuilds what is derived.
///
/// Every file is hashed first, and every row as it goes in: what is committed is what was archived.
/// The run keeps its number where this database has given it out and does not use it; else it gets a
/// new one. Probes and experiments that are here are shared.
/// All in one transaction, so that it is there whole or not at all.
///
/// # Errors
/// [`Error::Invalid`] when the run, or its label, is here already; [`Error::Corrupt`] when the archive
/// is not what its manifest says, or has what this schema does not know.
pub async fn restore(store: &Store, dir: &Path) -> Result<Restored, Error> {
    let manifest = Manifest::read(dir)?;
    manifest.check_files(dir)?;
    let doing = || Error::doing(format!("restore run {}", manifest.run.label));
    let mut tx = store.pool().begin().await.map_err(doing())?;
    sqlx::raw_sql("select pg_advisory_xact_lock(hashtext('imprint.submit'))")
        .execute(&mut *tx)
        .await
        .map_err(doing())?;
    refuse_if_here(&mut tx, dir, &manifest).await?;
    let tables = table::of_runs(&mut tx).await?;
    if let Some(unknown) =
        (manifest.tables.iter()).find(|t| !tables.iter().any(|table| table.name == t.name))
    {
        let problem = format!(
            "this schema has no table {}; bring it up to date",
            unknown.name
        );
        return Err(corrupt(dir, problem));
    }
    let run_id = choose_run_id(&mut tx, manifest.run.run_id)
        .await
        .map_err(doing())?;
    // Not in this transaction: nobody else's partition shall wait for it.
    sqlx::query("select imprint.ensure_partitions($1)")
        .bind(run_id)
        .execute(store.pool())
        .await
        .map_err(doing())?;
    let mut numbers = Numbers::default();
    numbers.map("run_id", manifest.run.run_id, Some(run_id));
    find_parent(&mut tx, dir, &manifest, &mut numbers).await?;

    let mut n_rows = 0;
    for table in &tables {
        let Some(archived) = manifest.table(&table.name) else {
            continue;
        };
        let rows = Rows {
            dir,
            table,
            archived,
            numbers: &mut numbers,
        };
        n_rows += rows.copy_in(&mut tx).await?;
    }
    relink_children(&mut tx, run_id, &manifest.run.hash)
        .await
        .map_err(doing())?;
    let n_readings = derived::rebuild_in(&mut tx, run_id).await?;
    tx.commit().await.map_err(doing())?;
    Ok(Restored {
        run: RunName {
            run_id,
            ..manifest.run
        },
        n_rows,
        n_readings,
    })
}

async fn refuse_if_here(
    db: &mut PgConnection,
    dir: &Path,
    manifest: &Manifest,
) -> Result<(), Error> {
    let mut labels = vec![manifest.run.label.clone()];
    let archived = manifest.table("experiment_run");
    labels.extend(texts(dir, archived, "label")?);
    let taken: Option<(bool, String)> = sqlx::query_as(
        "select r.hash = $1, coalesce(e.label, r.label)
         from imprint.run r left join imprint.experiment_run e using (run_id)
         where r.hash = $1 or r.label = any ($2) or e.label = any ($2) order by 1 desc limit 1",
    )
    .bind(&manifest.run.hash)
    .bind(&labels)
    .fetch_optional(db)
    .await
    .map_err(Error::doing("look up whether the run is here"))?;
    let problem = match taken {
        None => return Ok(()),
        Some((true, label)) => format!("the run is here already, as {label}"),
        Some((false, label)) => format!("there is another run of the name {label} here"),
    };
    Err(Error::Invalid {
        field: "archive",
        problem,
    })
}

/// The archived number where it can be had without ever being given out again, else a new one.
async fn choose_run_id(db: &mut PgConnection, archived: i32) -> Result<i32, sqlx::Error> {
    sqlx::query_scalar(
        "select case
             when $1 <= coalesce(pg_sequence_last_value(s), 0)
                 and not exists (select from imprint.run where run_id = $1) then $1
             else nextval(s)::int4 end
         from (select pg_get_serial_sequence('imprint.run', 'run_id')::regclass) as t (s)",
    )
    .bind(archived)
    .fetch_one(db)
    .await
}

/// The run that the archived one starts from, if it is here.
async fn find_parent(
    db: &mut PgConnection,
    dir: &Path,
    manifest: &Manifest,
    numbers: &mut Numbers,
) -> Result<(), Error> {
    let specs = texts(dir, manifest.table("run"), "spec")?;
    let old = integers(dir, manifest.table("run"), "parent_run_id")?;
    let step = integers(dir, manifest.table("run"), "parent_step")?;
    let (Some(spec), Some(Some(old)), Some(Some(step))) =
        (specs.first(), old.first(), step.first())
    else {
        return Ok(());
    };
    let new: Option<i32> = sqlx::query_scalar(
        "select run_id from imprint.run where hash = $1::jsonb #>> '{identity,checkpoint,run}'",
    )
    .bind(spec)
    .fetch_optional(db)
    .await
    .map_err(Error::doing("look up the run that it starts from"))?;
    numbers.map("parent_run_id", *old, new);
    numbers.map("parent_step", *step, new.map(|_| *step));
    Ok(())
}

/// Runs that start from a restored run refer to it again.
async fn relink_children(
    db: &mut PgConnection,
    run_id: i32,
    hash: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update imprint.run set parent_run_id = $1,
             parent_step = (spec #>> '{identity,checkpoint,step}')::int4
         where parent_run_id is null and spec #>> '{identity,checkpoint,run}' = $2",
    )
    .bind(run_id)
    .bind(hash)
    .execute(db)
    .await
    .map(drop)
}

/// An archived table on its way in.
struct Rows<'a> {
    dir: &'a Path,
    table: &'a Table,
    archived: &'a TableManifest,
    numbers: &'a mut Numbers,
}

impl Rows<'_> {
    /// Stores what is not shared with runs that are here; returns how many rows went in.
    async fn copy_in(mut self, db: &mut PgConnection) -> Result<u64, Error> {
        let doing = || Error::doing(format!("restore {}", self.table.name));
        let path = table_path(self.dir, &self.archived.name)?;
        let columns = columns(self.archived)?;
        for column in &columns {
            if !self.table.columns.contains(column) {
                let problem = format!(
                    "this schema's {} has no column {} of type {}",
                    self.table.name, column.name, column.sql_type
                );
                return Err(corrupt(self.dir, problem));
            }
        }
        let here = match self.table.name.as_str() {
            "probe_set" => self.share(db, "probe_set_id", "sha256").await?,
            "experiment" => self.share(db, "experiment_id", "name").await?,
            _ => Vec::new(),
        };
        // A set that is here has its probes.
        let skip_all = self.table.name == "probe" && self.probe_set_is_here(db).await?;

        let mut digest = RowDigest::new(&columns);
        let mut sink = db
            .copy_in_raw(&format!(
                "copy imprint.{} ({}) from stdin (format binary)",
                self.table.name,
                Table::column_list(&columns)
            ))
            .await
            .map_err(doing())?;
        let (mut piece, mut row, mut n_in) = (COPY_HEADER.to_vec(), Vec::new(), 0);
        let mut reader = TableReader::open(&path, &columns)?;
        let unreadable = |problem| corrupt(&path, problem);
        while let Some((group, n_rows)) = reader.next_group()? {
            let mut at = vec![Cursor::default(); group.len()];
            for _ in 0..n_rows {
                row.clear();
                row.extend_from_slice(&(columns.len() as i16).to_be_bytes());
                let mut ends = Vec::with_capacity(columns.len());
                let mut is_here = skip_all;
                for ((column, rows), at) in columns.iter().zip(&group).zip(&mut at) {
                    let start = row.len();
                    rows.put(at, &mut row).map_err(unreadable)?;
                    if column.is_number() {
                        is_here |= self
                            .renumber(column, &mut row, start, &here)
                            .map_err(unreadable)?;
                    }
                    ends.push((start, row.len()));
                }
                let fields: Vec<Option<&[u8]>> = (ends.iter())
                    .map(|&(start, end)| {
                        let (length, field) = row[start..end].split_at(4);
                        (length != (-1_i32).to_be_bytes()).then_some(field)
                    })
                    .collect();
                digest.update(&fields);
                if !is_here {
                    n_in += 1;
                    piece.extend_from_slice(&row);
                }
            }
            if piece.len() >= PIECE_BYTES {
                sink.send(std::mem::take(&mut piece))
                    .await
                    .map_err(doing())?;
            }
        }
        piece.extend_from_slice(&COPY_TRAILER);
        sink.send(piece).await.map_err(doing())?;
        sink.finish().await.map_err(doing())?;
        let (n_rows, rows_sha256) = digest.finish();
        if n_rows != self.archived.n_rows || rows_sha256 != self.archived.rows_sha256 {
            return Err(corrupt(&path, "its rows are not those of the manifest"));
        }
        Ok(n_in)
    }

    /// Puts this database's number in the place of the archive's; whether the row is here already.
    fn renumber(
        &self,
        column: &Column,
        row: &mut Vec<u8>,
        start: usize,
        here: &[i32],
    ) -> Result<bool, String> {
        let Ok(old) = <[u8; 4]>::try_from(&row[start + 4..]) else {
            return match row.len() == start + 4 {
                true => Ok(false), // null
                false => Err(format!("{} is no number", column.name)),
            };
        };
        let old = i32::from_be_bytes(old);
        let new = self.numbers.of(&column.name, old)?;
        row.truncate(start);
        match new {
            Some(new) => {
                row.extend_from_slice(&4_i32.to_be_bytes());
                row.extend_from_slice(&new.to_be_bytes());
            }
            None => row.extend_from_slice(&(-1_i32).to_be_bytes()),
        }
        Ok(here.contains(&old))
    }

    /// Numbers the rows of a shared table: those of this database where it has them, by `name`, new
    /// ones else. Returns the archive's numbers of those that are here.
    async fn share(
        &mut self,
        db: &mut PgConnection,
        number: &'static str,
        name: &str,
    ) -> Result<Vec<i32>, Error> {
        let doing = || Error::doing(format!("look up what is here of {}", self.table.name));
        let old = integers(self.dir, Some(self.archived), number)?;
        let names = texts(self.dir, Some(self.archived), name)?;
        let mut here = Vec::new();
        for (old, value) in old.into_iter().flatten().zip(names) {
            let find = format!(
                "select {number} from imprint.{} where {name} = $1",
                self.table.name
            );
            let known: Option<i32> = sqlx::query_scalar(sqlx::AssertSqlSafe(find))
                .bind(value)
                .fetch_optional(&mut *db)
                .await
                .map_err(doing())?;
            let new = match known {
                Some(known) => {
                    here.push(old);
                    known
                }
                None => sqlx::query_scalar(
                    "select nextval(pg_get_serial_sequence('imprint.' || $1, $2))::int4",
                )
                .bind(&self.table.name)
                .bind(number)
                .fetch_one(&mut *db)
                .await
                .map_err(doing())?,
            };
            self.numbers.map(number, old, Some(new));
        }
        Ok(here)
    }

    async fn probe_set_is_here(&self, db: &mut PgConnection) -> Result<bool, Error> {
        let sets: Vec<Option<i32>> = (self.numbers.new.get("probe_set_id").into_iter())
            .flat_map(|numbers| numbers.values().copied())
            .collect();
        sqlx::query_scalar(
            "select exists (select from imprint.probe where probe_set_id = any ($1))",
        )
        .bind(sets)
        .fetch_one(db)
        .await
        .map_err(Error::doing("look up whether the probes are here"))
    }
}

fn columns(archived: &TableManifest) -> Result<Vec<Column>, Error> {
    archived.columns.iter().map(Column::try_from).collect()
}

/// One column of an archived table.
fn column(
    dir: &Path,
    archived: Option<&TableManifest>,
    name: &str,
) -> Result<Vec<ColumnRows>, Error> {
    let missing = |what: &str| corrupt(dir, format!("it has no {what}"));
    let archived = archived.ok_or_else(|| missing(&format!("table with a column {name}")))?;
    let columns = columns(archived)?;
    let position = columns.iter().position(|c| c.name == name);
    let position =
        position.ok_or_else(|| missing(&format!("column {name} in {}", archived.name)))?;
    let path = table_path(dir, &archived.name)?;
    let mut reader = TableReader::open(&path, &columns)?;
    let mut groups = Vec::new();
    while let Some((mut group, _)) = reader.next_group()? {
        groups.push(group.swap_remove(position));
    }
    Ok(groups)
}

fn texts(dir: &Path, archived: Option<&TableManifest>, name: &str) -> Result<Vec<String>, Error> {
    let mut texts = Vec::new();
    for group in column(dir, archived, name)? {
        let Values::Bytes(values) = &group.values else {
            return Err(corrupt(dir, format!("{name} is no text")));
        };
        for value in values {
            let text = std::str::from_utf8(value.data());
            texts.push(text.map_err(|e| corrupt(dir, e.to_string()))?.to_owned());
        }
    }
    Ok(texts)
}

fn integers(
    dir: &Path,
    archived: Option<&TableManifest>,
    name: &str,
) -> Result<Vec<Option<i32>>, Error> {
    let mut integers = Vec::new();
    for group in column(dir, archived, name)? {
        let Values::Int32(values) = &group.values else {
            return Err(corrupt(dir, format!("{name} is no integer")));
        };
        let mut values = values.iter();
        for definition in &group.definitions {
            integers.push(match definition {
                0 => None,
                _ => values.next().copied(),
            });
        }
    }
    Ok(integers)
}
