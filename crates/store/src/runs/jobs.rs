//! Who schedules, and what was asked of executors.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::{PgConnection, Postgres, Transaction};

use super::attempts::lock_run;
use crate::{Error, Store};

/// Proof of having led: a change under it is refused once another leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leader(i64);

/// What an executor was asked to start: one try to have a trainer of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    pub run_id: i32,
    /// 1 for the run's first.
    pub job: u32,
    /// The executor's name in the site file.
    pub executor: String,
    /// The place of the executor that it takes, where the executor has places.
    pub slot: Option<u32>,
    /// The executor finds the job by it when its answer got lost.
    pub request_id: String,
    /// What the executor calls it, once that is known.
    pub external_id: Option<String>,
    /// Since the executor was asked last.
    pub asked_for: Duration,
    /// How often it was.
    pub n_asked: u32,
    /// Since its process came to life; `None` while it waits in a queue.
    pub alive_for: Option<Duration>,
    /// Since it was first asked to save and end.
    pub stopping_for: Option<Duration>,
    /// Since it was last asked to end at once.
    pub killing_for: Option<Duration>,
    /// Whether its process has begun an attempt.
    pub began: bool,
    /// Since its process came to life, or last ended an attempt; zero while it waits in a queue.
    pub idle_for: Duration,
}

/// What was newly seen of an open job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    pub run_id: i32,
    pub job: u32,
    pub external_id: String,
    pub alive: bool,
}

#[derive(sqlx::FromRow)]
struct Row {
    run_id: i32,
    job: i32,
    executor: String,
    slot: Option<i32>,
    request_id: String,
    external_id: Option<String>,
    asked_for: f64,
    n_asked: i32,
    alive_for: Option<f64>,
    stopping_for: Option<f64>,
    killing_for: Option<f64>,
    began: bool,
    idle_for: f64,
}

impl From<Row> for Job {
    fn from(row: Row) -> Self {
        // The database's clock may have been set back.
        let duration = |seconds: f64| Duration::from_secs_f64(seconds.max(0.0));
        Self {
            run_id: row.run_id,
            job: row.job as u32,
            executor: row.executor,
            slot: row.slot.map(|slot| slot as u32),
            request_id: row.request_id,
            external_id: row.external_id,
            asked_for: duration(row.asked_for),
            n_asked: row.n_asked as u32,
            alive_for: row.alive_for.map(duration),
            stopping_for: row.stopping_for.map(duration),
            killing_for: row.killing_for.map(duration),
            began: row.began,
            idle_for: duration(row.idle_for),
        }
    }
}

impl Store {
    /// Takes the lead, or keeps it, for a time; `Err` inside names who has it.
    pub async fn take_lead(
        &self,
        holder: &str,
        held: Option<Leader>,
        lasts: Duration,
    ) -> Result<Result<Leader, String>, Error> {
        let take = async {
            // One after whom nobody led keeps the number.
            let number: Option<i64> = sqlx::query_scalar(
                "update imprint.leader
                 set number = number + (number is distinct from $2)::int,
                     holder = $1, lead_until = clock_timestamp() + make_interval(secs => $3)
                 where number = $2 or lead_until < clock_timestamp() returning number",
            )
            .bind(holder)
            .bind(held.map(|leader| leader.0))
            .bind(lasts.as_secs_f64())
            .fetch_optional(&self.pool)
            .await?;
            match number {
                Some(number) => Ok(Ok(Leader(number))),
                None => sqlx::query_scalar("select holder from imprint.leader")
                    .fetch_one(&self.pool)
                    .await
                    .map(Err),
            }
        };
        take.await.map_err(Error::doing("take the lead"))
    }

    /// Gives the lead back, so that another need not wait for its end.
    pub async fn resign(&self, leader: Leader) -> Result<(), Error> {
        sqlx::query("update imprint.leader set lead_until = '-infinity' where number = $1")
            .bind(leader.0)
            .execute(&self.pool)
            .await
            .map(drop)
            .map_err(Error::doing("give the lead back"))
    }

