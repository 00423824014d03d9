//! What is kept beside the readings for quick answers (`step_mean`, `probe_chunk`), held to them.
//!
//! Ingest writes derived rows in the transaction of the readings, with the code that is used here,
//! so that a rebuild gives the same bits.

use futures::TryStreamExt as _;
use imprint_core::StepReadings;
use sqlx::{Connection as _, PgConnection};

use crate::ingest::layout::{Layout, Mean};
use crate::ingest::{CHUNK_READINGS, chunk};
use crate::{Error, Store};

/// Differences that are described one by one; more are counted.
const MAX_DESCRIBED: usize = 20;

/// A run's derived rows against those that its readings make.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DerivedCheck {
    pub run_id: i32,
    /// Readings that were compared.
    pub n_readings: u32,
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
/// Who writes the run waits meanwhile, and goes on from there.
///
/// # Errors
/// [`Error::NotFound`] for an unknown run; [`Error::Corrupt`] when its readings are not whole, in
/// which case nothing is changed.
pub async fn rebuild(store: &Store, run_id: i32) -> Result<u32, Error> {
    let doing = || Error::doing(format!("rebuild the derived tables of run {run_id}"));
    let mut tx = store.pool().begin().await.map_err(doing())?;
    let n_readings = rebuild_in(&mut tx, run_id).await?;
    tx.commit().await.map_err(doing())?;
    Ok(n_readings)
}

/// [`rebuild`] in a transaction of the caller's.
pub(crate) async fn rebuild_in(db: &mut PgConnection, run_id: i32) -> Result<u32, Error> {
    let doing = || Error::doing(format!("rebuild the derived tables of run {run_id}"));
    let layout = Layout::load(db, run_id).await?;
    let next_reading: Option<i32> = sqlx::query_scalar(
        "select next_reading from imprint.ingest_head where run_id = $1 for update",
    )
    .bind(run_id)
    .fetch_optional(&mut *db)
    .await
    .map_err(doing())?;
    let n_readings = next_reading.unwrap_or(0) as u32;
    // In ingest's order, so that nobody waits in a circle.
    for statement in [
        "delete from imprint.step_mean where run_id = $1",
        "delete from imprint.probe_chunk where run_id = $1",
        "delete from imprint.chunk_head where run_id = $1",
    ] {
        sqlx::query(statement)
            .bind(run_id)
            .execute(&mut *db)
            .await
            .map_err(doing())?;
    }
    if next_reading.is_none() {
        return Ok(0);
    }
    for from in (0..n_readings).step_by(CHUNK_READINGS as usize) {
        let to = (from + CHUNK_READINGS).min(n_readings);
        let readings = fetch(db, &layout, run_id, from..to).await?;
        layout
            .insert_means(db, run_id, &readings)
            .await
            .map_err(doing())?;
    }
    chunk::cut(db, run_id, 0).await.map_err(doing())?;
    chunk::make(db, run_id, n_readings).await.map_err(doing())?;
    Ok(n_readings)
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
    let mut tx = connection
        .begin_with("begin isolation level repeatable read read only")
        .await
        .map_err(doing())?;
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
    let n_chunks = check.n_readings / CHUNK_READINGS;
    if next_chunk != next_reading.map(|_| n_chunks as i32) {
        check.differs(|| {
            format!("chunk_head says {next_chunk:?} where {n_chunks} chunks can be made")
        });
    }
    for from in (0..check.n_readings).step_by(CHUNK_READINGS as usize) {
        let to = (from + CHUNK_READINGS).min(check.n_readings);
        let readings = fetch(&mut tx, &layout, run_id, from..to).await?;
        compare_means(&mut tx, &layout, &readings, &mut check)
            .await
            .map_err(doing())?;
        if to == from + CHUNK_READINGS {
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
        check.differs(|| format!("probe_chunk: {n_chunk_rows} rows of chunks that are not full"));
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
    layout: &Layout,
    run_id: i32,
    indices: std::ops::Range<u32>,
) -> Result<Vec<StepReadings>, Error> {
    type Row = (i32, i32, i32, Vec<f32>, Vec<f32>, Vec<f32>);
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
            first_sum_nats: first,
            target_sum_nats: target,
            full_sum_nats: full,
        })
        .collect();
    let n = layout.n_probes();
    let is_whole = |r: &StepReadings| {
        [&r.first_sum_nats, &r.target_sum_nats, &r.full_sum_nats]
            .iter()
            .all(|span| span.len() == n)
    };
    if !readings.iter().map(|r| r.index).eq(indices.clone()) || !readings.iter().all(is_whole) {
        return Err(Error::Corrupt {
            what: format!("the readings of run {run_id}"),
            problem: format!(
                "not every one of {}…{} is there with {n} values a span; \
                 `imprint verify` says which",
                indices.start,
                indices.end - 1
            ),
        });
    }
    Ok(readings)
}
