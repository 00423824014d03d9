//! The derived table `probe_chunk`: 64 readings of one probe side by side.

use std::sync::Arc;

use imprint_core::StepReadings;
use sqlx::PgConnection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::CHUNK_READINGS;
use crate::float4::{Float4Vec, array_bytes, put_array};

/// Removes the chunks that hold a reading from `next_reading` on, or would.
pub(crate) async fn cut(
    db: &mut PgConnection,
    run_id: i32,
    next_reading: u32,
) -> Result<(), sqlx::Error> {
    let next_chunk = (next_reading / CHUNK_READINGS) as i32;
    sqlx::query("delete from imprint.probe_chunk where run_id = $1 and chunk >= $2")
        .bind(run_id)
        .bind(next_chunk)
        .execute(&mut *db)
        .await?;
    set_head(db, run_id, next_chunk).await
}

/// Makes the chunks whose readings are all below `next_reading`.
pub(crate) async fn make(
    db: &mut PgConnection,
    run_id: i32,
    next_reading: u32,
) -> Result<(), sqlx::Error> {
    let from: i32 =
        sqlx::query_scalar("select next_chunk from imprint.chunk_head where run_id = $1")
            .bind(run_id)
            .fetch_one(&mut *db)
            .await?;
    let to = (next_reading / CHUNK_READINGS) as i32;
    for chunk in from..to {
        make_one(db, run_id, chunk as u32).await?;
    }
    set_head(db, run_id, to).await
}

async fn set_head(db: &mut PgConnection, run_id: i32, next_chunk: i32) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into imprint.chunk_head (run_id, next_chunk) values ($1, $2)
         on conflict (run_id) do update set next_chunk = excluded.next_chunk",
    )
    .bind(run_id)
    .bind(next_chunk)
    .execute(db)
    .await
    .map(drop)
}

async fn make_one(db: &mut PgConnection, run_id: i32, chunk: u32) -> Result<(), sqlx::Error> {
    let first = (chunk * CHUNK_READINGS) as i32;
    let rows: Vec<(Float4Vec, Float4Vec, Float4Vec)> = sqlx::query_as(
        "select first_sum_nats, target_sum_nats, full_sum_nats from imprint.step_reading
         where run_id = $1 and reading between $2 and $3 order by reading",
    )
    .bind(run_id)
    .bind(first)
    .bind(first + CHUNK_READINGS as i32 - 1)
    .fetch_all(&mut *db)
    .await?;
    let readings: Vec<[&[f32]; 3]> = (rows.iter())
        .map(|(first, target, full)| [&*first.0, &*target.0, &*full.0])
        .collect();
    copy(db, &rows_of(run_id, chunk, &readings)).await
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

async fn copy(db: &mut PgConnection, rows: &[u8]) -> Result<(), sqlx::Error> {
    let mut sink = db
        .copy_in_raw("copy imprint.probe_chunk from stdin (format binary)")
        .await?;
    sink.send(rows).await?;
    sink.finish().await.map(drop)
}

/// A stream's readings since the last whole chunk, kept while there is room for them, so that the
/// next chunk is made without reading them back.
#[derive(Debug, Default)]
pub(super) struct Recent {
    readings: Vec<StepReadings>,
    room: Option<OwnedSemaphorePermit>,
}

/// Room for the recent readings of all streams together, in KiB.
pub(crate) const RECENT_KIB: usize = 64 << 10;

/// A chunk that a batch completes.
pub(super) struct Whole {
    chunk: u32,
    /// Its rows, where its readings were kept.
    rows: Option<Vec<u8>>,
}

impl Recent {
    /// Keeps a batch's readings, which follow each other; returns the chunks that they complete.
    pub(super) fn push(
        &mut self,
        run_id: i32,
        readings: &[&StepReadings],
        room: &Arc<Semaphore>,
    ) -> Vec<Whole> {
        let mut whole = Vec::new();
        for r in readings {
            let (chunk, position) = (r.index / CHUNK_READINGS, r.index % CHUNK_READINGS);
            if position == 0 {
                let bytes = 3 * 4 * r.first_sum_nats.len() * CHUNK_READINGS as usize;
                let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
                self.forget();
                self.room = room.clone().try_acquire_many_owned(kib).ok();
            }
            if self.room.is_some() && self.readings.len() == position as usize {
                self.readings.push((*r).clone());
            }
            if position == CHUNK_READINGS - 1 {
                let kept: Vec<[&[f32]; 3]> = (self.readings.iter())
                    .map(|r| [&*r.first_sum_nats, &*r.target_sum_nats, &*r.full_sum_nats])
                    .collect();
                let is_kept = kept.len() == CHUNK_READINGS as usize;
                whole.push(Whole {
                    chunk,
                    rows: is_kept.then(|| rows_of(run_id, chunk, &kept)),
                });
                self.forget();
            }
        }
        whole
    }

    pub(super) fn forget(&mut self) {
        self.readings.clear();
        self.room = None;
    }
}

/// Makes the chunks that a batch completed, in its transaction.
pub(super) async fn add(
    db: &mut PgConnection,
    run_id: i32,
    whole: &[Whole],
) -> Result<(), sqlx::Error> {
    for w in whole {
        match &w.rows {
            Some(rows) => copy(db, rows).await?,
            None => make_one(db, run_id, w.chunk).await?,
        }
    }
    match whole.last() {
        Some(last) => set_head(db, run_id, last.chunk as i32 + 1).await,
        None => Ok(()),
    }
}
