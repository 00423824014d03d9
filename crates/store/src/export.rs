//! What a run has, row after row, for readers that keep none of it.
//!
//! Each stream is one statement, so it shows one moment of the run, and rows come over the wire as
//! they are asked for: neither side holds more than a few of them.

use futures::{Stream, StreamExt as _, TryStreamExt as _};
use imprint_core::{Depth, StepReadings, UpdateStats};

use crate::results::depth;
use crate::{Error, Store};

/// Means over probes of ℓ at one step, for one arm, depth and control.
#[derive(Clone, Debug, PartialEq)]
pub struct StepMean {
    pub reading: u32,
    pub step: u32,
    /// Number of the arm in its run; -1 for facts that are held out.
    pub arm_id: i16,
    pub arm: String,
    pub depth: Depth,
    pub swap: bool,
    pub n_probes: u32,
    pub first_mean_nats: f64,
    pub target_mean_nats: f64,
    pub full_mean_nats: f64,
}

/// A run's readings, by reading index.
pub fn readings(
    store: &Store,
    run_id: i32,
) -> impl Stream<Item = Result<StepReadings, Error>> + Send + '_ {
    sqlx::query_as::<_, ReadingRow>(
        "select reading, step, attempt, first_sum_nats, target_sum_nats, full_sum_nats
         from imprint.step_reading where run_id = $1 order by reading",
    )
    .bind(run_id)
    .fetch(store.pool())
    .map_ok(StepReadings::from)
    .map(move |row| row.map_err(Error::doing(format!("fetch the readings of run {run_id}"))))
}

/// The statistics of a run's updates, by step.
pub fn updates(
    store: &Store,
    run_id: i32,
) -> impl Stream<Item = Result<UpdateStats, Error>> + Send + '_ {
    sqlx::query_as::<_, UpdateRow>(
        "select step, attempt, loss_nats, learning_rate, grad_norm, update_norm, n_tokens,
             n_injected_tokens, duration_ms
         from imprint.update_stats where run_id = $1 order by step",
    )
    .bind(run_id)
    .fetch(store.pool())
    .map_ok(UpdateStats::from)
    .map(move |row| row.map_err(Error::doing(format!("fetch the updates of run {run_id}"))))
}

/// A run's means over probes, by reading index, arm, depth and control.
pub fn means(
    store: &Store,
    run_id: i32,
) -> impl Stream<Item = Result<StepMean, Error>> + Send + '_ {
    sqlx::query_as::<_, MeanRow>(
        "select m.reading, m.step, m.arm as arm_id, a.name as arm, m.depth, m.swap, m.n_probes,
             m.first_mean_nats, m.target_mean_nats, m.full_mean_nats
         from imprint.step_mean m join imprint.run_arm a using (run_id, arm)
         where m.run_id = $1 order by m.reading, m.arm, m.depth, m.swap",
    )
    .bind(run_id)
    .fetch(store.pool())
    .map(move |row| {
        let row = row.map_err(Error::doing(format!("fetch the means of run {run_id}")))?;
        StepMean::try_from(row)
    })
}

#[derive(sqlx::FromRow)]
pub(crate) struct ReadingRow {
    reading: i32,
    step: i32,
    attempt: i32,
    first_sum_nats: Vec<f32>,
    target_sum_nats: Vec<f32>,
    full_sum_nats: Vec<f32>,
}

impl From<ReadingRow> for StepReadings {
    fn from(row: ReadingRow) -> Self {
        Self {
            index: row.reading as u32,
            step: row.step as u32,
            measured_by: row.attempt as u32,
            first_sum_nats: row.first_sum_nats,
            target_sum_nats: row.target_sum_nats,
            full_sum_nats: row.full_sum_nats,
        }
    }
}

#[derive(sqlx::FromRow)]
pub(crate) struct UpdateRow {
    step: i32,
    attempt: i32,
    loss_nats: f64,
    learning_rate: f64,
    grad_norm: f64,
    update_norm: f64,
    n_tokens: i32,
    n_injected_tokens: i32,
    duration_ms: f32,
}

impl From<UpdateRow> for UpdateStats {
    fn from(row: UpdateRow) -> Self {
        Self {
            step: row.step as u32,
            measured_by: row.attempt as u32,
            loss_nats: row.loss_nats,
            learning_rate: row.learning_rate,
            grad_norm: row.grad_norm,
            update_norm: row.update_norm,
            n_tokens: row.n_tokens as u32,
            n_injected_tokens: row.n_injected_tokens as u32,
            duration_ms: row.duration_ms,
        }
    }
}

#[derive(sqlx::FromRow)]
pub(crate) struct MeanRow {
    reading: i32,
    step: i32,
    arm_id: i16,
    arm: String,
    depth: i16,
    swap: bool,
    n_probes: i32,
    first_mean_nats: f64,
    target_mean_nats: f64,
    full_mean_nats: f64,
}

impl TryFrom<MeanRow> for StepMean {
    type Error = Error;

    fn try_from(row: MeanRow) -> Result<Self, Error> {
        Ok(Self {
            reading: row.reading as u32,
            step: row.step as u32,
            arm_id: row.arm_id,
            arm: row.arm,
            depth: depth(row.depth)?,
            swap: row.swap,
            n_probes: row.n_probes as u32,
            first_mean_nats: row.first_mean_nats,
            target_mean_nats: row.target_mean_nats,
            full_mean_nats: row.full_mean_nats,
        })
    }
}
