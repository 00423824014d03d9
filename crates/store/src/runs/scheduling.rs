//! What the scheduler sees of runs that have not ended, and what it does to them.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool};

use super::RunState;
use super::attempts::{close, lock_run};
use super::jobs::{self, Job, Leader};
use crate::{Error, Store};

/// Every run that has not ended and every job that has not, as of one moment of the database's clock.
#[derive(Clone, Debug)]
pub struct OpenRuns {
    pub now: DateTime<Utc>,
    /// In the order in which they were asked for.
    pub runs: Vec<OpenRun>,
    /// By run; also of runs that have ended.
    pub jobs: BTreeMap<i32, Job>,
}

/// A run that has not ended.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenRun {
    pub run_id: i32,
    /// The first experiment that wants it.
    pub experiment_id: i32,
    pub label: String,
    pub state: RunState,
    pub reason: String,
    /// The highest starts first.
    pub priority: i32,
    /// Where it asks to be run; where absent, the site says.
    pub executor: Option<String>,
    pub cancel_requested: bool,
    /// Consecutive attempts before the open one that got no further.
    pub barren_attempts: u32,
    pub not_before: DateTime<Utc>,
    pub parent: Option<Parent>,
    pub last_attempt: Option<LastAttempt>,
    /// The first step whose reading or update is not durable; `None` when all are.
    pub undelivered_since_step: Option<u32>,
}

/// The run whose state a run starts from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    pub label: String,
    pub step: u32,
    pub state: RunState,
    pub reason: String,
    /// Whether it has saved its state at that step for good.
    pub ready: bool,
}

/// The newest attempt of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct LastAttempt {
    pub attempt: u32,
    /// The job whose process made it, if an executor started it.
    pub job: Option<u32>,
    pub open: bool,
    /// Out of reach of the services.
    pub offline: bool,
    pub lease_until: DateTime<Utc>,
    /// Why it ended.
    pub reason: String,
    /// Whether it got further than all attempts before it.
    pub progressed: bool,
}

/// What is written off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lost {
    /// An open attempt.
    Attempt(u32),
    /// A job whose process began none, and how it ended.
    Job { job: u32, outcome: String },
}

/// What follows when an attempt, or a job that never began one, is lost.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    Retry {
        barren_attempts: u32,
        after: Duration,
    },
    Fail,
}

#[derive(sqlx::FromRow)]
struct Row {
    run_id: i32,
    experiment_id: Option<i32>,
    label: String,
    state: RunState,
    reason: String,
    priority: i32,
    executor: Option<String>,
    cancel_requested: bool,
    barren_attempts: i32,
    not_before: DateTime<Utc>,
    undelivered_since_step: Option<i32>,
    parent_label: Option<String>,
    parent_step: Option<i32>,
    parent_state: Option<RunState>,
    parent_reason: Option<String>,
    parent_ready: bool,
    attempt: Option<i32>,
    attempt_job: Option<i32>,
    open: Option<bool>,
    offline: Option<bool>,
    lease_until: Option<DateTime<Utc>>,
    attempt_reason: Option<String>,
    progressed: bool,
}

impl From<Row> for OpenRun {
    fn from(row: Row) -> Self {
        let parent = (|| {
            Some(Parent {
                label: row.parent_label?,
                step: row.parent_step? as u32,
                state: row.parent_state?,
                reason: row.parent_reason?,
                ready: row.parent_ready,
            })
        })();
        let last_attempt = (|| {
            Some(LastAttempt {
                attempt: row.attempt? as u32,
                job: row.attempt_job.map(|job| job as u32),
                open: row.open?,
                offline: row.offline?,
                lease_until: row.lease_until?,
                reason: row.attempt_reason?,
                progressed: row.progressed,
            })
        })();
        Self {
            run_id: row.run_id,
            experiment_id: row.experiment_id.unwrap_or_default(),
            label: row.label,
            state: row.state,
            reason: row.reason,
            priority: row.priority,
            executor: row.executor,
            cancel_requested: row.cancel_requested,
            barren_attempts: row.barren_attempts as u32,
            not_before: row.not_before,
            parent,
            last_attempt,
            undelivered_since_step: row.undelivered_since_step.map(|s| s as u32),
        }
    }
}

impl Store {
    /// Every run that has not ended, with all open jobs.
    pub async fn open_runs(&self) -> Result<OpenRuns, Error> {
        open_runs(&self.pool)
            .await
            .map_err(Error::doing("look at the open runs"))
    }

