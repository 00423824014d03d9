//! Removing a run from the database.

use std::path::Path;

use sqlx::PgConnection;

use super::table::{SHARED, Table};
use super::{Manifest, RowDigest, RunName, corrupt, run_name, table};
use crate::{Error, Store};

/// Why a run may go.
#[derive(Clone, Copy, Debug)]
pub enum Sure<'a> {
    /// Because this archive holds all of it, which is looked at first.
    Archived(&'a Path),
    /// Because it was said so: what is not archived is lost.
    Yes,
}

/// What is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    pub run: RunName,
    /// Of all tables, derived ones too.
    pub n_rows: u64,
    /// Labels of runs that start from it and no longer refer to it.
    pub detached: Vec<String>,
}

/// Removes a run that has ended, with everything of it; the database then has never heard of it.
///
/// Probes that no other run reads and experiments that have no other run go with it.
/// With `detach`, runs that start from it stay and refer to nothing until it is restored.
/// All in one transaction; nobody waits but who asks for this very run, or submits.
///
/// # Errors
/// [`Error::Invalid`] when the run has not ended, or others start from it and `detach` is not given
/// or they have not ended; [`Error::Corrupt`] when the archive is not whole or not of what is stored.
pub async fn drop_run(
    store: &Store,
    run_id: i32,
    sure: Sure<'_>,
    detach: bool,
) -> Result<Dropped, Error> {
    let doing = || Error::doing(format!("drop run {run_id}"));
    // Before anybody has to wait for it.
    let archived = match sure {
        Sure::Archived(dir) => {
            let manifest = Manifest::read(dir)?;
            manifest.check_files(dir)?;
            Some((manifest, dir))
        }
        _ => None,
    };
    let mut tx = store.pool().begin().await.map_err(doing())?;
    // A submission would look for the run, its probes or its experiment.
    sqlx::raw_sql("select pg_advisory_xact_lock(hashtext('imprint.submit'))")
        .execute(&mut *tx)
        .await
        .map_err(doing())?;
    // Then as ingest locks: who still writes finds no head afterwards.
    for lock in [
        "select from imprint.run where run_id = $1 for update",
        "select from imprint.ingest_head where run_id = $1 for update",
    ] {
        sqlx::query(lock)
            .bind(run_id)
            .execute(&mut *tx)
            .await
            .map_err(doing())?;
    }
    let run = run_name(&mut tx, run_id, "dropped").await?;
    let tables = table::of_runs(&mut tx).await?;
    if let Some((manifest, dir)) = archived {
        compare(&mut tx, &tables, &run, &manifest, dir).await?;
    }
    let detached = detach_children(&mut tx, &run, detach).await?;

    let mut n_rows = 0;
    let mut gone = |done: sqlx::postgres::PgQueryResult| n_rows += done.rows_affected();
    let derived = super::table::DERIVED.iter().copied();
    // Those that refer to others first.
    let own = tables.iter().rev().map(|t| t.name.as_str());
    for name in derived.chain(own.filter(|name| !SHARED.contains(name) && *name != "run")) {
        let statement = format!("delete from imprint.{name} where run_id = {run_id}");
        let done = sqlx::query(sqlx::AssertSqlSafe(statement))
            .execute(&mut *tx)
            .await
            .map_err(doing())?;
        gone(done);
    }
    for statement in [
        "with gone as (delete from imprint.run where run_id = $1 returning probe_set_id)
         delete from imprint.probe_set p using gone
         where p.probe_set_id = gone.probe_set_id and not exists (
             select from imprint.run r where r.probe_set_id = p.probe_set_id and r.run_id <> $1)",
        "delete from imprint.experiment x where not exists (
             select from imprint.experiment_run e where e.experiment_id = x.experiment_id)
             and $1 = $1",
    ] {
        let done = sqlx::query(statement)
            .bind(run_id)
            .execute(&mut *tx)
            .await
            .map_err(doing())?;
        gone(done);
    }
    tx.commit().await.map_err(doing())?;
    Ok(Dropped {
        run,
        n_rows,
        detached,
    })
}

/// Fails unless an archive, whose files are whole, holds exactly what is stored of a run.
async fn compare(
    db: &mut PgConnection,
    tables: &[Table],
    run: &RunName,
    manifest: &Manifest,
    dir: &Path,
) -> Result<(), Error> {
    if manifest.run.hash != run.hash {
        let problem = format!("it is of run {}, not of {}", manifest.run.label, run.label);
        return Err(corrupt(dir, problem));
    }
    for table in tables {
        // Text of an experiment that others share may have changed since.
        if table.name == "experiment" {
            continue;
        }
        let mut digest = RowDigest::new(&table.columns);
        table
            .each_row(db, run.run_id, |row| {
                digest.update(row);
                Ok(())
            })
            .await?;
        let (n_rows, rows_sha256) = digest.finish();
        let same = manifest
            .table(&table.name)
            .is_some_and(|t| t.n_rows == n_rows && t.rows_sha256 == rows_sha256);
        if !same {
            let problem = format!(
                "its rows of {} are not those that are stored now; archive the run again",
                table.name
            );
            return Err(corrupt(dir, problem));
        }
    }
    Ok(())
}

async fn detach_children(
    db: &mut PgConnection,
    run: &RunName,
    detach: bool,
) -> Result<Vec<String>, Error> {
    let doing = || Error::doing(format!("look up which runs start from {}", run.label));
    let children: Vec<(String, bool)> = sqlx::query_as(
        "select label, state in ('queued', 'running', 'delivering') from imprint.run
         where parent_run_id = $1 order by run_id for update",
    )
    .bind(run.run_id)
    .fetch_all(&mut *db)
    .await
    .map_err(doing())?;
    let refused = |problem| Error::Invalid {
        field: "run",
        problem,
    };
    if let Some((child, _)) = children.iter().find(|(_, is_open)| *is_open) {
        return Err(refused(format!(
            "{child} starts from {} and has not ended",
            run.label
        )));
    }
    let labels: Vec<String> = children.into_iter().map(|(label, _)| label).collect();
    if !labels.is_empty() && !detach {
        return Err(refused(format!(
            "{} start{} from {}; `--detach` drops it all the same",
            labels.join(", "),
            if labels.len() == 1 { "s" } else { "" },
            run.label
        )));
    }
    sqlx::query(
        "update imprint.run set parent_run_id = null, parent_step = null
         where parent_run_id = $1",
    )
    .bind(run.run_id)
    .execute(db)
    .await
    .map_err(doing())?;
    Ok(labels)
}
