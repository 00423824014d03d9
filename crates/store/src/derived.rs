//! What is kept beside the readings for quick answers (`step_mean`, `probe_chunk`), held to them.
//!
//! Ingest writes means in the transaction of the readings; chunks follow after it, up to the
//! watermark in `chunk_head`. Both are made by the code that is used here, so that a rebuild gives
//! the same bits.

use std::convert::Infallible;
use std::ops::Range;
use std::time::Duration;

use futures::TryStreamExt as _;
use imprint_core::StepReadings;
use sqlx::{Connection as _, PgConnection};

use tokio::time::{Instant, timeout, timeout_at};

use crate::float4::Float4Vec;
use crate::ingest::layout::{Layout, Mean};
use crate::ingest::{CHUNK_READINGS, chunk};
use crate::{Error, Store};

/// Begins a transaction that sees the database as of one moment.
const SNAPSHOT: &str = "begin isolation level repeatable read read only";

/// For the head of a run whose writers are to wait.
const LOCKED: &str = "for update";

/// Differences that are described one by one; more are counted.
const MAX_DESCRIBED: usize = 20;

/// Making one takes tens of milliseconds.
const CHUNK_LIMIT: Duration = Duration::from_secs(30);

/// How long a chunk may wait that nobody speaks of.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// A run's derived rows against those that its readings make.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DerivedCheck {
    pub run_id: i32,
    /// Readings that were compared.
    pub n_readings: u32,
    /// Chunks that can be made and are not yet: the service is behind, or none runs.
    pub n_chunks_due: u32,
    /// Rows that are missing, too many, or not the same to the last bit.
    pub n_differences: u32,
    /// The first of them, in words.
    pub differences: Vec<String>,
}

impl DerivedCheck {
    /// Whether the derived tables equal a rebuild, bit for bit.
    pub fn is_equal(&self) -> bool {
        self.n_differences == 0
    }

    fn differs(&mut self, what: impl FnOnce() -> String) {
        self.n_differences += 1;
        if self.differences.len() < MAX_DESCRIBED {
            self.differences.push(what());
        }
    }
}

/// The runs that have readings or may get some, in the order of their ids.
pub async fn runs(store: &Store) -> Result<Vec<i32>, Error> {
    sqlx::query_scalar("select run_id from imprint.ingest_head order by run_id")
        .fetch_all(store.pool())
        .await
        .map_err(Error::doing("list the runs with readings"))
}

/// Makes a run's derived rows again from its readings; returns how many readings it has.
///
/// Who writes the run waits for a moment now and then; until the chunks are made again, queries
/// answer from the readings.
///
/// # Errors
/// [`Error::NotFound`] for an unknown run; [`Error::Corrupt`] when its readings are not whole, in
/// which case nothing is changed.
pub async fn rebuild(store: &Store, run_id: i32) -> Result<u32, Error> {
    let doing = || Error::doing(format!("rebuild the derived tables of run {run_id}"));
    // Of the pool no longer: given up in the middle, it could not be used again.
    let connection = store.pool().acquire().await.map_err(doing())?;
    let mut db = connection.detach();
    let layout = Layout::load(&mut db, run_id).await?;
    // As of one moment: readings that are superseded meanwhile are not missing.
    let mut tx = db.begin_with(SNAPSHOT).await.map_err(doing())?;
    let n_readings = head(&mut tx, run_id, "").await.map_err(doing())?;
    for piece in pieces(n_readings.unwrap_or(0)) {
        fetch(&mut tx, layout.n_probes(), run_id, piece).await?;
    }
    tx.commit().await.map_err(doing())?;
    let mut tx = db.begin().await.map_err(doing())?;
    let n_readings = clear(&mut tx, run_id).await.map_err(doing())?;
    tx.commit().await.map_err(doing())?;
    for piece in pieces(n_readings) {
        let mut tx = db.begin().await.map_err(doing())?;
        // Since then some may have been superseded.
        let now = head(&mut tx, run_id, LOCKED).await.map_err(doing())?;
        let piece = piece.start..piece.end.min(now.unwrap_or(0));
        make_means(&mut tx, &layout, run_id, piece).await?;
        tx.commit().await.map_err(doing())?;
    }
    make_chunks(store, run_id).await?;
    Ok(n_readings)
}

/// [`rebuild`] in a transaction of the caller's, for a run that nobody else sees.
pub(crate) async fn rebuild_in(db: &mut PgConnection, run_id: i32) -> Result<u32, Error> {
    let doing = || Error::doing(format!("rebuild the derived tables of run {run_id}"));
    let layout = Layout::load(db, run_id).await?;
    let n_readings = clear(db, run_id).await.map_err(doing())?;
    for piece in pieces(n_readings) {
        make_means(db, &layout, run_id, piece).await?;
    }
    while make_chunk(db, run_id).await? {}
    Ok(n_readings)
}