    /// A transaction that nobody else leads during.
    pub(super) async fn lead(&self, leader: Leader) -> Result<Transaction<'_, Postgres>, Error> {
        let doing = || Error::doing("see who leads");
        let mut tx = self.pool.begin().await.map_err(doing())?;
        let leads = sqlx::query(
            "select from imprint.leader where number = $1 and lead_until > now() for share",
        )
        .bind(leader.0)
        .fetch_optional(&mut *tx)
        .await
        .map_err(doing())?;
        match leads {
            Some(_) => Ok(tx),
            None => Err(Error::NotLeading),
        }
    }

    /// Notes that an executor is about to be asked to start a run; `None` when the run has an open
    /// job, or has ended.
    ///
    /// # Errors
    /// `NotLeading` when another orchestrator leads.
    pub async fn open_job(
        &self,
        leader: Leader,
        run_id: i32,
        executor: &str,
        slot: Option<u32>,
        request_id: &str,
    ) -> Result<Option<Job>, Error> {
        let doing = || format!("note a job of run {run_id}");
        let mut tx = self.lead(leader).await?;
        let opened = async {
            lock_run(&mut tx, run_id).await?;
            sqlx::query(
                "insert into imprint.job (run_id, job, executor, slot, request_id)
                 select r.run_id,
                        1 + coalesce((select max(job) from imprint.job where run_id = $1), 0),
                        $2, $3, $4
                 from imprint.run r
                 where r.run_id = $1 and r.state in ('queued', 'running', 'delivering')
                   and not exists (select from imprint.job
                                   where run_id = $1 and ended_at is null)",
            )
            .bind(run_id)
            .bind(executor)
            .bind(slot.map(|slot| slot as i32))
            .bind(request_id)
            .execute(&mut *tx)
            .await?;
            let row: Option<Row> =
                sqlx::query_as(sqlx::AssertSqlSafe(format!("{OPEN} and j.request_id = $1")))
                    .bind(request_id)
                    .fetch_optional(&mut *tx)
                    .await?;
            tx.commit().await?;
            Ok(row.map(Job::from))
        };
        opened.await.map_err(Error::doing(doing()))
    }

    /// Notes that an open job's executor is about to be asked once more, the same.
    ///
    /// # Errors
    /// `NotLeading` when another orchestrator leads.
    pub async fn ask_again(&self, leader: Leader, run_id: i32, job: u32) -> Result<(), Error> {
        let change = "asked_at = now(), n_asked = n_asked + 1";
        self.change_job(leader, run_id, job, change).await
    }

    /// Notes that an open job is asked to save and end.
    ///
    /// # Errors
    /// `NotLeading` when another orchestrator leads.
    pub async fn stop_job(&self, leader: Leader, run_id: i32, job: u32) -> Result<(), Error> {
        self.change_job(
            leader,
            run_id,
            job,
            "stop_asked_at = coalesce(stop_asked_at, now())",
        )
        .await
    }

    /// Notes that an open job is asked to end at once.
    ///
    /// # Errors
    /// `NotLeading` when another orchestrator leads.
    pub async fn kill_job(&self, leader: Leader, run_id: i32, job: u32) -> Result<(), Error> {
        let change = "stop_asked_at = coalesce(stop_asked_at, now()), kill_asked_at = now()";
        self.change_job(leader, run_id, job, change).await
    }

    async fn change_job(
        &self,
        leader: Leader,
        run_id: i32,
        job: u32,
        change: &'static str,
    ) -> Result<(), Error> {
        let doing = || format!("note what becomes of job {job} of run {run_id}");
        let mut tx = self.lead(leader).await?;
        let changed = async {
            lock_run(&mut tx, run_id).await?;
            let sql = format!(
                "update imprint.job set {change}
                 where run_id = $1 and job = $2 and ended_at is null"
            );
            sqlx::query(sqlx::AssertSqlSafe(sql))
                .bind(run_id)
                .bind(job as i32)
                .execute(&mut *tx)
                .await?;
            tx.commit().await
        };
        changed.await.map_err(Error::doing(doing()))
    }

    /// Notes what executors say of open jobs.
    ///
    /// # Errors
    /// `NotLeading` when another orchestrator leads.
    pub async fn note_sightings(
        &self,
        leader: Leader,
        sightings: &[Sighting],
    ) -> Result<(), Error> {
        let mut tx = self.lead(leader).await?;
        let noted = async {
            for seen in sightings {
                lock_run(&mut tx, seen.run_id).await?;
                sqlx::query(
                    "update imprint.job
                     set external_id = $3,
                         alive_at = case when $4 then coalesce(alive_at, now()) end
                     where run_id = $1 and job = $2 and ended_at is null",
                )
                .bind(seen.run_id)
                .bind(seen.job as i32)
                .bind(&seen.external_id)
                .bind(seen.alive)
                .execute(&mut *tx)
                .await?;
            }
            tx.commit().await
        };
        noted.await.map_err(Error::doing("note what executors say"))
    }

    /// Ends an open job, in words that follow "the trainer".
    ///
    /// # Errors
    /// `NotLeading` when another orchestrator leads.
    pub async fn end_job(
        &self,
        leader: Leader,
        run_id: i32,
        job: u32,
        outcome: &str,
    ) -> Result<(), Error> {
        let doing = || format!("end job {job} of run {run_id}");
        let mut tx = self.lead(leader).await?;
        let ended = async {
            lock_run(&mut tx, run_id).await?;
            end(&mut tx, run_id, job, outcome).await?;
            tx.commit().await
        };
        ended.await.map_err(Error::doing(doing()))
    }
}

