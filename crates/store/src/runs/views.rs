//! Experiments and their runs as people ask for them.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::RunState;
use crate::{Error, Store};

/// An experiment with its number of runs by state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExperimentSummary {
    pub name: String,
    pub created_at: DateTime<Utc>,
    pub n_runs_by_state: BTreeMap<RunState, u32>,
}

/// A run of an experiment and how far it is.
#[derive(Clone, Debug, PartialEq)]
pub struct RunView {
    pub run_id: i32,
    /// Its label in this experiment.
    pub label: String,
    pub state: RunState,
    pub reason: String,
    pub n_updates: u32,
    /// Updates made, by the newest attempt's last word.
    pub step: u32,
    pub n_attempts: u32,
    pub steps_per_second: f32,
    pub readings_expected: u32,
    pub readings_stored: u32,
    pub undelivered_since_step: Option<u32>,
}

/// What all runs together look like.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overview {
    pub n_runs_by_state: BTreeMap<RunState, u32>,
    /// Since the last heartbeat of the open attempt that has been silent for longest; zero without
    /// open attempts.
    pub oldest_heartbeat: Duration,
    /// Steps whose readings open attempts have not delivered, by their last heartbeats.
    pub undelivered_steps: i64,
}

#[derive(sqlx::FromRow)]
struct Row {
    run_id: i32,
    label: String,
    state: RunState,
    reason: String,
    n_updates: i32,
    step: i32,
    n_attempts: i32,
    steps_per_second: f32,
    readings_expected: i32,
    readings_stored: i32,
    undelivered_since_step: Option<i32>,
}

impl From<Row> for RunView {
    fn from(row: Row) -> Self {
        Self {
            run_id: row.run_id,
            label: row.label,
            state: row.state,
            reason: row.reason,
            n_updates: row.n_updates as u32,
            step: row.step as u32,
            n_attempts: row.n_attempts as u32,
            steps_per_second: row.steps_per_second,
            readings_expected: row.readings_expected as u32,
            readings_stored: row.readings_stored as u32,
            undelivered_since_step: row.undelivered_since_step.map(|s| s as u32),
        }
    }
}

impl Store {
    /// What all runs together look like.
    pub async fn overview(&self) -> Result<Overview, Error> {
        let doing = || Error::doing("look at all runs");
        let by_state: Vec<(RunState, i64)> =
            sqlx::query_as("select state, count(*) from imprint.run group by state")
                .fetch_all(&self.pool)
                .await
                .map_err(doing())?;
        let (oldest_heartbeat, undelivered_steps): (f64, i64) = sqlx::query_as(
            "select coalesce(max(extract(epoch from now() - heartbeat_at)), 0)::float8,
                    coalesce(sum(greatest(step - undelivered_since_step, 1)), 0)
             from imprint.attempt a join imprint.run r using (run_id)
             where a.ended_at is null and not a.offline and r.state in ('running', 'delivering')",
        )
        .fetch_one(&self.pool)
        .await
        .map_err(doing())?;
        let n_runs_by_state = by_state.into_iter().map(|(s, n)| (s, n as u32)).collect();
        Ok(Overview {
            n_runs_by_state,
            oldest_heartbeat: Duration::from_secs_f64(oldest_heartbeat.max(0.0)),
            undelivered_steps,
        })
    }

    /// All experiments, the oldest first.
    pub async fn experiments(&self) -> Result<Vec<ExperimentSummary>, Error> {
        let rows: Vec<(String, DateTime<Utc>, Option<RunState>, i64)> = sqlx::query_as(
            "select x.name, x.created_at, r.state, count(r.run_id)
             from imprint.experiment x
             left join imprint.experiment_run e using (experiment_id)
             left join imprint.run r using (run_id)
             group by x.experiment_id, x.name, x.created_at, r.state order by x.experiment_id",
        )
        .fetch_all(&self.pool)
        .await
        .map_err(Error::doing("list the experiments"))?;
        let mut experiments: Vec<ExperimentSummary> = Vec::new();
        for (name, created_at, state, n_runs) in rows {
            if experiments.last().is_none_or(|e| e.name != name) {
                experiments.push(ExperimentSummary {
                    name,
                    created_at,
                    n_runs_by_state: BTreeMap::new(),
                });
            }
            if let (Some(experiment), Some(state)) = (experiments.last_mut(), state) {
                experiment.n_runs_by_state.insert(state, n_runs as u32);
            }
        }
        Ok(experiments)
    }

    /// The runs of an experiment in the order in which they were asked for; `None` when there is no
    /// such experiment.
    pub async fn experiment_runs(&self, experiment: &str) -> Result<Option<Vec<RunView>>, Error> {
        let rows: Vec<Row> = sqlx::query_as(
            "select r.run_id, e.label, r.state, r.reason, r.n_updates,
                    case when r.state in ('delivering', 'complete') then r.n_updates
                         else coalesce(a.step, 0) end as step,
                    coalesce(a.attempt, 0) as n_attempts,
                    case when r.state = 'running' then a.steps_per_second else 0 end
                        as steps_per_second,
                    cardinality(r.reading_steps) as readings_expected,
                    coalesce(h.next_reading, 0) as readings_stored,
                    case r.state when 'running' then a.undelivered_since_step
                         when 'delivering' then r.reading_steps[coalesce(h.next_reading, 0) + 1]
                    end as undelivered_since_step
             from imprint.experiment x
             join imprint.experiment_run e using (experiment_id)
             join imprint.run r using (run_id)
             left join imprint.ingest_head h on h.run_id = r.run_id
             left join lateral (select * from imprint.attempt t where t.run_id = r.run_id
                                order by t.attempt desc limit 1) a on true
             where x.name = $1 order by r.run_id",
        )
        .bind(experiment)
        .fetch_all(&self.pool)
        .await
        .map_err(Error::doing(format!("look at experiment {experiment}")))?;
        let runs: Vec<RunView> = rows.into_iter().map(RunView::from).collect();
        // An experiment has one run at least.
        Ok((!runs.is_empty()).then_some(runs))
    }
}
