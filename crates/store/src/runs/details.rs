//! All that is known of one run, and what happened to it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool};

use super::views::run_view;
use super::{RunState, RunView};
use crate::{Error, Store};

/// So many of a run's attempts are shown.
const MAX_ATTEMPTS: i64 = 100;

/// How a run is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunRef<'a> {
    /// Its label in any experiment.
    Label(&'a str),
    Id(i32),
}

/// A run with what is needed to see why it does what it does.
#[derive(Clone, Debug, PartialEq)]
pub struct RunDetails {
    pub view: RunView,
    /// Its label in each experiment, the first that asked for it first, and whether that one wants
    /// it.
    pub names: Vec<(String, bool)>,
    pub cancel_requested: bool,
    pub created_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
    pub parent: Option<ParentView>,
    /// The newest.
    pub job: Option<JobView>,
    /// The newest first.
    pub attempts: Vec<AttemptView>,
}

/// The run whose state a run starts from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentView {
    pub label: String,
    pub step: u32,
    pub state: RunState,
}

/// What an executor was asked to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobView {
    pub job: u32,
    pub executor: String,
    pub slot: Option<u32>,
    pub external_id: Option<String>,
    /// When the executor was asked last.
    pub asked_at: DateTime<Utc>,
    pub alive_at: Option<DateTime<Utc>>,
    pub stop_asked_at: Option<DateTime<Utc>>,
    pub kill_asked_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
    /// In words that follow "the trainer".
    pub outcome: String,
}

/// One execution of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct AttemptView {
    pub attempt: u32,
    pub job: Option<u32>,
    pub host: String,
    pub pid: u32,
    pub device: String,
    pub machine: String,
    pub offline: bool,
    pub step: u32,
    pub steps_per_second: f32,
    pub began_at: DateTime<Utc>,
    /// Since its last word.
    pub silent_for: Duration,
    pub ended_at: Option<DateTime<Utc>>,
    /// Absent while it is open.
    pub outcome: Option<String>,
    pub reason: String,
}

/// Something that happened to a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// 1 for the run's first.
    pub event: u32,
    pub happened_at: DateTime<Utc>,
    pub kind: String,
    pub attempt: Option<u32>,
    pub job: Option<u32>,
    pub detail: String,
}

#[derive(sqlx::FromRow)]
struct Row {
    cancel_requested: bool,
    created_at: DateTime<Utc>,
    started_at: Option<DateTime<Utc>>,
    finished_at: Option<DateTime<Utc>>,
    parent_label: Option<String>,
    parent_step: Option<i32>,
    parent_state: Option<RunState>,
}

#[derive(sqlx::FromRow)]
struct JobRow {
    job: i32,
    executor: String,
    slot: Option<i32>,
    external_id: Option<String>,
    asked_at: DateTime<Utc>,
    alive_at: Option<DateTime<Utc>>,
    stop_asked_at: Option<DateTime<Utc>>,
    kill_asked_at: Option<DateTime<Utc>>,
    ended_at: Option<DateTime<Utc>>,
    outcome: String,
}

impl From<JobRow> for JobView {
    fn from(row: JobRow) -> Self {
        Self {
            job: row.job as u32,
            executor: row.executor,
            slot: row.slot.map(|slot| slot as u32),
            external_id: row.external_id,
            asked_at: row.asked_at,
            alive_at: row.alive_at,
            stop_asked_at: row.stop_asked_at,
            kill_asked_at: row.kill_asked_at,
            ended_at: row.ended_at,
            outcome: row.outcome,
        }
    }
}

#[derive(sqlx::FromRow)]
struct AttemptRow {
    attempt: i32,
    job: Option<i32>,
    host: String,
    pid: i32,
    device: String,
    machine: String,
    offline: bool,
    step: i32,
    steps_per_second: f32,
    began_at: DateTime<Utc>,
    silent_for: f64,
    ended_at: Option<DateTime<Utc>>,
    outcome: Option<String>,
    reason: String,
}

impl From<AttemptRow> for AttemptView {
    fn from(row: AttemptRow) -> Self {
        Self {
            attempt: row.attempt as u32,
            job: row.job.map(|job| job as u32),
            host: row.host,
            pid: row.pid as u32,
            device: row.device,
            machine: row.machine,
            offline: row.offline,
            step: row.step as u32,
            steps_per_second: row.steps_per_second,
            began_at: row.began_at,
            // The database's clock may have been set back.
            silent_for: Duration::from_secs_f64(row.silent_for.max(0.0)),
            ended_at: row.ended_at,
            outcome: row.outcome,
            reason: row.reason,
        }
    }
}

#[derive(sqlx::FromRow)]
struct EventRow {
    event: i32,
    happened_at: DateTime<Utc>,
    kind: String,
    attempt: Option<i32>,
    job: Option<i32>,
    detail: String,
}

