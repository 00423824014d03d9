//! What is stored, a page at a time: each query goes on behind the last row of the page before.
//!
//! Rows are only ever added behind, or measured again in their place, so that pages read while a
//! run is written neither repeat nor pass over a row.

use imprint_core::{StepReadings, UpdateStats};

use crate::export::{MeanRow, ReadingRow, StepMean, UpdateRow};
use crate::results::{ProbeRecord, ProbeRow};
use crate::runs::RunState;
use crate::{Error, Store};

/// A run as one experiment names it.
#[derive(Clone, Debug, PartialEq, sqlx::FromRow)]
pub struct RunRow {
    pub run_id: i32,
    pub experiment_id: i32,
    pub label: String,
    pub experiment: String,
    pub state: RunState,
    pub reason: String,
    pub scenario: String,
    pub batch_size: i64,
    pub seq_len: i64,
    /// As text: it may be beyond what Postgres' integers hold.
    pub seed: String,
    pub n_updates: i32,
    pub n_probes: i32,
    pub readings_expected: i32,
    pub readings_stored: i32,
    pub updates_stored: i32,
    pub first_global_step: Option<i64>,
    pub imported: bool,
}

/// A run that pages are asked of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct RunKey {
    pub run_id: i32,
    pub n_probes: i32,
}

/// One probe at one step, sums in nats.
#[derive(Clone, Copy, Debug, PartialEq, sqlx::FromRow)]
pub struct CurveRow {
    pub reading: i32,
    pub step: i32,
    pub first_sum_nats: f32,
    pub target_sum_nats: f32,
    pub full_sum_nats: f32,
}

/// The run of a label.
///
/// # Errors
/// [`Error::NotFound`] where no experiment has one.
pub async fn run(store: &Store, label: &str) -> Result<RunKey, Error> {
    let run = sqlx::query_as(
        "select r.run_id, p.n_probes
         from imprint.experiment_run e join imprint.run r using (run_id)
         join imprint.probe_set p using (probe_set_id) where e.label = $1",
    )
    .bind(label)
    .fetch_optional(store.pool())
    .await
    .map_err(Error::doing(format!("look run {label} up")))?;
    run.ok_or_else(|| Error::NotFound {
        what: format!("run `{label}`"),
    })
}

