//! Readings and update statistics on their way into the database.
//!
//! The attempt number is the fence: a [`Writer`] belongs to one attempt of one run, and whatever it
//! writes is stored by the statement that moves the run's row in `ingest_head`, which moves only
//! from where the writer saw it last and only under the attempt that opened the run's stream last.
//!
//! Locks are taken in one order, so that nobody waits in a circle: the run, `ingest_head`, the
//! readings and means, `chunk_head`, the chunks.

pub(crate) mod chunk;
pub(crate) mod layout;
mod statement;

use imprint_core::{StepReadings, UpdateStats};
use sqlx::PgConnection;

use self::layout::Layout;
use crate::{Error, Store};

/// Readings that one row of `probe_chunk` holds.
pub(crate) const CHUNK_READINGS: u32 = 64;

/// Readings and updates that one transaction supersedes at most: half a second's work with
/// thousands of probes.
const SUPERSEDED_AT_ONCE: u32 = 256;

/// Where a run's stream stands: everything below is committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursors {
    /// Index of the next reading.
    pub next_reading: u32,
    /// Step of the next update.
    pub next_update: u32,
}

/// What a trainer sends.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    Reading(StepReadings),
    Update(UpdateStats),
}

/// Why a message was not taken, for good.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("reading {got} leaves a gap: reading {expected} is expected")]
    ReadingGap { expected: u32, got: u32 },
    #[error("update {got} leaves a gap: update {expected} is expected")]
    UpdateGap { expected: u32, got: u32 },
    #[error("{field}: {problem}")]
    Invalid {
        field: &'static str,
        problem: String,
    },
}

/// What became of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Where the stream stands after the commit.
    pub cursors: Cursors,
    /// Why the batch was taken only up to a message; what comes before that one is committed.
    pub refused: Option<Refusal>,
}

/// The only way to write a run's readings: one attempt's stream.
#[derive(Debug)]
pub struct Writer {
    store: Store,
    run_id: i32,
    attempt: i32,
    layout: Layout,
    /// Where the head was when this writer saw it last.
    cursors: Cursors,
}

impl Writer {
    /// The stream of a run's current attempt, which goes on from θ at `resume_step`.
    ///
    /// The first time that an attempt opens, everything at or above `resume_step` is superseded and
    /// the cursors go back there; a cursor that is below stays, and the attempt replays from it.
    /// That is done from the newest reading down, in transactions that do not grow with the run.
    /// Opening again goes on where it was interrupted, and changes nothing once it is done.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an unknown run and [`Error::StaleAttempt`] where another attempt is
    /// the current one, or none is; [`Error::Invalid`] for a step that the run does not have.
    pub async fn open(
        store: &Store,
        run_id: i32,
        attempt: u32,
        resume_step: u32,
        machine: &str,
    ) -> Result<(Self, Cursors), Error> {
        let layout = {
            let doing = Error::doing(format!("look up run {run_id}"));
            Layout::load(&mut *store.pool().acquire().await.map_err(doing)?, run_id).await?
        };
        layout.check_resume_step(resume_step)?;
        let stale = Error::StaleAttempt {
            run: run_id,
            attempt,
        };
        let Ok(number) = i32::try_from(attempt) else {
            return Err(stale);
        };
        sqlx::query("select imprint.ensure_partitions($1)")
            .bind(run_id)
            .execute(store.pool())
            .await
            .map_err(Error::doing("make room for a run's readings"))?;
        let doing = || Error::doing(format!("open the stream of run {run_id}"));
        let mut writer = Self {
            store: store.clone(),
            run_id,
            attempt: number,
            layout,
            cursors: Cursors::default(),
        };
        loop {
            let mut tx = store.pool().begin().await.map_err(doing())?;
            // Whoever waits here holds the run and its attempt, for which heartbeats wait.
            sqlx::raw_sql("set local lock_timeout = '5s'")
                .execute(&mut *tx)
                .await
                .map_err(doing())?;
            if !writer.is_current(&mut tx).await.map_err(doing())? {
                return Err(stale);
            }
            let claimed = writer.claim(&mut tx, resume_step, machine).await;
            let claimed = claimed.map_err(doing())?;
            tx.commit().await.map_err(doing())?;
            if let Some(cursors) = claimed {
                writer.cursors = cursors;
                return Ok((writer, cursors));
            }
        }
    }

