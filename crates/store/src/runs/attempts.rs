//! Attempts: the fence that they are, and what they report.

use std::time::Duration;

use chrono::{DateTime, Utc};
use imprint_core::{RunSpec, Settled};
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool};

use super::{RunState, jobs};
use crate::{Error, Store};

/// Of a run that is asked to stop so often in a row before it gets any further, the fault is where it
/// runs: it fails, for people to see that.
const MAX_FRUITLESS_STOPS: i32 = 10;

/// The process that makes an attempt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Process {
    pub host: String,
    pub pid: u32,
    pub machine: String,
    /// It will not be heard of: nobody else begins the run before its lease ends.
    pub offline: bool,
    /// Request id of the job by which an executor started it.
    pub job: Option<String>,
    /// What is needed to do it again (JSON), where it says.
    pub record: Option<serde_json::Value>,
}

/// Whether a run was begun.
#[derive(Debug)]
pub enum Begin {
    Begun(Box<BegunAttempt>),
    /// The run has ended, or is about to: in one line, why.
    Refused(String),
}

/// What a trainer needs to know to go on with a run.
#[derive(Clone, Debug)]
pub struct BegunAttempt {
    pub attempt: u32,
    pub spec: RunSpec,
    pub next_reading: u32,
    pub next_update: u32,
    /// What each attempt has delivered from, in their order.
    pub segments: Vec<Segment>,
    /// Newest first.
    pub states: Vec<SavedState>,
    /// The parent's states at the step that the run starts from, newest first.
    pub parents: Vec<SavedState>,
    /// What an earlier attempt settled.
    pub settled: Option<Settled>,
}

/// A recorded state: the parameters before update `step`, with everything needed to go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedState {
    pub step: u32,
    pub attempt: u32,
    pub path: String,
    pub sha256: String,
    pub global_step: u64,
}

/// An attempt has superseded everything from a step on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub attempt: u32,
    pub first_step: u32,
}

/// What a heartbeat says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    pub step: u32,
    pub steps_per_second: f32,
    pub undelivered_since_step: Option<u32>,
}

/// How an attempt ended by its own word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttemptEnd {
    /// All updates made.
    Finished,
    /// Stopped by a signal.
    Stopped { reason: String },
    /// Cannot succeed if tried again.
    Failed { reason: String },
}

type StateRow = (i32, i32, String, String, i64);

impl From<StateRow> for SavedState {
    fn from((step, attempt, path, sha256, global_step): StateRow) -> Self {
        Self {
            step: step as u32,
            attempt: attempt as u32,
            path,
            sha256,
            global_step: global_step as u64,
        }
    }
}

impl Store {
    /// Begins the next attempt of a run and ends the one before.
    ///
    /// The attempt is taken for dead when no heartbeat comes within `lease`.
    ///
    /// # Errors
    /// When there is no such run.
    pub async fn begin_attempt(
        &self,
        run_id: i32,
        process: &Process,
        lease: Duration,
    ) -> Result<Begin, Error> {
        begin(&self.pool, run_id, process, lease)
            .await
            .map_err(Error::doing(format!("begin an attempt of run {run_id}")))?
            .ok_or_else(|| no_run(run_id))
    }

    /// Fixes what a run's configuration leaves open, and says what stands: the first word.
    ///
    /// Keeps the attempt's `record` where its beginning had none.
    ///
    /// # Errors
    /// `StaleAttempt` when the attempt is not the run's open one.
    pub async fn settle_run(
        &self,
        run_id: i32,
        attempt: u32,
        settled: &Settled,
        record: Option<&serde_json::Value>,
    ) -> Result<Settled, Error> {
        let settle = async {
            let mut tx = self.pool.begin().await?;
            // A later attempt that begins meanwhile is seen by what follows.
            lock_run(&mut tx, run_id).await?;
            let stands: Option<Json<Settled>> = sqlx::query_scalar(
                "with a as (
                     update imprint.attempt set record = coalesce(record, $4)
                     where run_id = $1 and attempt = $2 and ended_at is null returning run_id
                 )
                 update imprint.run r set settled = coalesce(r.settled, $3)
                 from a where a.run_id = r.run_id
                 returning r.settled",
            )
            .bind(run_id)
            .bind(attempt as i32)
            .bind(Json(settled))
            .bind(record.map(Json))
            .fetch_optional(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(stands)
        };
        settle
            .await
            .map_err(Error::doing(format!("settle run {run_id}")))?
            .map(|Json(settled)| settled)
            .ok_or(Error::StaleAttempt {
                run: run_id,
                attempt,
            })
    }

