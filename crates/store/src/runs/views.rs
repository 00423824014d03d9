//! Experiments and their runs as people ask for them.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, PgConnection};

use super::RunState;
use super::details::RunRef;
use crate::{Error, Store};

/// An experiment with its number of runs by state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExperimentSummary {
    pub experiment_id: i32,
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
    pub priority: i32,
    /// Tokens of a batch; 0 for a run that was measured elsewhere.
    pub tokens_per_update: u64,
}

/// Which experiments of a list are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExperimentPage {
    /// Those older than this one.
    pub before: Option<i32>,
    pub limit: usize,
    /// Only those with runs that have not ended.
    pub open: bool,
}

/// Which runs of an experiment are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunPage<'a> {
    /// Those behind this one.
    pub after: Option<i32>,
    pub limit: usize,
    /// In these states only; all where empty.
    pub states: &'a [RunState],
}

impl RunPage<'_> {
    /// All runs at once.
    pub const ALL: Self = Self {
        after: None,
        limit: i32::MAX as usize,
        states: &[],
    };
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
    priority: i32,
    tokens_per_update: i64,
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
            priority: row.priority,
            tokens_per_update: row.tokens_per_update as u64,
        }
    }
}

/// An experiment, and how many of its runs are in one state.
type StateCount = (i32, String, DateTime<Utc>, Option<RunState>, i64);

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

    /// Experiments, the newest first.
    pub async fn experiments(&self, page: ExperimentPage) -> Result<Vec<ExperimentSummary>, Error> {
        let rows: Vec<StateCount> = sqlx::query_as(
            "with page as (
                 select * from imprint.experiment x
                 where x.experiment_id < $1 and (not $3 or exists (
                     select from imprint.experiment_run e join imprint.run r using (run_id)
                     where e.experiment_id = x.experiment_id
                       and r.state in ('queued', 'running', 'delivering')))
                 order by x.experiment_id desc limit $2)
             select x.experiment_id, x.name, x.created_at, r.state, count(r.run_id)
             from page x
             left join imprint.experiment_run e using (experiment_id)
             left join imprint.run r using (run_id)
             group by x.experiment_id, x.name, x.created_at, r.state
             order by x.experiment_id desc",
        )
        .bind(page.before.unwrap_or(i32::MAX))
        .bind(page.limit as i64)
        .bind(page.open)
        .fetch_all(&self.pool)
        .await
        .map_err(Error::doing("list the experiments"))?;
        let mut experiments: Vec<ExperimentSummary> = Vec::new();
        for (experiment_id, name, created_at, state, n_runs) in rows {
            if (experiments.last()).is_none_or(|e| e.experiment_id != experiment_id) {
                experiments.push(ExperimentSummary {
                    experiment_id,
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

    /// The number of an experiment and when it was submitted first; `None` when there is none of
    /// that name.
    pub async fn experiment(&self, name: &str) -> Result<Option<(i32, DateTime<Utc>)>, Error> {
        let sql = "select experiment_id, created_at from imprint.experiment where name = $1";
        sqlx::query_as(sql)
            .bind(name)
            .fetch_optional(&self.pool)
            .await
            .map_err(Error::doing(format!("look experiment {name} up")))
    }

    /// Runs of an experiment in the order in which they were asked for.
    pub async fn experiment_runs(
        &self,
        experiment_id: i32,
        page: RunPage<'_>,
    ) -> Result<Vec<RunView>, Error> {
        let states: Vec<&str> = page.states.iter().map(|s| s.as_str()).collect();
        let rows: Vec<Row> = sqlx::query_as(AssertSqlSafe(format!(
            "{RUN_VIEW}
             where e.experiment_id = $1 and e.run_id > $2 and r.run_id > $2
               and (cardinality($4::text[]) = 0 or r.state = any($4))
             order by e.run_id limit $3"
        )))
        .bind(experiment_id)
        .bind(page.after.unwrap_or(i32::MIN))
        .bind(page.limit as i64)
        .bind(states)
        .fetch_all(&self.pool)
        .await
        .map_err(Error::doing(format!(
            "look at the runs of experiment {experiment_id}"
        )))?;
        Ok(rows.into_iter().map(RunView::from).collect())
    }

    /// The names of experiments, the newest first.
    pub async fn experiment_names(&self, limit: usize) -> Result<Vec<String>, Error> {
        let sql = "select name from imprint.experiment order by experiment_id desc limit $1";
        sqlx::query_scalar(sql)
            .bind(limit as i64)
            .fetch_all(&self.pool)
            .await
            .map_err(Error::doing("list the names of experiments"))
    }

    /// The labels of an experiment's runs, the newest first; none where there is no such experiment.
    pub async fn run_labels(&self, experiment: &str, limit: usize) -> Result<Vec<String>, Error> {
        sqlx::query_scalar(
            "select e.label from imprint.experiment x join imprint.experiment_run e
             using (experiment_id) where x.name = $1 order by e.run_id desc limit $2",
        )
        .bind(experiment)
        .bind(limit as i64)
        .fetch_all(&self.pool)
        .await
        .map_err(Error::doing(format!(
            "list the labels of experiment {experiment}"
        )))
    }
}

/// A row of [`RunView`] for every run of every experiment.
const RUN_VIEW: &str = "select r.run_id, e.label, r.state, r.reason, r.n_updates,
        case when r.state in ('delivering', 'complete') then r.n_updates
             else coalesce(a.step, 0) end as step,
        coalesce(a.attempt, 0) as n_attempts,
        case when r.state = 'running' then a.steps_per_second else 0 end as steps_per_second,
        cardinality(r.reading_steps) as readings_expected,
        coalesce(h.next_reading, 0) as readings_stored,
        case r.state when 'running' then a.undelivered_since_step
             when 'delivering' then r.reading_steps[coalesce(h.next_reading, 0) + 1]
        end as undelivered_since_step,
        r.priority,
        coalesce((r.spec #>> '{identity,batch_size}')::int8
                 * (r.spec #>> '{identity,seq_len}')::int8, 0) as tokens_per_update
 from imprint.experiment_run e
 join imprint.run r using (run_id)
 left join imprint.ingest_head h on h.run_id = r.run_id
 left join lateral (select * from imprint.attempt t where t.run_id = r.run_id
                    order by t.attempt desc limit 1) a on true";

/// A run as its label's experiment calls it, or as the first that asked for it does.
pub(super) async fn run_view(
    db: &mut PgConnection,
    run: RunRef<'_>,
) -> sqlx::Result<Option<RunView>> {
    let condition = match run {
        RunRef::Label(_) => "e.label = $1",
        RunRef::Id(_) => "r.run_id = $1 order by e.experiment_id limit 1",
    };
    let query = sqlx::query_as(AssertSqlSafe(format!("{RUN_VIEW} where {condition}")));
    let query = match run {
        RunRef::Label(label) => query.bind(label),
        RunRef::Id(run_id) => query.bind(run_id),
    };
    let row: Option<Row> = query.fetch_optional(db).await?;
    Ok(row.map(RunView::from))
}
