//! What a load generator needs of the database: runs that no orchestrator starts, their values
//! read back, what they take on the disk, and how fast the same bytes go in by the shortest way.

use std::time::{Duration, Instant};

use futures::future::try_join_all;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, PgConnection};

use crate::runs::{NewExperiment, NewRun, ProbeSets, Process, insert_runs};
use crate::{Error, Store};

/// How long an attempt of a simulated trainer is left alone: it sends no heartbeats.
const LEASE: Duration = Duration::from_secs(24 * 60 * 60);

/// Runs of simulated trainers, each with its first attempt begun.
#[derive(Debug)]
pub struct SimulatedRuns {
    experiment: String,
    pub run_ids: Vec<i32>,
}

/// The number of every simulated run's only attempt.
pub const ATTEMPT: u32 = 1;

impl SimulatedRuns {
    /// Stores the runs of a new experiment and begins them at once, so that an orchestrator of the
    /// same database never finds them waiting for a trainer.
    ///
    /// # Errors
    /// When there is an experiment of that name.
    pub async fn make(
        store: &Store,
        experiment: &NewExperiment,
        process: &Process,
    ) -> Result<Self, Error> {
        let doing = Error::doing(format!("make the runs of {}", experiment.name));
        let made = async {
            let mut tx = store.pool().begin().await?;
            let experiment_id: i32 = sqlx::query_scalar(
                "insert into imprint.experiment (name, toml) values ($1, $2)
                 returning experiment_id",
            )
            .bind(&experiment.name)
            .bind(&experiment.toml)
            .fetch_one(&mut *tx)
            .await?;
            let runs: Vec<&NewRun> = experiment.runs.iter().collect();
            let run_ids = insert_runs(&mut tx, &runs, &mut ProbeSets::default()).await?;
            sqlx::query(
                "with begun as (
                     update imprint.run set state = 'running', started_at = now()
                     where run_id = any($2) returning run_id, label
                 ), wanted as (
                     insert into imprint.experiment_run (experiment_id, run_id, label)
                     select $1, run_id, label from begun
                 )
                 insert into imprint.attempt
                     (run_id, attempt, host, pid, device, machine, lease_until)
                 select run_id, $3, $4, $5, 'none', $6, now() + make_interval(secs => $7)
                 from begun",
            )
            .bind(experiment_id)
            .bind(&run_ids)
            .bind(ATTEMPT as i32)
            .bind(&process.host)
            .bind(process.pid as i32)
            .bind(&process.machine)
            .bind(LEASE.as_secs_f64())
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(run_ids)
        };
        Ok(Self {
            experiment: experiment.name.clone(),
            run_ids: made.await.map_err(doing)?,
        })
    }

    /// Deletes the runs with everything that is stored of them.
    ///
    /// # Errors
    /// When the database does not let go of them.
    pub async fn remove(self, store: &Store) -> Result<(), Error> {
        let removed = async {
            // `chunk_head` before what is made under it.
            for table in [
                "chunk_head",
                "step_reading",
                "update_stats",
                "step_mean",
                "probe_chunk",
            ] {
                sqlx::query(sqlx::AssertSqlSafe(format!(
                    "delete from imprint.{table} where run_id = any($1)"
                )))
                .bind(&self.run_ids)
                .execute(store.pool())
                .await?;
            }
            let mut tx = store.pool().begin().await?;
            let sets: Vec<i32> = sqlx::query_scalar(
                "delete from imprint.run where run_id = any($1) returning probe_set_id",
            )
            .bind(&self.run_ids)
            .fetch_all(&mut *tx)
            .await?;
            sqlx::query(
                "delete from imprint.probe_set s where probe_set_id = any($1)
                 and not exists (select from imprint.run r where r.probe_set_id = s.probe_set_id)",
            )
            .bind(sets)
            .execute(&mut *tx)
            .await?;
            sqlx::query("delete from imprint.experiment where name = $1")
                .bind(&self.experiment)
                .execute(&mut *tx)
                .await?;
            tx.commit().await
        };
        let doing = Error::doing(format!("remove the runs of {}", self.experiment));
        removed.await.map_err(doing)
    }

    /// Transactions that stored the runs' readings.
    ///
    /// # Errors
    /// When the query fails.
    pub async fn n_commits(&self, store: &Store) -> Result<u64, Error> {
        let n: i64 = sqlx::query_scalar(
            "select count(distinct xmin::text) from imprint.step_reading where run_id = any($1)",
        )
        .bind(&self.run_ids)
        .fetch_one(store.pool())
        .await
        .map_err(Error::doing("count commits"))?;
        Ok(n as u64)
    }
}