    /// Renews an attempt's lease; whether the attempt is to stop, its run being cancelled.
    ///
    /// # Errors
    /// `StaleAttempt` when the attempt is not the run's open one.
    pub async fn heartbeat(
        &self,
        run_id: i32,
        attempt: u32,
        progress: &Progress,
        lease: Duration,
    ) -> Result<bool, Error> {
        let stop: Option<bool> = sqlx::query_scalar(
            "update imprint.attempt a
             set heartbeat_at = now(), lease_until = now() + make_interval(secs => $3), step = $4,
                 steps_per_second = $5, undelivered_since_step = $6
             from imprint.run r
             where r.run_id = a.run_id and a.run_id = $1 and a.attempt = $2 and a.ended_at is null
             returning r.cancel_requested",
        )
        .bind(run_id)
        .bind(attempt as i32)
        .bind(lease.as_secs_f64())
        .bind(progress.step as i32)
        .bind(progress.steps_per_second)
        .bind(progress.undelivered_since_step.map(|s| s as i32))
        .fetch_optional(&self.pool)
        .await
        .map_err(Error::doing(format!("take a heartbeat of run {run_id}")))?;
        stop.ok_or(Error::StaleAttempt {
            run: run_id,
            attempt,
        })
    }

    /// Records a saved state, and gives back (and forgets) those that nothing needs any more.
    ///
    /// Needed are states kept for good, the newest (as many as `saving.keep_last` says), and the
    /// newest at or below the step of the first reading that is not durable: from there the run can
    /// go on whatever happens.
    ///
    /// # Errors
    /// `StaleAttempt` when the attempt is not the run's open one.
    pub async fn record_state(
        &self,
        run_id: i32,
        attempt: u32,
        state: &SavedState,
        keep: bool,
    ) -> Result<Vec<SavedState>, Error> {
        record_state(&self.pool, run_id, attempt, state, keep)
            .await
            .map_err(Error::doing(format!("record a state of run {run_id}")))?
            .ok_or(Error::StaleAttempt {
                run: run_id,
                attempt,
            })
    }

    /// Ends an attempt by its own word.
    ///
    /// # Errors
    /// `StaleAttempt` when the attempt is not the run's open one.
    pub async fn end_attempt(
        &self,
        run_id: i32,
        attempt: u32,
        step: u32,
        end: &AttemptEnd,
    ) -> Result<(), Error> {
        let ended = self.try_end_attempt(run_id, attempt, step, end).await;
        match ended.map_err(Error::doing(format!("end an attempt of run {run_id}")))? {
            true => Ok(()),
            false => Err(Error::StaleAttempt {
                run: run_id,
                attempt,
            }),
        }
    }