    /// Writes an attempt off, if it is still the run's open one, and says what follows for the run.
    ///
    /// Without an attempt: the process of a job ended before it began one, and the job ends with that;
    /// where it has ended by now, nothing changes.
    ///
    /// # Errors
    /// `NotLeading` when another orchestrator leads.
    pub async fn lose_attempt(
        &self,
        leader: Leader,
        run_id: i32,
        lost: &Lost,
        reason: &str,
        next: &Next,
    ) -> Result<(), Error> {
        let doing = || format!("write off an attempt of run {run_id}");
        let mut tx = self.lead(leader).await?;
        lose_attempt(&mut tx, run_id, lost, reason, next)
            .await
            .map_err(Error::doing(doing()))?;
        tx.commit().await.map_err(Error::doing(doing()))
    }

    /// Ends a run whose cancelling was requested and that no attempt is open for.
    ///
    /// # Errors
    /// `NotLeading` when another orchestrator leads.
    pub async fn finish_cancelling(&self, leader: Leader, run_id: i32) -> Result<(), Error> {
        let sql =
            "update imprint.run r set state = 'cancelled', reason = 'cancelled', finished_at = now()
             where run_id = $1 and cancel_requested and state in ('queued', 'delivering')";
        let doing = || format!("cancel run {run_id}");
        let mut tx = self.lead(leader).await?;
        let query = sqlx::query(sql).bind(run_id).execute(&mut *tx);
        query.await.map_err(Error::doing(doing()))?;
        tx.commit().await.map_err(Error::doing(doing()))
    }

    /// Ends a run of which every update is made and everything measured is durable.
    ///
    /// # Errors
    /// `NotLeading` when another orchestrator leads.
    pub async fn complete_run(&self, leader: Leader, run_id: i32) -> Result<(), Error> {
        let sql = "update imprint.run r set state = 'complete', reason = '', finished_at = now()
             from imprint.ingest_head h
             where r.run_id = $1 and r.state = 'delivering' and h.run_id = r.run_id
               and h.next_update = r.n_updates and h.next_reading = cardinality(r.reading_steps)";
        let doing = || format!("complete run {run_id}");
        let mut tx = self.lead(leader).await?;
        let query = sqlx::query(sql).bind(run_id).execute(&mut *tx);
        query.await.map_err(Error::doing(doing()))?;
        tx.commit().await.map_err(Error::doing(doing()))
    }

    /// Says why runs that have not ended wait: in a state, for a reason.
    ///
    /// # Errors
    /// `NotLeading` when another orchestrator leads.
    pub async fn explain_waiting(
        &self,
        leader: Leader,
        waiting: &[(i32, RunState, String)],
    ) -> Result<(), Error> {
        let run_ids: Vec<i32> = waiting.iter().map(|w| w.0).collect();
        let states: Vec<&str> = waiting.iter().map(|w| w.1.as_str()).collect();
        let reasons: Vec<&str> = waiting.iter().map(|w| w.2.as_str()).collect();
        let mut tx = self.lead(leader).await?;
        let explained = async {
            sqlx::query(
                // Everybody holds rows in one order.
                "with held as materialized (
                     select run_id from imprint.run
                     where run_id = any($1) order by run_id for no key update
                 )
                 update imprint.run r set reason = w.reason
                 from unnest($1::int4[], $2::text[], $3::text[]) as w(run_id, state, reason)
                 join held using (run_id)
                 where r.run_id = w.run_id and r.state = w.state",
            )
            .bind(run_ids)
            .bind(states)
            .bind(reasons)
            .execute(&mut *tx)
            .await?;
            tx.commit().await
        };
        explained.await.map_err(Error::doing("say why runs wait"))
    }
}