/// 64 readings at a time.
fn pieces(n_readings: u32) -> impl Iterator<Item = Range<u32>> {
    (0..n_readings)
        .step_by(CHUNK_READINGS as usize)
        .map(move |from| from..(from + CHUNK_READINGS).min(n_readings))
}

/// Takes the chunks away, and what there is of no reading; returns how many readings there are.
async fn clear(db: &mut PgConnection, run_id: i32) -> Result<u32, sqlx::Error> {
    let mut next_reading = head(db, run_id, LOCKED).await?;
    if next_reading.is_none() {
        // Whoever opens the stream for the first time now holds the run.
        sqlx::query("select from imprint.run where run_id = $1 for update")
            .bind(run_id)
            .execute(&mut *db)
            .await?;
        next_reading = head(db, run_id, LOCKED).await?;
    }
    chunk::cut(db, run_id, 0).await?;
    if next_reading.is_none() {
        sqlx::query("delete from imprint.chunk_head where run_id = $1")
            .bind(run_id)
            .execute(&mut *db)
            .await?;
    }
    sqlx::query("delete from imprint.step_mean where run_id = $1 and not reading between 0 and $2")
        .bind(run_id)
        .bind(next_reading.unwrap_or(0) as i32 - 1)
        .execute(db)
        .await?;
    Ok(next_reading.unwrap_or(0))
}

async fn make_means(
    db: &mut PgConnection,
    layout: &Layout,
    run_id: i32,
    indices: Range<u32>,
) -> Result<(), Error> {
    if indices.is_empty() {
        return Ok(());
    }
    let doing = || Error::doing(format!("make the means of run {run_id}"));
    let readings = fetch(db, layout.n_probes(), run_id, indices.clone()).await?;
    sqlx::query("delete from imprint.step_mean where run_id = $1 and reading between $2 and $3")
        .bind(run_id)
        .bind(indices.start as i32)
        .bind(indices.end as i32 - 1)
        .execute(&mut *db)
        .await
        .map_err(doing())?;
    let made = layout.insert_means(db, run_id, &readings).await;
    made.map_err(doing())
}

/// Makes the next chunk of a run in the caller's transaction; whether there was one to make.
async fn make_chunk(db: &mut PgConnection, run_id: i32) -> Result<bool, Error> {
    let doing = || Error::doing(format!("make chunks of run {run_id}"));
    let Some(chunk) = chunk::take_next(db, run_id).await.map_err(doing())? else {
        return Ok(false);
    };
    let n_probes: i32 = sqlx::query_scalar(
        "select n_probes from imprint.run join imprint.probe_set using (probe_set_id)
         where run_id = $1",
    )
    .bind(run_id)
    .fetch_one(&mut *db)
    .await
    .map_err(doing())?;
    let first = chunk * CHUNK_READINGS;
    let indices = first..first + CHUNK_READINGS;
    let readings = fetch(db, n_probes as usize, run_id, indices).await?;
    let put = chunk::put(db, run_id, chunk, &readings).await;
    put.map_err(doing())?;
    Ok(true)
}

/// The next reading of a run that has had a stream.
async fn head(
    db: &mut PgConnection,
    run_id: i32,
    lock: &'static str,
) -> Result<Option<u32>, sqlx::Error> {
    let sql = format!("select next_reading from imprint.ingest_head where run_id = $1 {lock}");
    let next: Option<i32> = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
        .bind(run_id)
        .fetch_optional(db)
        .await?;
    Ok(next.map(|n| n as u32))
}

