//! What is kept of a run to make it again.

use chrono::{DateTime, Utc};
use imprint_core::{RunSpec, Settled, SpecHash};
use sqlx::types::Json;

use super::RunState;
use crate::{Error, Store};

/// A run's configuration, and what each of its attempts said of itself.
#[derive(Clone, Debug)]
pub struct RecordedRun {
    pub run_id: i32,
    /// The name under which it was asked for.
    pub label: String,
    pub hash: SpecHash,
    pub state: RunState,
    pub spec: RunSpec,
    /// What its first attempt settled.
    pub settled: Option<Settled>,
    /// A label of the run whose state it starts from.
    pub parent: Option<String>,
    /// The first first.
    pub attempts: Vec<RecordedAttempt>,
}

/// One execution of a run.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct RecordedAttempt {
    pub attempt: i32,
    pub host: String,
    pub device: String,
    pub threads: i32,
    pub machine: String,
    /// The first step that it delivered; `None` where it delivered none.
    pub first_step: Option<i32>,
    /// Updates made, by its last word.
    pub step: i32,
    pub began_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
    pub outcome: Option<String>,
    /// JSON of the trainer's record; `None` where it said nothing of itself.
    pub record: Option<serde_json::Value>,
}

#[derive(sqlx::FromRow)]
struct Row {
    run_id: i32,
    label: String,
    hash: String,
    state: RunState,
    spec: serde_json::Value,
    settled: Option<Json<Settled>>,
    parent: Option<String>,
}

impl Store {
    /// What is kept of the run of a label in any experiment, or of a hash.
    ///
    /// # Errors
    /// [`Error::NotFound`] where there is none; [`Error::Invalid`] where it was measured elsewhere,
    /// and so nobody here can make it again.
    pub async fn recorded_run(&self, name: &str) -> Result<RecordedRun, Error> {
        let doing = || Error::doing(format!("look up the record of run {name}"));
        let row: Option<Row> = sqlx::query_as(
            "select r.run_id, coalesce(e.label, r.label) as label, r.hash, r.state, r.spec,
                    r.settled,
                    coalesce((select p.label from imprint.experiment_run p
                              where p.run_id = r.parent_run_id order by p.experiment_id limit 1),
                             (select p.label from imprint.run p where p.run_id = r.parent_run_id))
                        as parent
             from imprint.run r
             left join imprint.experiment_run e on e.run_id = r.run_id and e.label = $1
             where e.label = $1 or r.hash = $1",
        )
        .bind(name)
        .fetch_optional(&self.pool)
        .await
        .map_err(doing())?;
        let row = row.ok_or_else(|| Error::NotFound {
            what: format!("run `{name}`"),
        })?;
        if row.spec.get("imported").is_some() {
            return Err(Error::Invalid {
                field: "run",
                problem: format!(
                    "`{name}` was measured elsewhere and imported; its configuration is not known"
                ),
            });
        }
        let spec = serde_json::from_value(row.spec).map_err(|err| Error::Corrupt {
            what: format!("the configuration of run {name}"),
            problem: err.to_string(),
        })?;
        let attempts = sqlx::query_as(
            "select a.attempt, a.host, a.device, a.threads, a.machine, s.first_step, a.step, a.began_at,
                    a.ended_at, a.outcome, a.record
             from imprint.attempt a left join imprint.segment s using (run_id, attempt)
             where run_id = $1 order by a.attempt",
        )
        .bind(row.run_id)
        .fetch_all(&self.pool)
        .await
        .map_err(doing())?;
        Ok(RecordedRun {
            run_id: row.run_id,
            label: row.label,
            hash: SpecHash(row.hash),
            state: row.state,
            spec,
            settled: row.settled.map(|Json(settled)| settled),
            parent: row.parent,
            attempts,
        })
    }

    /// Whether there is a run of a hash.
    pub async fn has_run(&self, hash: &SpecHash) -> Result<bool, Error> {
        sqlx::query_scalar("select exists (select from imprint.run where hash = $1)")
            .bind(&hash.0)
            .fetch_one(&self.pool)
            .await
            .map_err(Error::doing(format!("look for run {hash}")))
    }
}