/// Runs of an experiment, or of all, behind (run, experiment).
///
/// # Errors
/// [`Error::NotFound`] for an unknown experiment.
pub async fn runs(
    store: &Store,
    experiment: Option<&str>,
    after: Option<[i32; 2]>,
    limit: usize,
) -> Result<Vec<RunRow>, Error> {
    let doing = || Error::doing("list runs");
    if let Some(name) = experiment {
        let known: bool =
            sqlx::query_scalar("select exists (select from imprint.experiment where name = $1)")
                .bind(name)
                .fetch_one(store.pool())
                .await
                .map_err(doing())?;
        if !known {
            return Err(Error::NotFound {
                what: format!("experiment `{name}`"),
            });
        }
    }
    let [run, experiment_id] = after.unwrap_or([i32::MIN; 2]);
    sqlx::query_as(
        "select r.run_id, x.experiment_id, e.label, x.name as experiment, r.state, r.reason,
             coalesce(r.spec #>> '{identity,scenario_name}', '') as scenario,
             coalesce((r.spec #>> '{identity,batch_size}')::int8, 0) as batch_size,
             coalesce((r.spec #>> '{identity,seq_len}')::int8, 0) as seq_len,
             coalesce(r.spec #>> '{identity,seed}', '0') as seed,
             r.n_updates, p.n_probes, cardinality(r.reading_steps) as readings_expected,
             coalesce(h.next_reading, 0) as readings_stored,
             coalesce(h.next_update, 0) as updates_stored,
             coalesce(r.settled ->> 'first_global_step',
                      r.spec #>> '{identity,first_global_step}')::int8 as first_global_step,
             r.spec ? 'imported' as imported
         from imprint.run r
         join imprint.experiment_run e using (run_id)
         join imprint.experiment x using (experiment_id)
         join imprint.probe_set p using (probe_set_id)
         left join imprint.ingest_head h using (run_id)
         where r.run_id >= $1 and (r.run_id, x.experiment_id) > ($1, $2) and ($3::text is null or x.name = $3)
         order by r.run_id, x.experiment_id limit $4",
    )
    .bind(run)
    .bind(experiment_id)
    .bind(experiment)
    .bind(limit as i64)
    .fetch_all(store.pool())
    .await
    .map_err(doing())
}

/// A run's probes behind `after`, each with the name of its arm.
pub async fn probes(
    store: &Store,
    run: RunKey,
    after: Option<i32>,
    limit: usize,
) -> Result<Vec<(ProbeRecord, String)>, Error> {
    #[derive(sqlx::FromRow)]
    struct Row {
        #[sqlx(flatten)]
        probe: ProbeRow,
        arm: String,
    }
    let rows: Vec<Row> = sqlx::query_as(
        "select p.probe, p.fact, p.depth, p.ordinal, p.swap_fact, p.prompt, p.target,
             p.n_target_tokens, p.n_full_tokens, coalesce(a.name, 'held_out') as arm
         from imprint.run r join imprint.probe p using (probe_set_id)
         left join imprint.run_fact f on f.run_id = r.run_id and f.fact = p.fact
         left join imprint.run_arm a on a.run_id = f.run_id and a.arm = f.arm
         where r.run_id = $1 and p.probe > $2 order by p.probe limit $3",
    )
    .bind(run.run_id)
    .bind(after.unwrap_or(-1))
    .bind(limit as i64)
    .fetch_all(store.pool())
    .await
    .map_err(Error::doing(format!(
        "list the probes of run {}",
        run.run_id
    )))?;
    rows.into_iter()
        .map(|row| Ok((ProbeRecord::try_from(row.probe)?, row.arm)))
        .collect()
}

/// A run's readings behind the index `after`.
pub async fn readings(
    store: &Store,
    run: RunKey,
    after: Option<i32>,
    limit: usize,
) -> Result<Vec<StepReadings>, Error> {
    let rows: Vec<ReadingRow> = sqlx::query_as(
        "select reading, step, attempt, first_sum_nats, target_sum_nats, full_sum_nats
         from imprint.step_reading where run_id = $1 and reading > $2 order by reading limit $3",
    )
    .bind(run.run_id)
    .bind(after.unwrap_or(-1))
    .bind(limit as i64)
    .fetch_all(store.pool())
    .await
    .map_err(Error::doing(format!(
        "list the readings of run {}",
        run.run_id
    )))?;
    Ok(rows.into_iter().map(StepReadings::from).collect())
}

/// One probe's readings behind the index `after`.
pub async fn curve(
    store: &Store,
    run: RunKey,
    probe: u32,
    after: Option<i32>,
    limit: usize,
) -> Result<Vec<CurveRow>, Error> {
    sqlx::query_as(
        "select reading, step, first_sum_nats, target_sum_nats, full_sum_nats
         from imprint.curve($1, $2) where reading > $3 order by reading limit $4",
    )
    .bind(run.run_id)
    .bind(probe as i32)
    .bind(after.unwrap_or(-1))
    .bind(limit as i64)
    .fetch_all(store.pool())
    .await
    .map_err(Error::doing(format!(
        "list a probe's readings of run {}",
        run.run_id
    )))
}

/// A run's means behind (reading, arm, depth, swap as 0 or 1).
pub async fn means(
    store: &Store,
    run: RunKey,
    after: Option<[i32; 4]>,
    limit: usize,
) -> Result<Vec<StepMean>, Error> {
    let [reading, arm, depth, swap] = after.unwrap_or([i32::MIN; 4]);
    let rows: Vec<MeanRow> = sqlx::query_as(
        "select m.reading, m.step, m.arm as arm_id, a.name as arm, m.depth, m.swap, m.n_probes,
             m.first_mean_nats, m.target_mean_nats, m.full_mean_nats
         from imprint.step_mean m join imprint.run_arm a using (run_id, arm)
         where m.run_id = $1 and m.reading >= $2
           and (m.reading, m.arm::int4, m.depth::int4, m.swap::int4) > ($2, $3, $4, $5)
         order by m.reading, m.arm, m.depth, m.swap limit $6",
    )
    .bind(run.run_id)
    .bind(reading)
    .bind(arm)
    .bind(depth)
    .bind(swap)
    .bind(limit as i64)
    .fetch_all(store.pool())
    .await
    .map_err(Error::doing(format!(
        "list the means of run {}",
        run.run_id
    )))?;
    rows.into_iter().map(StepMean::try_from).collect()
}

/// The statistics of a run's updates behind the step `after`.
pub async fn updates(
    store: &Store,
    run: RunKey,
    after: Option<i32>,
    limit: usize,
) -> Result<Vec<UpdateStats>, Error> {
    let rows: Vec<UpdateRow> = sqlx::query_as(
        "select step, attempt, loss_nats, learning_rate, grad_norm, update_norm, n_tokens,
             n_injected_tokens, duration_ms
         from imprint.update_stats where run_id = $1 and step > $2 order by step limit $3",
    )
    .bind(run.run_id)
    .bind(after.unwrap_or(-1))
    .bind(limit as i64)
    .fetch_all(store.pool())
    .await
    .map_err(Error::doing(format!(
        "list the updates of run {}",
        run.run_id
    )))?;
    Ok(rows.into_iter().map(UpdateStats::from).collect())
}