    /// Whether this is the run's newest attempt and has not ended; one that has made all updates and
    /// ended may still be delivered for.
    ///
    /// Until the transaction ends nobody ends the attempt or begins another: its successor is told
    /// the cursors either before they are changed here, and then this is stale, or after.
    async fn is_current(&self, db: &mut PgConnection) -> Result<bool, sqlx::Error> {
        let is_open: Option<bool> = sqlx::query_scalar(
            "select a.ended_at is null or a.outcome = 'finished' and r.state = 'delivering'
             from imprint.run r join imprint.attempt a using (run_id)
             where r.run_id = $1 and a.attempt = $2 for share",
        )
        .bind(self.run_id)
        .bind(self.attempt)
        .fetch_optional(&mut *db)
        .await?;
        let newest: Option<i32> =
            sqlx::query_scalar("select max(attempt) from imprint.attempt where run_id = $1")
                .bind(self.run_id)
                .fetch_one(db)
                .await?;
        Ok(is_open == Some(true) && newest == Some(self.attempt))
    }

    /// Takes the stream and supersedes the newest part of what is to be superseded; the cursors once
    /// nothing of that is left, which the attempt's segment then says.
    async fn claim(
        &self,
        db: &mut PgConnection,
        resume_step: u32,
        machine: &str,
    ) -> Result<Option<Cursors>, sqlx::Error> {
        let run_id = self.run_id;
        // Attempts count from 1: 0 has the stream that nobody opened yet.
        sqlx::query(
            "insert into imprint.ingest_head (run_id, attempt, next_reading, next_update)
             values ($1, 0, 0, 0) on conflict do nothing",
        )
        .bind(run_id)
        .execute(&mut *db)
        .await?;
        sqlx::query("select from imprint.ingest_head where run_id = $1 for update")
            .bind(run_id)
            .execute(&mut *db)
            .await?;
        let (_, stored) = self.head(db).await?;
        let is_open: bool = sqlx::query_scalar(
            "select exists (select from imprint.segment where run_id = $1 and attempt = $2)",
        )
        .bind(run_id)
        .bind(self.attempt)
        .fetch_one(&mut *db)
        .await?;
        if is_open {
            return Ok(Some(stored));
        }
        let first_reading = self.layout.first_reading_from(resume_step);
        let part = |stored: u32, first: u32| {
            stored.min(first.max(stored.saturating_sub(SUPERSEDED_AT_ONCE)))
        };
        let cursors = Cursors {
            next_reading: part(stored.next_reading, first_reading),
            next_update: part(stored.next_update, resume_step),
        };
        for (statement, from) in [
            (
                "with gone as (
                     delete from imprint.step_reading where run_id = $1 and reading >= $2 returning *
                 )
                 insert into imprint.superseded_reading (run_id, reading, step, attempt,
                     first_sum_nats, target_sum_nats, full_sum_nats, stored_at, superseded_by)
                 select run_id, reading, step, attempt,
                     first_sum_nats, target_sum_nats, full_sum_nats, stored_at, $3 from gone",
                cursors.next_reading,
            ),
            (
                "with gone as (
                     delete from imprint.update_stats where run_id = $1 and step >= $2 returning *
                 )
                 insert into imprint.superseded_update (run_id, step, attempt, loss_nats,
                     learning_rate, grad_norm, update_norm, n_tokens, n_injected_tokens,
                     duration_ms, superseded_by)
                 select run_id, step, attempt, loss_nats, learning_rate, grad_norm, update_norm,
                     n_tokens, n_injected_tokens, duration_ms, $3 from gone",
                cursors.next_update,
            ),
        ] {
            sqlx::query(statement)
                .bind(run_id)
                .bind(from as i32)
                .bind(self.attempt)
                .execute(&mut *db)
                .await?;
        }
        sqlx::query("delete from imprint.step_mean where run_id = $1 and reading >= $2")
            .bind(run_id)
            .bind(cursors.next_reading as i32)
            .execute(&mut *db)
            .await?;
        chunk::cut(db, run_id, cursors.next_reading).await?;
        self.move_head(db, cursors).await?;
        if cursors.next_reading > first_reading || cursors.next_update > resume_step {
            return Ok(None);
        }
        sqlx::query(
            "insert into imprint.segment
                 (run_id, attempt, first_step, first_reading, machine, same_machine)
             values ($1, $2, $3, $4, $5, coalesce(
                 (select machine = $5 from imprint.segment
                  where run_id = $1 order by attempt desc limit 1), true))",
        )
        .bind(run_id)
        .bind(self.attempt)
        .bind(resume_step as i32)
        .bind(first_reading as i32)
        .bind(machine)
        .execute(&mut *db)
        .await?;
        Ok(Some(cursors))
    }

    /// Stores a batch, in order, in one transaction; what is stored already is passed over.
    ///
    /// When this returns, everything below the cursors is on the disk.
    ///
    /// # Errors
    /// [`Error::StaleAttempt`] when another attempt has opened the stream since;
    /// [`Error::NotFound`] when the run was dropped.
    pub async fn append(&mut self, batch: &[Message]) -> Result<Appended, Error> {
        let run_id = self.run_id;
        let doing = || Error::doing(format!("store readings of run {run_id}"));
        let store = self.store.clone();
        let mut lane = store.lanes.take().await.map_err(doing())?;
        let appended = self.append_on(lane.connection(), batch).await;
        match lane.done(appended) {
            Ok(Some(appended)) => Ok(appended),
            Ok(None) => Err(Error::StaleAttempt {
                run: self.run_id,
                attempt: self.attempt as u32,
            }),
            // Its head went with it.
            Err(sqlx::Error::RowNotFound) => Err(Error::NotFound {
                what: format!("run {run_id}"),
            }),
            Err(error) => Err(doing()(error)),
        }
    }

    /// `None` when another attempt has opened the stream since.
    async fn append_on(
        &mut self,
        db: &mut PgConnection,
        batch: &[Message],
    ) -> sqlx::Result<Option<Appended>> {
        loop {
            let taken = self.take(batch, self.cursors);
            let is_new = taken.cursors != self.cursors;
            if is_new && self.commit(db, &taken).await? {
                self.cursors = taken.cursors;
                return Ok(Some(taken.appended()));
            }
            // Nothing to store, or the head has been moved: by a later attempt, or by another
            // stream of this one, such as a reconnect before the broken connection was noticed.
            let (opened_by, stored) = self.head(db).await?;
            if opened_by != self.attempt {
                return Ok(None);
            }
            if stored == self.cursors && !is_new {
                return Ok(Some(taken.appended()));
            }
            self.cursors = stored;
        }
    }

    /// Commits what was taken, unless the head is not where this writer saw it last.
    async fn commit(&mut self, db: &mut PgConnection, taken: &Taken<'_>) -> sqlx::Result<bool> {
        let run = (self.run_id, self.attempt);
        let is_stored = statement::store(db, run, self.cursors, taken, &self.layout).await?;
        let chunks = |cursors: Cursors| cursors.next_reading / CHUNK_READINGS;
        if is_stored && chunks(taken.cursors) > chunks(self.cursors) {
            self.store.chunks_due.add(self.run_id);
        }
        Ok(is_stored)
    }

    /// The messages of a batch that are new, up to the first that cannot be taken.
    fn take<'a>(&self, batch: &'a [Message], mut cursors: Cursors) -> Taken<'a> {
        let (mut readings, mut updates, mut refused) = (Vec::new(), Vec::new(), None);
        for message in batch {
            let checked = match message {
                Message::Reading(r) if r.index < cursors.next_reading => Ok(()),
                Message::Update(u) if u.step < cursors.next_update => Ok(()),
                Message::Reading(r) => self
                    .layout
                    .check_reading(r, cursors.next_reading, self.attempt)
                    .map(|()| {
                        readings.push(r);
                        cursors.next_reading += 1;
                    }),
                Message::Update(u) => self
                    .layout
                    .check_update(u, cursors.next_update, self.attempt)
                    .map(|()| {
                        updates.push(u);
                        cursors.next_update += 1;
                    }),
            };
            if let Err(refusal) = checked {
                refused = Some(refusal);
                break;
            }
        }
        Taken {
            readings,
            updates,
            cursors,
            refused,
        }
    }

    /// The attempt that opened the stream last, and where it stands.
    async fn head(&self, db: &mut PgConnection) -> Result<(i32, Cursors), sqlx::Error> {
        let (attempt, next_reading, next_update): (i32, i32, i32) = sqlx::query_as(
            "select attempt, next_reading, next_update from imprint.ingest_head
             where run_id = $1",
        )
        .bind(self.run_id)
        .fetch_one(db)
        .await?;
        let cursors = Cursors {
            next_reading: next_reading as u32,
            next_update: next_update as u32,
        };
        Ok((attempt, cursors))
    }

    async fn move_head(&self, db: &mut PgConnection, to: Cursors) -> Result<(), sqlx::Error> {
        sqlx::query(
            "update imprint.ingest_head set attempt = $2, next_reading = $3, next_update = $4
             where run_id = $1",
        )
        .bind(self.run_id)
        .bind(self.attempt)
        .bind(to.next_reading as i32)
        .bind(to.next_update as i32)
        .execute(db)
        .await
        .map(drop)
    }
}

struct Taken<'a> {
    readings: Vec<&'a StepReadings>,
    updates: Vec<&'a UpdateStats>,
    cursors: Cursors,
    refused: Option<Refusal>,
}

impl Taken<'_> {
    fn appended(self) -> Appended {
        Appended {
            cursors: self.cursors,
            refused: self.refused,
        }
    }
}
