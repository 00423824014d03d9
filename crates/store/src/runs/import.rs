//! Runs whose readings were measured elsewhere.

use imprint_core::{ImportedSpec, Schedule, SpecHash};
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool};

use super::submission::{NewProbeSet, Refusal, insert_plan, insert_probe_set, one_wish_at_a_time};
use super::{Process, RunState};
use crate::{Error, Store};

/// The attempt that writes an imported run.
const ATTEMPT: u32 = 1;

/// A run to import, with everything that queries need of its plan.
pub struct NewImport {
    pub experiment: String,
    pub hash: SpecHash,
    pub spec: ImportedSpec,
    /// From 0; two at least.
    pub reading_steps: Vec<u32>,
    pub n_facts: usize,
    pub schedule: Schedule,
    pub probe_set: NewProbeSet,
    /// The process that imports.
    pub process: Process,
}

/// Whether a run's readings may be written now.
#[derive(Debug)]
pub enum BegunImport {
    /// Its readings go through a [`crate::ingest::Writer`] of this attempt; an import that was
    /// interrupted goes on where its cursor stands.
    Begun {
        run_id: i32,
        attempt: u32,
        /// The one that an interrupted import gave it.
        label: String,
    },
    /// It is here already, whole.
    Known {
        label: String,
    },
    Refused(Refusal),
}

impl Store {
    /// Makes room for an imported run, or finds what an interrupted import left of it.
    ///
    /// Until [`Store::finish_import`] it counts as failed, so that nobody takes half of it for the
    /// whole and no scheduler touches it.
    pub async fn begin_import(&self, import: &NewImport) -> Result<BegunImport, Error> {
        begin(&self.pool, import)
            .await
            .map_err(Error::doing(format!(
                "make room for run {}",
                import.spec.label
            )))
    }

    /// Completes an imported run whose declared readings are all stored.
    ///
    /// # Errors
    /// [`Error::Invalid`] when some are not.
    pub async fn finish_import(&self, run_id: i32) -> Result<(), Error> {
        let finished = finish(&self.pool, run_id).await;
        match finished.map_err(Error::doing(format!("complete run {run_id}")))? {
            true => Ok(()),
            false => Err(Error::Invalid {
                field: "readings",
                problem: format!("run {run_id} does not have all of them"),
            }),
        }
    }
}

async fn begin(pool: &PgPool, import: &NewImport) -> sqlx::Result<BegunImport> {
    let mut tx = pool.begin().await?;
    // As a submission: probes and experiments that are found here are not dropped meanwhile.
    one_wish_at_a_time(&mut tx).await?;
    let known: Option<(i32, String, RunState)> =
        sqlx::query_as("select run_id, label, state from imprint.run where hash = $1 for update")
            .bind(&import.hash.0)
            .fetch_optional(&mut *tx)
            .await?;
    if let Some((run_id, label, state)) = known {
        return Ok(match state {
            RunState::Complete => BegunImport::Known { label },
            _ => BegunImport::Begun {
                run_id,
                attempt: ATTEMPT,
                label,
            },
        });
    }
    let label = &import.spec.label;
    let is_taken: bool = sqlx::query_scalar(
        "select exists (select from imprint.run where label = $1)
             or exists (select from imprint.experiment_run where label = $1)",
    )
    .bind(label)
    .fetch_one(&mut *tx)
    .await?;
    if is_taken {
        let label = label.clone();
        return Ok(BegunImport::Refused(Refusal::LabelTaken { label }));
    }
    let run_id = insert(&mut tx, import).await?;
    tx.commit().await?;
    Ok(BegunImport::Begun {
        run_id,
        attempt: ATTEMPT,
        label: label.clone(),
    })
}

async fn insert(db: &mut PgConnection, import: &NewImport) -> sqlx::Result<i32> {
    let experiment_id: i32 = sqlx::query_scalar(
        "insert into imprint.experiment (name, toml) values ($1, '')
         on conflict (name) do update set name = excluded.name returning experiment_id",
    )
    .bind(&import.experiment)
    .fetch_one(&mut *db)
    .await?;
    let probe_set_id = insert_probe_set(db, &import.probe_set).await?;
    let steps: Vec<i32> = import.reading_steps.iter().map(|&s| s as i32).collect();
    let run_id: i32 = sqlx::query_scalar(
        "insert into imprint.run (hash, label, spec, probe_set_id, n_updates, reading_steps,
                                  state, reason, started_at)
         values ($1, $2, $3, $4, $5, $6, 'failed',
                 'its import is not finished: import the log again', now())
         returning run_id",
    )
    .bind(&import.hash.0)
    .bind(&import.spec.label)
    .bind(Json(&import.spec))
    .bind(probe_set_id)
    .bind(steps.last())
    .bind(&steps)
    .fetch_one(&mut *db)
    .await?;
    sqlx::query(
        "insert into imprint.experiment_run (experiment_id, run_id, label) values ($1, $2, $3)",
    )
    .bind(experiment_id)
    .bind(run_id)
    .bind(&import.spec.label)
    .execute(&mut *db)
    .await?;
    sqlx::query(
        "insert into imprint.attempt (run_id, attempt, host, pid, device, machine, lease_until)
         values ($1, $2, $3, $4, 'import', $5, now())",
    )
    .bind(run_id)
    .bind(ATTEMPT as i32)
    .bind(&import.process.host)
    .bind(import.process.pid as i32)
    .bind(&import.process.machine)
    .execute(&mut *db)
    .await?;
    insert_plan(db, &[run_id], &import.schedule, import.n_facts).await?;
    Ok(run_id)
}

async fn finish(pool: &PgPool, run_id: i32) -> sqlx::Result<bool> {
    let mut tx = pool.begin().await?;
    let completed = sqlx::query(
        "update imprint.run r set state = 'complete', reason = '', finished_at = now()
         from imprint.ingest_head h
         where r.run_id = $1 and r.spec ? 'imported' and h.run_id = r.run_id
           and h.next_reading = cardinality(r.reading_steps)",
    )
    .bind(run_id)
    .execute(&mut *tx)
    .await?;
    if completed.rows_affected() == 0 {
        return Ok(false);
    }
    sqlx::query(
        "update imprint.attempt a set ended_at = now(), outcome = 'finished', step = r.n_updates
         from imprint.run r
         where a.run_id = $1 and r.run_id = a.run_id and a.ended_at is null",
    )
    .bind(run_id)
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(true)
}