    async fn try_end_attempt(
        &self,
        run_id: i32,
        attempt: u32,
        step: u32,
        end: &AttemptEnd,
    ) -> sqlx::Result<bool> {
        let mut tx = self.pool.begin().await?;
        let (outcome, reason) = match end {
            AttemptEnd::Finished => ("finished", ""),
            AttemptEnd::Stopped { reason } => ("stopped", reason.as_str()),
            AttemptEnd::Failed { reason } => ("failed", reason.as_str()),
        };
        lock_run(&mut tx, run_id).await?;
        if !close(&mut tx, run_id, attempt, outcome, reason).await? {
            // Said before: the answer got lost.
            let sql = "select from imprint.attempt
                       where run_id = $1 and attempt = $2 and outcome = $3";
            let repeated = sqlx::query(sql)
                .bind(run_id)
                .bind(attempt as i32)
                .bind(outcome);
            return Ok(repeated.fetch_optional(&mut *tx).await?.is_some());
        }
        sqlx::query("update imprint.attempt set step = $3 where run_id = $1 and attempt = $2")
            .bind(run_id)
            .bind(attempt as i32)
            .bind(step as i32)
            .execute(&mut *tx)
            .await?;
        let sql = match end {
            AttemptEnd::Finished => {
                // What could not be delivered for so long can wait a little before it is tried again.
                "update imprint.run set state = 'delivering', reason = '', barren_attempts = 0,
                        not_before = now() + interval '1 minute'
                 where run_id = $1"
            }
            AttemptEnd::Stopped { .. } => {
                "update imprint.run
                 set state = case when cancel_requested then 'cancelled'
                                  when fruitless_stops >= $3 then 'failed' else 'queued' end,
                     finished_at = case when cancel_requested or fruitless_stops >= $3
                                        then now() end,
                     reason = case when cancel_requested then 'cancelled'
                                   when fruitless_stops >= $3 then format(
                         'stopped %s times in a row before it got any further, the last time: %s; '
                         'give its jobs more time, then retry it', fruitless_stops, $2)
                                   else '' end,
                     not_before = now() + make_interval(
                         secs => case fruitless_stops when 0 then 0
                                 else least(power(2, fruitless_stops), 60) end)
                 where run_id = $1"
            }
            AttemptEnd::Failed { .. } => {
                "update imprint.run
                 set state = case when cancel_requested then 'cancelled' else 'failed' end,
                     reason = case when cancel_requested then 'cancelled' else $2 end,
                     finished_at = now()
                 where run_id = $1"
            }
        };
        let query = sqlx::query(sql).bind(run_id);
        let query = match end {
            AttemptEnd::Failed { reason } => query.bind(reason),
            AttemptEnd::Stopped { reason } => query.bind(reason).bind(MAX_FRUITLESS_STOPS),
            AttemptEnd::Finished => query,
        };
        query.execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(true)
    }
}

fn no_run(run_id: i32) -> Error {
    Error::NotFound {
        what: format!("run {run_id}"),
    }
}

pub(super) async fn lock_run(db: &mut PgConnection, run_id: i32) -> sqlx::Result<()> {
    sqlx::query("select from imprint.run where run_id = $1 for no key update")
        .bind(run_id)
        .execute(db)
        .await?;
    Ok(())
}

/// Closes an attempt if it is open, and notes how far the run came.
///
/// An attempt that got no further than those before it is barren, or fruitless where it was asked to
/// stop; one that did clears both counts.
/// The caller holds the run's row.
pub(super) async fn close(
    db: &mut PgConnection,
    run_id: i32,
    attempt: u32,
    outcome: &str,
    reason: &str,
) -> sqlx::Result<bool> {
    let closed = sqlx::query(
        "with closed as (
             update imprint.attempt set ended_at = now(), outcome = $3, reason = $4
             where run_id = $1 and attempt = $2 and ended_at is null returning run_id
         ), progress as (
             select coalesce(max(h.next_reading), 0) as readings,
                    coalesce((select max(s.step) filter (where s.attempt = $2) >
                                     coalesce(max(s.step) filter (where s.attempt < $2), 0)
                              from imprint.saved_state s where s.run_id = $1), false) as saved
             from imprint.ingest_head h where h.run_id = $1
         )
         update imprint.run r
         set furthest_reading = greatest(r.furthest_reading, p.readings),
             barren_attempts = case when p.saved or p.readings > r.furthest_reading then 0
                                    else r.barren_attempts end,
             fruitless_stops = case when p.saved or p.readings > r.furthest_reading then 0
                                    else r.fruitless_stops + ($3 = 'stopped')::int end
         from closed c cross join progress p where r.run_id = c.run_id",
    )
    .bind(run_id)
    .bind(attempt as i32)
    .bind(outcome)
    .bind(reason)
    .execute(&mut *db)
    .await?;
    let is_closed = closed.rows_affected() == 1;
    if is_closed && outcome != "finished" {
        // Its open stream, if it has one, ends with its next batch.
        sqlx::query(
            "update imprint.ingest_head set attempt = 0 where run_id = $1 and attempt = $2",
        )
        .bind(run_id)
        .bind(attempt as i32)
        .execute(db)
        .await?;
    }
    Ok(is_closed)
}