/// [Makes the chunks](make_chunks) of every run; returns how many those were.
///
/// # Errors
/// The first failure, when all other runs have had their turn; what was made stays.
pub async fn catch_up(store: &Store) -> Result<u32, Error> {
    let (mut n_made, mut failed) = (0, None);
    for run_id in behind(store).await? {
        match make_chunks(store, run_id).await {
            Ok(n) => n_made += n,
            Err(error) if error.is_unavailable() => return Err(error),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    failed.map_or(Ok(n_made), Err)
}

/// The runs with chunks that can be made and are not.
///
/// # Errors
/// When the query fails.
pub async fn behind(store: &Store) -> Result<Vec<i32>, Error> {
    sqlx::query_scalar(
        "select run_id from imprint.ingest_head h left join imprint.chunk_head c using (run_id)
         where h.next_reading / $1 > coalesce(c.next_chunk, 0) order by run_id",
    )
    .bind(CHUNK_READINGS as i32)
    .fetch_all(store.pool())
    .await
    .map_err(Error::doing("look for chunks to make"))
}

/// [Catches up](catch_up), and then makes chunks as writers of this store complete them.
///
/// # Errors
/// When the database does not let it; begun again, it finds what is still to be made.
pub async fn keep_up(store: &Store) -> Result<Infallible, Error> {
    loop {
        catch_up(store).await?;
        // Other services' writers, and those that ended before they said so, are found by looking.
        let look_again = Instant::now() + LOOK_AGAIN_AFTER;
        while let Ok(run_id) = timeout_at(look_again, store.chunks_due.next()).await {
            make_chunks(store, run_id).await?;
        }
    }
}

/// Makes the chunks of a run that can be made and are not; returns how many those were.
///
/// # Errors
/// When the database does not let it; what was made stays.
pub async fn make_chunks(store: &Store, run_id: i32) -> Result<u32, Error> {
    let doing = || Error::doing(format!("make chunks of run {run_id}"));
    let mut n_made = 0;
    loop {
        let mut lane = store.lanes.take().await.map_err(doing())?;
        let made = async {
            let mut tx = lane.connection().begin().await.map_err(doing())?;
            let is_made = make_chunk(&mut tx, run_id).await?;
            tx.commit().await.map_err(doing())?;
            Ok(is_made)
        };
        let made = timeout(CHUNK_LIMIT, made).await;
        let late = |_| doing()(sqlx::Error::PoolTimedOut);
        let is_made = made.map_err(late)??;
        lane.done(Ok(())).map_err(doing())?;
        if !is_made {
            return Ok(n_made);
        }
        n_made += 1;
    }
}

/// Compares a run's derived rows with those that its readings make, as of one moment.
///
/// Nobody waits for it.
///
/// # Errors
/// [`Error::NotFound`] for an unknown run; [`Error::Corrupt`] when its readings are not whole.
pub async fn check(store: &Store, run_id: i32) -> Result<DerivedCheck, Error> {
    let doing = || Error::doing(format!("check the derived tables of run {run_id}"));
    let mut connection = store.pool().acquire().await.map_err(doing())?;
    let mut tx = connection.begin_with(SNAPSHOT).await.map_err(doing())?;
    let layout = Layout::load(&mut tx, run_id).await?;
    let (next_reading, next_chunk): (Option<i32>, Option<i32>) = sqlx::query_as(
        "select (select next_reading from imprint.ingest_head where run_id = $1),
                (select next_chunk from imprint.chunk_head where run_id = $1)",
    )
    .bind(run_id)
    .fetch_one(&mut *tx)
    .await
    .map_err(doing())?;
    let mut check = DerivedCheck {
        run_id,
        n_readings: next_reading.unwrap_or(0) as u32,
        ..DerivedCheck::default()
    };
    let whole = check.n_readings / CHUNK_READINGS;
    let n_chunks = next_chunk.map_or(0, |n| n as u32);
    if next_chunk.is_some() != next_reading.is_some() || n_chunks > whole {
        check
            .differs(|| format!("chunk_head says {next_chunk:?} where {whole} chunks can be made"));
    }
    check.n_chunks_due = whole.saturating_sub(n_chunks);
    for piece in pieces(check.n_readings) {
        let chunk = piece.start / CHUNK_READINGS;
        let readings = fetch(&mut tx, layout.n_probes(), run_id, piece).await?;
        compare_means(&mut tx, &layout, &readings, &mut check)
            .await
            .map_err(doing())?;
        if chunk < n_chunks.min(whole) {
            compare_chunk(&mut tx, &readings, &mut check)
                .await
                .map_err(doing())?;
        }
    }
    let (n_means, n_chunk_rows): (i64, i64) = sqlx::query_as(
        "select (select count(*) from imprint.step_mean
                 where run_id = $1 and not (reading >= 0 and reading < $2)),
                (select count(*) from imprint.probe_chunk
                 where run_id = $1 and not (chunk >= 0 and chunk < $3))",
    )
    .bind(run_id)
    .bind(check.n_readings as i32)
    .bind(n_chunks as i32)
    .fetch_one(&mut *tx)
    .await
    .map_err(doing())?;
    if n_means > 0 {
        check.differs(|| format!("step_mean: {n_means} rows of readings that are not stored"));
    }
    if n_chunk_rows > 0 {
        check.differs(|| format!("probe_chunk: {n_chunk_rows} rows of chunks that are not made"));
    }
    Ok(check)
}

async fn compare_means(
    db: &mut PgConnection,
    layout: &Layout,
    readings: &[StepReadings],
    check: &mut DerivedCheck,
) -> Result<(), sqlx::Error> {
    type Key = (i32, i16, i16, bool);
    let key = |m: &Mean| -> Key { (m.reading, m.arm, m.depth, m.swap) };
    let bits = |m: &Mean| {
        (
            m.step,
            m.n_probes,
            [m.first_mean_nats, m.target_mean_nats, m.full_mean_nats].map(f64::to_bits),
        )
    };
    let (Some(first), Some(last)) = (readings.first(), readings.last()) else {
        return Ok(());
    };
    let stored: Vec<Mean> = sqlx::query_as(
        "select arm, depth, swap, reading, step, n_probes,
             first_mean_nats, target_mean_nats, full_mean_nats
         from imprint.step_mean where run_id = $1 and reading between $2 and $3
         order by reading, arm, depth, swap",
    )
    .bind(check.run_id)
    .bind(first.index as i32)
    .bind(last.index as i32)
    .fetch_all(db)
    .await?;
    let mut stored = stored.into_iter().peekable();
    for want in readings.iter().flat_map(|r| layout.means(r)) {
        while let Some(extra) = stored.next_if(|m| key(m) < key(&want)) {
            check.differs(|| format!("step_mean: {:?} is no group of the run", key(&extra)));
        }
        match stored.next_if(|m| key(m) == key(&want)) {
            Some(has) if bits(&has) == bits(&want) => {}
            Some(has) => check.differs(|| format!("step_mean: {has:?} should be {want:?}")),
            None => check.differs(|| format!("step_mean: {:?} is missing", key(&want))),
        }
    }
    for extra in stored {
        check.differs(|| format!("step_mean: {:?} is no group of the run", key(&extra)));
    }
    Ok(())
}

/// Compares the chunk that 64 readings make.
async fn compare_chunk(
    db: &mut PgConnection,
    readings: &[StepReadings],
    check: &mut DerivedCheck,
) -> Result<(), sqlx::Error> {
    let n_probes = readings[0].first_sum_nats.len();
    let chunk = (readings[0].index / CHUNK_READINGS) as i32;
    let mut rows = sqlx::query_as::<_, (i32, Vec<f32>, Vec<f32>, Vec<f32>)>(
        "select probe, first_sum_nats, target_sum_nats, full_sum_nats
         from imprint.probe_chunk where run_id = $1 and chunk = $2 order by probe",
    )
    .bind(check.run_id)
    .bind(chunk)
    .fetch(db);
    let mut has = vec![false; n_probes];
    while let Some((probe, first, target, full)) = rows.try_next().await? {
        let Some(has) = usize::try_from(probe).ok().and_then(|p| has.get_mut(p)) else {
            check.differs(|| format!("probe_chunk: there is no probe {probe} in chunk {chunk}"));
            continue;
        };
        *has = true;
        let same = |stored: &[f32], span: fn(&StepReadings) -> &[f32]| {
            let want = readings.iter().map(|r| span(r)[probe as usize].to_bits());
            stored.iter().map(|v| v.to_bits()).eq(want)
        };
        if !(same(&first, |r| &r.first_sum_nats)
            && same(&target, |r| &r.target_sum_nats)
            && same(&full, |r| &r.full_sum_nats))
        {
            check.differs(|| format!("probe_chunk: probe {probe}, chunk {chunk} is not the same"));
        }
    }
    for (probe, _) in has.iter().enumerate().filter(|(_, has)| !**has) {
        check.differs(|| format!("probe_chunk: probe {probe}, chunk {chunk} is missing"));
    }
    Ok(())
}

/// Readings of a run, all of which must be there and whole.
async fn fetch(
    db: &mut PgConnection,
    n_probes: usize,
    run_id: i32,
    indices: Range<u32>,
) -> Result<Vec<StepReadings>, Error> {
    type Row = (i32, i32, i32, Float4Vec, Float4Vec, Float4Vec);
    let rows: Vec<Row> = sqlx::query_as(
        "select reading, step, attempt, first_sum_nats, target_sum_nats, full_sum_nats
         from imprint.step_reading where run_id = $1 and reading >= $2 and reading < $3
         order by reading",
    )
    .bind(run_id)
    .bind(indices.start as i32)
    .bind(indices.end as i32)
    .fetch_all(db)
    .await
    .map_err(Error::doing(format!("fetch the readings of run {run_id}")))?;
    let readings: Vec<StepReadings> = rows
        .into_iter()
        .map(|(index, step, attempt, first, target, full)| StepReadings {
            index: index as u32,
            step: step as u32,
            measured_by: attempt as u32,
            first_sum_nats: first.0,
            target_sum_nats: target.0,
            full_sum_nats: full.0,
        })
        .collect();
    let is_whole = |r: &StepReadings| {
        [&r.first_sum_nats, &r.target_sum_nats, &r.full_sum_nats]
            .iter()
            .all(|span| span.len() == n_probes)
    };
    if !readings.iter().map(|r| r.index).eq(indices.clone()) || !readings.iter().all(is_whole) {
        return Err(Error::Corrupt {
            what: format!("the readings of run {run_id}"),
            problem: format!(
                "not every one of {}…{} is there with {n_probes} values a span; \
                 `imprint verify` says which",
                indices.start,
                indices.end - 1
            ),
        });
    }
    Ok(readings)
}