const OPEN: &str = "select j.run_id, j.job, j.executor, j.slot, j.request_id, j.external_id,
        extract(epoch from now() - j.asked_at)::float8 as asked_for, j.n_asked,
        extract(epoch from now() - j.alive_at)::float8 as alive_for,
        extract(epoch from now() - j.stop_asked_at)::float8 as stopping_for,
        extract(epoch from now() - j.kill_asked_at)::float8 as killing_for,
        a.began, case when j.alive_at is null then 0
                      else extract(epoch from now() - greatest(j.alive_at, a.ended_at)) end::float8
            as idle_for
 from imprint.job j
 cross join lateral (select count(*) > 0 as began, max(a.ended_at) as ended_at
                     from imprint.attempt a where a.run_id = j.run_id and a.job = j.job) a
 where j.ended_at is null";

/// Every open job by its run.
pub(super) async fn open(db: &mut PgConnection) -> sqlx::Result<BTreeMap<i32, Job>> {
    let rows: Vec<Row> = sqlx::query_as(OPEN).fetch_all(db).await?;
    Ok(rows
        .into_iter()
        .map(|row| (row.run_id, row.into()))
        .collect())
}

/// The open job of a run with a request id.
pub(super) async fn number(
    db: &mut PgConnection,
    run_id: i32,
    request_id: &str,
) -> sqlx::Result<Option<i32>> {
    let sql = "select job from imprint.job
               where run_id = $1 and request_id = $2 and ended_at is null";
    let job = sqlx::query_scalar(sql).bind(run_id).bind(request_id);
    job.fetch_optional(db).await
}

/// Ends a job if it is open; the caller holds the run's row.
pub(super) async fn end(
    db: &mut PgConnection,
    run_id: i32,
    job: u32,
    outcome: &str,
) -> sqlx::Result<bool> {
    let ended = sqlx::query(
        "update imprint.job set ended_at = now(), outcome = $3
         where run_id = $1 and job = $2 and ended_at is null",
    )
    .bind(run_id)
    .bind(job as i32)
    .bind(outcome)
    .execute(db)
    .await?;
    Ok(ended.rows_affected() == 1)
}