type RunRow = (
    RunState,
    bool,
    String,
    Json<RunSpec>,
    Option<i32>,
    Option<i32>,
    Option<Json<Settled>>,
);

async fn begin(
    pool: &PgPool,
    run_id: i32,
    process: &Process,
    lease: Duration,
) -> sqlx::Result<Option<Begin>> {
    let mut tx = pool.begin().await?;
    let row: Option<RunRow> = sqlx::query_as(
        "select state, cancel_requested, reason, spec, parent_run_id, parent_step, settled
         from imprint.run where run_id = $1 for no key update",
    )
    .bind(run_id)
    .fetch_optional(&mut *tx)
    .await?;
    let Some((state, cancel_requested, reason, spec, parent_run_id, parent_step, settled)) = row
    else {
        return Ok(None);
    };
    let spec = spec.0;
    if state.has_ended() {
        let why = match reason.as_str() {
            "" => String::new(),
            reason => format!(" ({reason})"),
        };
        return Ok(Some(Begin::Refused(format!(
            "run {} is {}{why}; there is nothing to begin",
            spec.label,
            state.as_str()
        ))));
    }
    if cancel_requested {
        return Ok(Some(Begin::Refused(format!(
            "run {} was cancelled",
            spec.label
        ))));
    }
    let job = match &process.job {
        None => None,
        Some(request_id) => match jobs::number(&mut tx, run_id, request_id).await? {
            Some(job) => Some(job),
            None => {
                return Ok(Some(Begin::Refused(format!(
                    "this job of run {} was written off: it was silent for too long, or another \
                     was started in its place",
                    spec.label
                ))));
            }
        },
    };
    let parents = match (parent_run_id, parent_step) {
        (Some(parent), Some(step)) => {
            let rows: Vec<StateRow> = sqlx::query_as(
                "select step, attempt, path, sha256, global_step from imprint.saved_state
                 where run_id = $1 and step = $2 and keep order by attempt desc",
            )
            .bind(parent)
            .bind(step)
            .fetch_all(&mut *tx)
            .await?;
            if rows.is_empty() {
                return Ok(Some(Begin::Refused(format!(
                    "run {} cannot begin before its parent has saved its state at step {step}",
                    spec.label
                ))));
            }
            rows
        }
        _ => Vec::new(),
    };
    let last: Option<(i32, bool, Option<DateTime<Utc>>)> = sqlx::query_as(
        "select attempt, ended_at is null,
                case when offline and ended_at is null and lease_until > now() then lease_until end
         from imprint.attempt where run_id = $1 order by attempt desc limit 1",
    )
    .bind(run_id)
    .fetch_optional(&mut *tx)
    .await?;
    if let Some((attempt, _, Some(until))) = last {
        return Ok(Some(Begin::Refused(format!(
            "run {} is taken offline by attempt {attempt} until {}; import its spool, or cancel \
             the run",
            spec.label,
            until.format("%F %R UTC")
        ))));
    }
    if let Some((open, true, _)) = last {
        let by = format!("process {} on {} took over", process.pid, process.host);
        close(&mut tx, run_id, open as u32, "superseded", &by).await?;
    }
    let attempt = last.map_or(1, |(attempt, ..)| attempt + 1);
    let states: Vec<StateRow> = sqlx::query_as(
        "select step, attempt, path, sha256, global_step from imprint.saved_state
         where run_id = $1 order by step desc, attempt desc",
    )
    .bind(run_id)
    .fetch_all(&mut *tx)
    .await?;
    sqlx::query(
        "insert into imprint.attempt (run_id, attempt, host, pid, device, threads, machine,
                                      lease_until, step, offline, job, record)
         values ($1, $2, $3, $4, $5, $6, $7, now() + make_interval(secs => $8), $9, $10, $11, $12)",
    )
    .bind(run_id)
    .bind(attempt)
    .bind(&process.host)
    .bind(process.pid as i32)
    .bind(&spec.resources.device)
    .bind(spec.resources.threads as i32)
    .bind(&process.machine)
    .bind(lease.as_secs_f64())
    .bind(states.first().map_or(0, |newest| newest.0))
    .bind(process.offline)
    .bind(job)
    .bind(process.record.as_ref().map(Json))
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "update imprint.run set state = 'running', reason = '',
                started_at = coalesce(started_at, now())
         where run_id = $1",
    )
    .bind(run_id)
    .execute(&mut *tx)
    .await?;
    let cursors: Option<(i32, i32)> = sqlx::query_as(
        "select next_reading, next_update from imprint.ingest_head where run_id = $1",
    )
    .bind(run_id)
    .fetch_optional(&mut *tx)
    .await?;
    let segments: Vec<(i32, i32)> = sqlx::query_as(
        "select attempt, first_step from imprint.segment where run_id = $1 order by attempt",
    )
    .bind(run_id)
    .fetch_all(&mut *tx)
    .await?;
    tx.commit().await?;
    let (next_reading, next_update) = cursors.unwrap_or_default();
    Ok(Some(Begin::Begun(Box::new(BegunAttempt {
        attempt: attempt as u32,
        spec,
        next_reading: next_reading as u32,
        next_update: next_update as u32,
        segments: segments
            .into_iter()
            .map(|(attempt, first_step)| Segment {
                attempt: attempt as u32,
                first_step: first_step as u32,
            })
            .collect(),
        states: states.into_iter().map(SavedState::from).collect(),
        parents: parents.into_iter().map(SavedState::from).collect(),
        settled: settled.map(|Json(settled)| settled),
    }))))
}