impl From<EventRow> for Event {
    fn from(row: EventRow) -> Self {
        Self {
            event: row.event as u32,
            happened_at: row.happened_at,
            kind: row.kind,
            attempt: row.attempt.map(|attempt| attempt as u32),
            job: row.job.map(|job| job as u32),
            detail: row.detail,
        }
    }
}

impl Store {
    /// A run as of one moment; `None` when there is none of that name.
    pub async fn run_details(&self, run: RunRef<'_>) -> Result<Option<RunDetails>, Error> {
        details(&self.pool, run)
            .await
            .map_err(Error::doing(format!("look at run {run}")))
    }

    /// A run as in a list; `None` when there is none of that name.
    pub async fn run(&self, run: RunRef<'_>) -> Result<Option<RunView>, Error> {
        let look = async { run_view(&mut *self.pool.acquire().await?, run).await };
        look.await
            .map_err(Error::doing(format!("look at run {run}")))
    }

    /// Whether nothing works on a run any more and nothing will, unless somebody asks for it.
    pub async fn is_at_rest(&self, run_id: i32) -> Result<bool, Error> {
        sqlx::query_scalar(
            "select not exists (select from imprint.run where run_id = $1
                                and state in ('queued', 'running', 'delivering'))
                and not exists (select from imprint.job where run_id = $1 and ended_at is null)",
        )
        .bind(run_id)
        .fetch_one(&self.pool)
        .await
        .map_err(Error::doing(format!("see whether run {run_id} has ended")))
    }

    /// What happened to a run before an event, the newest first.
    pub async fn run_events(
        &self,
        run_id: i32,
        before: Option<i32>,
        limit: usize,
    ) -> Result<Vec<Event>, Error> {
        let rows: Vec<EventRow> = sqlx::query_as(
            "select event, happened_at, kind, attempt, job, detail from imprint.event
             where run_id = $1 and event < $2 order by event desc limit $3",
        )
        .bind(run_id)
        .bind(before.unwrap_or(i32::MAX))
        .bind(limit as i64)
        .fetch_all(&self.pool)
        .await
        .map_err(Error::doing(format!("list what happened to run {run_id}")))?;
        Ok(rows.into_iter().map(Event::from).collect())
    }
}

impl std::fmt::Display for RunRef<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Label(label) => f.write_str(label),
            Self::Id(run_id) => write!(f, "{run_id}"),
        }
    }
}

async fn details(pool: &PgPool, run: RunRef<'_>) -> sqlx::Result<Option<RunDetails>> {
    let mut tx = pool.begin().await?;
    sqlx::raw_sql("set transaction isolation level repeatable read, read only")
        .execute(&mut *tx)
        .await?;
    let Some(view) = run_view(&mut tx, run).await? else {
        return Ok(None);
    };
    let run_id = view.run_id;
    let row: Row = sqlx::query_as(
        "select r.cancel_requested, r.created_at, r.started_at, r.finished_at,
                p.label as parent_label, r.parent_step, p.state as parent_state
         from imprint.run r left join imprint.run p on p.run_id = r.parent_run_id
         where r.run_id = $1",
    )
    .bind(run_id)
    .fetch_one(&mut *tx)
    .await?;
    let names = sqlx::query_as(
        "select label, wanted from imprint.experiment_run where run_id = $1
         order by experiment_id",
    )
    .bind(run_id)
    .fetch_all(&mut *tx)
    .await?;
    let job: Option<JobRow> = sqlx::query_as(
        "select job, executor, slot, external_id, asked_at, alive_at, stop_asked_at,
                kill_asked_at, ended_at, outcome
         from imprint.job where run_id = $1 order by job desc limit 1",
    )
    .bind(run_id)
    .fetch_optional(&mut *tx)
    .await?;
    let attempts = attempts(&mut tx, run_id).await?;
    let parent = (|| {
        Some(ParentView {
            label: row.parent_label?,
            step: row.parent_step? as u32,
            state: row.parent_state?,
        })
    })();
    Ok(Some(RunDetails {
        view,
        names,
        cancel_requested: row.cancel_requested,
        created_at: row.created_at,
        started_at: row.started_at,
        finished_at: row.finished_at,
        parent,
        job: job.map(JobView::from),
        attempts,
    }))
}

async fn attempts(db: &mut PgConnection, run_id: i32) -> sqlx::Result<Vec<AttemptView>> {
    let rows: Vec<AttemptRow> = sqlx::query_as(
        "select attempt, job, host, pid, device, machine, offline, step, steps_per_second,
                began_at, extract(epoch from now() - heartbeat_at)::float8 as silent_for,
                ended_at, outcome, reason
         from imprint.attempt where run_id = $1 order by attempt desc limit $2",
    )
    .bind(run_id)
    .bind(MAX_ATTEMPTS)
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(AttemptView::from).collect())
}