/// What everything that imprint keeps takes on the disk: tables, what is out of line, indexes.
///
/// # Errors
/// When the query fails.
pub async fn bytes_on_disk(store: &Store) -> Result<u64, Error> {
    let n: i64 = sqlx::query_scalar(
        "select coalesce(sum(pg_total_relation_size(oid)), 0)::int8 from pg_class
         where relnamespace = 'imprint'::regnamespace and relkind = 'r'",
    )
    .fetch_one(store.pool())
    .await
    .map_err(Error::doing("measure what is on the disk"))?;
    Ok(n as u64)
}

/// A table of one column without an index, and connections of its own: the shortest way for bytes
/// into the database.
#[derive(Debug)]
pub struct PlainTable {
    name: String,
    connections: Vec<PgConnection>,
}

impl PlainTable {
    /// # Errors
    /// When the table cannot be made.
    pub async fn make(store: &Store, name: &str, n_connections: usize) -> Result<Self, Error> {
        let options: PgConnectOptions = (*store.pool().connect_options()).clone();
        let name = format!("imprint.{name}");
        let made = async {
            // Out of line and as they are, like the values of readings.
            sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
                "create table {name} (step bytea not null);
                 alter table {name} alter step set storage external"
            )))
            .execute(store.pool())
            .await?;
            let connect = || options.connect();
            try_join_all(std::iter::repeat_with(connect).take(n_connections)).await
        };
        let connections = made.await.map_err(Error::doing("make a plain table"))?;
        Ok(Self { name, connections })
    }

    /// How long binary `COPY` takes over all connections for so many rows on each, `per_commit`
    /// rows a transaction, each committed to the disk.
    ///
    /// # Errors
    /// When a copy fails.
    pub async fn copy(
        &mut self,
        row: &[u8],
        n_rows: usize,
        per_commit: usize,
    ) -> Result<Duration, Error> {
        let name = &self.name;
        let began = Instant::now();
        let copied = try_join_all(self.connections.iter_mut().map(async |db| {
            for first in (0..n_rows).step_by(per_commit) {
                let n = per_commit.min(n_rows - first);
                let mut copy = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
                copy.reserve(n * (row.len() + 6) + 2);
                for _ in 0..n {
                    copy.extend_from_slice(&1_i16.to_be_bytes());
                    copy.extend_from_slice(&(row.len() as i32).to_be_bytes());
                    copy.extend_from_slice(row);
                }
                copy.extend_from_slice(&(-1_i16).to_be_bytes());
                let sql = format!("copy {name} from stdin (format binary)");
                let mut sink = db.copy_in_raw(&sql).await?;
                sink.send(copy).await?;
                sink.finish().await?;
            }
            Ok(())
        }));
        copied
            .await
            .map_err(Error::doing("copy into a plain table"))?;
        Ok(began.elapsed())
    }

    /// How long it takes over all connections to insert so many rows on each, one a transaction.
    ///
    /// # Errors
    /// When an insert fails.
    pub async fn insert(&mut self, row: &[u8], n_rows: usize) -> Result<Duration, Error> {
        let sql = format!("insert into {} (step) values ($1)", self.name);
        let began = Instant::now();
        let inserted = try_join_all(self.connections.iter_mut().map(async |db| {
            for _ in 0..n_rows {
                sqlx::query(sqlx::AssertSqlSafe(sql.as_str()))
                    .bind(row)
                    .execute(&mut *db)
                    .await?;
            }
            Ok(())
        }));
        inserted
            .await
            .map_err(Error::doing("insert into a plain table"))?;
        Ok(began.elapsed())
    }

    /// # Errors
    /// When the table cannot be dropped.
    pub async fn remove(self, store: &Store) -> Result<(), Error> {
        sqlx::query(sqlx::AssertSqlSafe(format!("drop table {}", self.name)))
            .execute(store.pool())
            .await
            .map(drop)
            .map_err(Error::doing("drop a plain table"))
    }
}