async fn record_state(
    pool: &PgPool,
    run_id: i32,
    attempt: u32,
    state: &SavedState,
    keep: bool,
) -> sqlx::Result<Option<Vec<SavedState>>> {
    let mut tx = pool.begin().await?;
    lock_run(&mut tx, run_id).await?;
    let inserted = sqlx::query(
        "insert into imprint.saved_state (run_id, step, attempt, path, sha256, global_step, keep)
         select a.run_id, $3, a.attempt, $4, $5, $6,
                $7 or $3 = r.n_updates or r.spec #> '{saving,keep}' @> to_jsonb($3)
         from imprint.attempt a join imprint.run r using (run_id)
         where a.run_id = $1 and a.attempt = $2 and a.ended_at is null
         on conflict (run_id, step, attempt) do update set
             path = excluded.path, sha256 = excluded.sha256, global_step = excluded.global_step,
             keep = excluded.keep",
    )
    .bind(run_id)
    .bind(attempt as i32)
    .bind(state.step as i32)
    .bind(&state.path)
    .bind(&state.sha256)
    .bind(state.global_step as i64)
    .bind(keep)
    .execute(&mut *tx)
    .await?;
    if inserted.rows_affected() == 0 {
        return Ok(None);
    }
    let obsolete: Vec<StateRow> = sqlx::query_as(
        "with durable as (
             select coalesce((select least(r.reading_steps[h.next_reading + 1], h.next_update)
                              from imprint.ingest_head h where h.run_id = r.run_id), 0) as step
             from imprint.run r where r.run_id = $1
         ), ranked as (
             select s.*, row_number() over (order by s.attempt desc, s.step desc) as newest,
                    row_number() over (partition by s.step <= d.step
                                       order by s.step desc, s.attempt desc) = 1
                        and s.step <= d.step as newest_durable
             from imprint.saved_state s cross join durable d where s.run_id = $1
         )
         delete from imprint.saved_state s using ranked x
         where s.run_id = $1 and (s.step, s.attempt) = (x.step, x.attempt)
           and not x.keep and not x.newest_durable
           and x.newest > (select coalesce((r.spec #>> '{saving,keep_last}')::int8, 2)
                           from imprint.run r where r.run_id = $1)
         returning s.step, s.attempt, s.path, s.sha256, s.global_step",
    )
    .bind(run_id)
    .fetch_all(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(Some(obsolete.into_iter().map(SavedState::from).collect()))
}
