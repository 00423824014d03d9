//! What the scheduler sees of runs that have not ended, and what it does to them.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgPool;

use super::RunState;
use super::attempts::{close, lock_run};
use crate::{Error, Store};

/// Every run that has not ended, as of one moment of the database's clock.
#[derive(Clone, Debug)]
pub struct OpenRuns {
    pub now: DateTime<Utc>,
    /// In the order in which they were asked for.
    pub runs: Vec<OpenRun>,
}

/// A run that has not ended.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenRun {
    pub run_id: i32,
    pub label: String,
    pub state: RunState,
    pub reason: String,
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
    pub host: String,
    pub pid: u32,
    pub open: bool,
    /// Out of reach of the services.
    pub offline: bool,
    pub lease_until: DateTime<Utc>,
    /// Why it ended.
    pub reason: String,
    /// Whether it got further than all attempts before it.
    pub progressed: bool,
}

/// What follows when an attempt, or a process that never began one, is lost.
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
    label: String,
    state: RunState,
    reason: String,
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
    host: Option<String>,
    pid: Option<i32>,
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
                host: row.host?,
                pid: row.pid? as u32,
                open: row.open?,
                offline: row.offline?,
                lease_until: row.lease_until?,
                reason: row.attempt_reason?,
                progressed: row.progressed,
            })
        })();
        Self {
            run_id: row.run_id,
            label: row.label,
            state: row.state,
            reason: row.reason,
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
    /// Every run that has not ended.
    pub async fn open_runs(&self) -> Result<OpenRuns, Error> {
        open_runs(&self.pool)
            .await
            .map_err(Error::doing("look at the open runs"))
    }

    /// Writes an attempt off, if it is still the run's open one, and says what follows for the run.
    ///
    /// Without an attempt: a trainer process ended before it began one.
    pub async fn lose_attempt(
        &self,
        run_id: i32,
        attempt: Option<u32>,
        reason: &str,
        next: &Next,
    ) -> Result<(), Error> {
        lose_attempt(&self.pool, run_id, attempt, reason, next)
            .await
            .map_err(Error::doing(format!(
                "write off an attempt of run {run_id}"
            )))
    }

    /// Ends a run whose cancelling was requested and that no attempt is open for.
    pub async fn finish_cancelling(&self, run_id: i32) -> Result<(), Error> {
        sqlx::query(
            "update imprint.run r set state = 'cancelled', reason = 'cancelled', finished_at = now()
             where run_id = $1 and cancel_requested and state in ('queued', 'delivering')",
        )
        .bind(run_id)
        .execute(&self.pool)
        .await
        .map(drop)
        .map_err(Error::doing(format!("cancel run {run_id}")))
    }

    /// Ends a run of which every update is made and everything measured is durable.
    pub async fn complete_run(&self, run_id: i32) -> Result<(), Error> {
        sqlx::query(
            "update imprint.run r set state = 'complete', reason = '', finished_at = now()
             from imprint.ingest_head h
             where r.run_id = $1 and r.state = 'delivering' and h.run_id = r.run_id
               and h.next_update = r.n_updates and h.next_reading = cardinality(r.reading_steps)",
        )
        .bind(run_id)
        .execute(&self.pool)
        .await
        .map(drop)
        .map_err(Error::doing(format!("complete run {run_id}")))
    }

    /// Says why a run that has not ended waits.
    pub async fn explain_waiting(
        &self,
        run_id: i32,
        state: RunState,
        reason: &str,
    ) -> Result<(), Error> {
        sqlx::query("update imprint.run set reason = $3 where run_id = $1 and state = $2")
            .bind(run_id)
            .bind(state)
            .bind(reason)
            .execute(&self.pool)
            .await
            .map(drop)
            .map_err(Error::doing(format!("say why run {run_id} waits")))
    }

    /// Takes an experiment's wish for its runs (or one run, by label) back; the labels of those that
    /// nobody wants any more and that therefore end. `None` when there is no such experiment or run.
    pub async fn request_cancel(
        &self,
        experiment: &str,
        label: Option<&str>,
    ) -> Result<Option<Vec<String>>, Error> {
        let cancelled = async {
            let mut tx = self.pool.begin().await?;
            let unwanted: Vec<i32> = sqlx::query_scalar(
                "update imprint.experiment_run e set wanted = false
                 from imprint.experiment x
                 where x.experiment_id = e.experiment_id and x.name = $1
                   and ($2::text is null or e.label = $2)
                 returning e.run_id",
            )
            .bind(experiment)
            .bind(label)
            .fetch_all(&mut *tx)
            .await?;
            if unwanted.is_empty() {
                return Ok(None);
            }
            let labels = sqlx::query_scalar(
                "update imprint.run r set cancel_requested = true
                 from imprint.experiment_run e join imprint.experiment x using (experiment_id)
                 where r.run_id = any($2) and e.run_id = r.run_id and x.name = $1
                   and r.state in ('queued', 'running', 'delivering')
                   and not exists (select from imprint.experiment_run w
                                   where w.run_id = r.run_id and w.wanted)
                 returning e.label",
            )
            .bind(experiment)
            .bind(unwanted)
            .fetch_all(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(Some(labels))
        };
        cancelled
            .await
            .map_err(Error::doing(format!("cancel experiment {experiment}")))
    }

    /// Queues an experiment's failed and cancelled runs again and gives their labels; `None` when
    /// there is no such experiment.
    pub async fn retry(&self, experiment: &str) -> Result<Option<Vec<String>>, Error> {
        let retried = async {
            let mut tx = self.pool.begin().await?;
            let runs: Vec<i32> = sqlx::query_scalar(
                "update imprint.experiment_run e set wanted = true
                 from imprint.experiment x
                 where x.experiment_id = e.experiment_id and x.name = $1 returning e.run_id",
            )
            .bind(experiment)
            .fetch_all(&mut *tx)
            .await?;
            if runs.is_empty() {
                return Ok(None);
            }
            sqlx::query(
                "update imprint.run set cancel_requested = false
                 where run_id = any($1) and state in ('queued', 'running', 'delivering')",
            )
            .bind(&runs)
            .execute(&mut *tx)
            .await?;
            let labels = sqlx::query_scalar(
                "update imprint.run r
                 set state = 'queued', reason = '', cancel_requested = false, barren_attempts = 0,
                     not_before = now(), finished_at = null,
                     -- A run without a state begins anew, and may choose otherwise.
                     settled = case when exists (select from imprint.saved_state s
                                                 where s.run_id = r.run_id) then r.settled end
                 from imprint.experiment_run e join imprint.experiment x using (experiment_id)
                 where r.run_id = any($2) and e.run_id = r.run_id and x.name = $1
                   and r.state in ('failed', 'cancelled')
                   -- No trainer can make what was measured elsewhere.
                   and not r.spec ? 'imported'
                 returning e.label",
            )
            .bind(experiment)
            .bind(runs)
            .fetch_all(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(Some(labels))
        };
        retried
            .await
            .map_err(Error::doing(format!("retry experiment {experiment}")))
    }
}

async fn open_runs(pool: &PgPool) -> sqlx::Result<OpenRuns> {
    let mut tx = pool.begin().await?;
    let now: DateTime<Utc> = sqlx::query_scalar("select now()")
        .fetch_one(&mut *tx)
        .await?;
    let rows: Vec<Row> = sqlx::query_as(
        "select r.run_id, r.label, r.state, r.reason, r.cancel_requested, r.barren_attempts,
                r.not_before,
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
                a.attempt, a.host, a.pid, a.ended_at is null as open, a.offline, a.lease_until,
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
         where r.state in ('queued', 'running', 'delivering')
         order by r.run_id",
    )
    .fetch_all(&mut *tx)
    .await?;
    Ok(OpenRuns {
        now,
        runs: rows.into_iter().map(OpenRun::from).collect(),
    })
}

async fn lose_attempt(
    pool: &PgPool,
    run_id: i32,
    attempt: Option<u32>,
    reason: &str,
    next: &Next,
) -> sqlx::Result<()> {
    let mut tx = pool.begin().await?;
    lock_run(&mut tx, run_id).await?;
    let from: &[&str] = match attempt {
        // A process may also be started to deliver what an ended attempt could not.
        None => &["queued", "delivering"],
        Some(attempt) => {
            if !close(&mut tx, run_id, attempt, "lost", reason).await? {
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
            "update imprint.run set state = 'queued', reason = $3, barren_attempts = $4,
                    not_before = now() + make_interval(secs => $5)
             where run_id = $1 and state = any($2)",
        )
        .bind(run_id)
        .bind(from)
        .bind(reason)
        .bind(*barren_attempts as i32)
        .bind(after.as_secs_f64()),
    };
    query.execute(&mut *tx).await?;
    tx.commit().await
}