async fn open_runs(pool: &PgPool) -> sqlx::Result<OpenRuns> {
    let mut tx = pool.begin().await?;
    let now: DateTime<Utc> = sqlx::query_scalar("select now()")
        .fetch_one(&mut *tx)
        .await?;
    let rows: Vec<Row> = sqlx::query_as(
        "select r.run_id, e.experiment_id, r.label, r.state, r.reason, r.priority,
                r.executor, r.cancel_requested, r.barren_attempts, r.not_before,
                case when r.state = 'delivering' then (
                    select min(step) from (values
                        (r.reading_steps[coalesce(h.next_reading, 0) + 1]),
                        (case when coalesce(h.next_update, 0) < r.n_updates
                              then coalesce(h.next_update, 0) end)) as missing(step)
                ) end as undelivered_since_step,
                p.label as parent_label, r.parent_step, p.state as parent_state,
                p.reason as parent_reason,
                exists (select from imprint.saved_state s
                        where s.run_id = r.parent_run_id and s.step = r.parent_step and s.keep)
                    as parent_ready,
                a.attempt, a.job as attempt_job, a.ended_at is null as open, a.offline, a.lease_until,
                a.reason as attempt_reason,
                r.state = 'running' and (
                    coalesce(h.next_reading, 0) > r.furthest_reading
                    or coalesce((select max(s.step) filter (where s.attempt = a.attempt) >
                                        coalesce(max(s.step) filter (where s.attempt < a.attempt), 0)
                                 from imprint.saved_state s where s.run_id = r.run_id), false)
                ) as progressed
         from imprint.run r
         left join imprint.run p on p.run_id = r.parent_run_id
         left join imprint.ingest_head h on h.run_id = r.run_id
         left join lateral (select * from imprint.attempt t where t.run_id = r.run_id
                            order by t.attempt desc limit 1) a on true
         left join lateral (select min(experiment_id) as experiment_id
                            from imprint.experiment_run x
                            where x.run_id = r.run_id and x.wanted) e on true
         where r.state in ('queued', 'running', 'delivering')",
    )
    .fetch_all(&mut *tx)
    .await?;
    let jobs = jobs::open(&mut tx).await?;
    let mut runs: Vec<OpenRun> = rows.into_iter().map(OpenRun::from).collect();
    // Here and not there: thousands of rows with all that they are made of would go through a file.
    runs.sort_unstable_by_key(|run| run.run_id);
    Ok(OpenRuns { now, runs, jobs })
}

async fn lose_attempt(
    db: &mut PgConnection,
    run_id: i32,
    lost: &Lost,
    reason: &str,
    next: &Next,
) -> sqlx::Result<()> {
    lock_run(db, run_id).await?;
    let from: &[&str] = match lost {
        // A process may also be started to deliver what an ended attempt could not, or after an
        // attempt whose time offline is over.
        Lost::Job { job, outcome } => {
            if !jobs::end(db, run_id, *job, outcome).await? {
                return Ok(());
            }
            // Somebody has begun an attempt by hand meanwhile: the run goes on with that.
            let is_live = "select exists (select from imprint.attempt
                                          where run_id = $1 and ended_at is null
                                            and not (offline and lease_until < now()))";
            if (sqlx::query_scalar(is_live).bind(run_id))
                .fetch_one(&mut *db)
                .await?
            {
                return Ok(());
            }
            if *next == Next::Fail {
                close_overdue(db, run_id, reason).await?;
            }
            &["queued", "delivering", "running"]
        }
        Lost::Attempt(attempt) => {
            if !close(db, run_id, *attempt, "lost", reason).await? {
                return Ok(());
            }
            &["running"]
        }
    };
    let query = match next {
        Next::Fail => sqlx::query(
            "update imprint.run set state = 'failed', reason = $3, finished_at = now()
             where run_id = $1 and state = any($2)",
        )
        .bind(run_id)
        .bind(from)
        .bind(reason),
        Next::Retry {
            barren_attempts,
            after,
        } => sqlx::query(
            // An attempt that is open was taken offline, and is not the one that is lost.
            "update imprint.run r
             set state = case when exists (select from imprint.attempt a
                                           where a.run_id = r.run_id and a.ended_at is null)
                              then r.state else 'queued' end,
                 reason = $3, barren_attempts = $4,
                 not_before = now() + make_interval(secs => $5)
             where run_id = $1 and state = any($2)",
        )
        .bind(run_id)
        .bind(from)
        .bind(reason)
        .bind(*barren_attempts as i32)
        .bind(after.as_secs_f64()),
    };
    query.execute(db).await?;
    Ok(())
}

/// Ends an open attempt whose time offline is over: its run fails, so nobody will import it.
async fn close_overdue(db: &mut PgConnection, run_id: i32, reason: &str) -> sqlx::Result<()> {
    let open: Option<i32> = sqlx::query_scalar(
        "select attempt from imprint.attempt where run_id = $1 and ended_at is null",
    )
    .bind(run_id)
    .fetch_optional(&mut *db)
    .await?;
    if let Some(open) = open {
        close(db, run_id, open as u32, "lost", reason).await?;
    }
    Ok(())
}
