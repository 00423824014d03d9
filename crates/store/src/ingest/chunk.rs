//! The derived table `probe_chunk`: 64 readings of one probe side by side.
//!
//! Chunks follow the readings: they are made after the commit that completes them, by somebody else
//! than who waits for that commit, and `chunk_head` says how far that has come.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use imprint_core::StepReadings;
use sqlx::PgConnection;
use tokio::sync::Notify;

use super::CHUNK_READINGS;
use crate::float4::{array_bytes, put_array};

/// Chunks that wait to be made, by run.
///
/// Who stores the reading that completes a chunk says so here, after the commit; who makes chunks
/// waits here. A chunk that nobody speaks of any more is found in the database.
#[derive(Debug, Default)]
pub(crate) struct Due {
    runs: Mutex<Waiting>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    runs: BTreeSet<i32>,
    /// The run that had its turn last: turns go round.
    last: i32,
}

impl Due {
    pub(super) fn add(&self, run_id: i32) {
        self.waiting().runs.insert(run_id);
        self.changed.notify_one();
    }

    /// Waits for a run with a chunk to make.
    pub(crate) async fn next(&self) -> i32 {
        loop {
            if let Some(run_id) = self.waiting().pop() {
                return run_id;
            }
            self.changed.notified().await;
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn pop(&mut self) -> Option<i32> {
        let after = self.runs.range(self.last.saturating_add(1)..).next();
        let run_id = *after.or_else(|| self.runs.first())?;
        self.runs.remove(&run_id);
        self.last = run_id;
        Some(run_id)
    }
}

/// Removes the chunks that hold a reading from `next_reading` on, or would.
///
/// From then on until the transaction ends nobody makes one.
pub(crate) async fn cut(
    db: &mut PgConnection,
    run_id: i32,
    next_reading: u32,
) -> Result<(), sqlx::Error> {
    let next_chunk = (next_reading / CHUNK_READINGS) as i32;
    sqlx::query(
        "insert into imprint.chunk_head (run_id, next_chunk) values ($1, $2)
         on conflict (run_id) do update
         set next_chunk = least(chunk_head.next_chunk, excluded.next_chunk)",
    )
    .bind(run_id)
    .bind(next_chunk)
    .execute(&mut *db)
    .await?;
    // Only now: what was being made until the head could be taken is seen, too.
    sqlx::query("delete from imprint.probe_chunk where run_id = $1 and chunk >= $2")
        .bind(run_id)
        .bind(next_chunk)
        .execute(db)
        .await
        .map(drop)
}

/// Takes the next chunk of a run, if it can be made, for the caller's transaction.
///
/// The row of `chunk_head` is kept to the end, so that no two make the same chunk, and that who
/// supersedes its readings finds it made, or not yet begun.
pub(crate) async fn take_next(
    db: &mut PgConnection,
    run_id: i32,
) -> Result<Option<u32>, sqlx::Error> {
    sqlx::query(
        "insert into imprint.chunk_head (run_id)
         select run_id from imprint.ingest_head where run_id = $1 on conflict do nothing",
    )
    .bind(run_id)
    .execute(&mut *db)
    .await?;
    let head: Option<i32> = sqlx::query_scalar(
        "select next_chunk from imprint.chunk_head where run_id = $1 for update",
    )
    .bind(run_id)
    .fetch_optional(&mut *db)
    .await?;
    let Some(chunk) = head else {
        return Ok(None);
    };
    // Only now: whoever superseded readings meanwhile has committed.
    let is_whole: Option<bool> = sqlx::query_scalar(
        "select next_reading / $2 > $3 from imprint.ingest_head where run_id = $1",
    )
    .bind(run_id)
    .bind(CHUNK_READINGS as i32)
    .bind(chunk)
    .fetch_optional(db)
    .await?;
    Ok((is_whole == Some(true)).then_some(chunk as u32))
}

/// Stores the chunk that was taken, of its 64 readings, all of which have as many probes.
pub(crate) async fn put(
    db: &mut PgConnection,
    run_id: i32,
    chunk: u32,
    readings: &[StepReadings],
) -> Result<(), sqlx::Error> {
    let spans: Vec<[&[f32]; 3]> = (readings.iter())
        .map(|r| [&*r.first_sum_nats, &*r.target_sum_nats, &*r.full_sum_nats])
        .collect();
    let mut sink = db
        .copy_in_raw("copy imprint.probe_chunk from stdin (format binary)")
        .await?;
    sink.send(rows_of(run_id, chunk, &spans)).await?;
    sink.finish().await?;
    sqlx::query("update imprint.chunk_head set next_chunk = $2 where run_id = $1")
        .bind(run_id)
        .bind(chunk as i32 + 1)
        .execute(db)
        .await
        .map(drop)
}

/// The rows of a chunk whose readings are these, as binary `COPY` takes them.
fn rows_of(run_id: i32, chunk: u32, readings: &[[&[f32]; 3]]) -> Vec<u8> {
    let n_probes = readings.first().map_or(0, |r| r[0].len());
    let array_bytes = array_bytes(readings.len());
    // Binary COPY: transposing in the database costs ten times as much.
    let mut rows = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
    rows.reserve(n_probes * (2 + 3 * 8 + 3 * (4 + array_bytes)) + 2);
    for probe in 0..n_probes {
        rows.extend_from_slice(&6_i16.to_be_bytes());
        for key in [run_id, probe as i32, chunk as i32] {
            rows.extend_from_slice(&4_i32.to_be_bytes());
            rows.extend_from_slice(&key.to_be_bytes());
        }
        for span in 0..3 {
            rows.extend_from_slice(&(array_bytes as i32).to_be_bytes());
            put_array(&mut rows, readings.iter().map(|r| r[span][probe]));
        }
    }
    rows.extend_from_slice(&(-1_i16).to_be_bytes());
    rows
}
