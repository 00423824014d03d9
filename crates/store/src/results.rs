//! What was measured, for those who make sense of it.

use futures::TryStreamExt as _;
use imprint_core::{Depth, FactId, ProbeId, Span, Trajectory, UpdateStats};
use sqlx::types::Json;

use crate::runs::RunState;
use crate::{Error, Store, export};

/// A run of an experiment.
#[derive(Clone, Debug, PartialEq)]
pub struct RunRecord {
    pub run_id: i32,
    /// The run's name in the experiment asked for.
    pub label: String,
    /// Its checkpoint's name there.
    pub checkpoint: String,
    /// Everything that changes a number of it.
    pub identity: serde_json::Value,
    pub state: RunState,
    pub scenario_name: String,
    pub batch_size: u32,
    pub seq_len: u32,
    pub seed: u64,
    /// Updates that the checkpoint has seen; `None` until the first attempt settled it.
    pub first_global_step: Option<u64>,
    pub n_updates: u32,
    /// Steps at which all probes are read.
    pub n_readings: u32,
    pub n_readings_stored: u32,
    pub n_updates_stored: u32,
}

/// One placing of a fact in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InjectionRecord {
    pub step: u32,
    pub fact: FactId,
    /// 1 for the first time the fact is shown.
    pub exposure: u32,
    /// Index of the paraphrase shown; `None` for the passage itself.
    pub paraphrase: Option<u32>,
}

/// In which arm a run shows a fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FactArm {
    pub fact: FactId,
    /// `held_out` for facts that are not shown.
    pub arm: String,
}

/// A probe and how many tokens its spans have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeRecord {
    pub probe: ProbeId,
    pub fact: FactId,
    pub depth: Depth,
    pub ordinal: u16,
    /// For a swap control: the fact after whose subject the target is read.
    pub swap_fact: Option<FactId>,
    pub prompt: String,
    pub target: String,
    pub n_target_tokens: u32,
    pub n_full_tokens: u32,
}

impl ProbeRecord {
    /// The number of tokens over which a span's log-probability is summed.
    pub fn n_tokens(&self, span: Span) -> u32 {
        match span {
            Span::First => 1,
            Span::Target => self.n_target_tokens,
            Span::Full => self.n_full_tokens,
        }
    }
}

/// Means over probes of ℓ, for one arm and depth.
#[derive(Clone, Debug, PartialEq)]
pub struct MeanCurve {
    pub arm: String,
    pub depth: Depth,
    pub swap: bool,
    pub n_probes: u32,
    pub trajectory: Trajectory,
}

/// The runs of an experiment, by label.
///
/// # Errors
/// [`Error::NotFound`] for an unknown experiment.
pub async fn runs(store: &Store, experiment: &str) -> Result<Vec<RunRecord>, Error> {
    let doing = || Error::doing(format!("look up the runs of experiment {experiment}"));
    let known: bool =
        sqlx::query_scalar("select exists (select from imprint.experiment where name = $1)")
            .bind(experiment)
            .fetch_one(store.pool())
            .await
            .map_err(doing())?;
    if !known {
        return Err(Error::NotFound {
            what: format!("experiment `{experiment}`"),
        });
    }
    records(store, Some(experiment), None)
        .await
        .map_err(doing())?
        .into_iter()
        .map(RunRecord::try_from)
        .collect()
}

/// The run of a label.
///
/// # Errors
/// [`Error::NotFound`] where there is none.
pub async fn run(store: &Store, label: &str) -> Result<RunRecord, Error> {
    let found = records(store, None, Some(label)).await;
    let found = found.map_err(Error::doing(format!("look run {label} up")))?;
    let row = found.into_iter().next().ok_or_else(|| Error::NotFound {
        what: format!("run `{label}`"),
    })?;
    row.try_into()
}

/// The runs of an experiment, by label, or the one of a label.
async fn records(
    store: &Store,
    experiment: Option<&str>,
    label: Option<&str>,
) -> sqlx::Result<Vec<RunRow>> {
    sqlx::query_as(
        "select r.run_id, e.label, e.checkpoint, r.spec -> 'identity' as identity, r.state,
             r.spec #>> '{identity,scenario_name}' as scenario_name,
             (r.spec #>> '{identity,batch_size}')::int8 as batch_size,
             (r.spec #>> '{identity,seq_len}')::int8 as seq_len,
             r.spec #>> '{identity,seed}' as seed,
             coalesce(r.settled ->> 'first_global_step',
                      r.spec #>> '{identity,first_global_step}')::int8 as first_global_step,
             r.n_updates, cardinality(r.reading_steps) as n_readings,
             coalesce(h.next_reading, 0) as n_readings_stored,
             coalesce(h.next_update, 0) as n_updates_stored
         from imprint.experiment x
         join imprint.experiment_run e using (experiment_id)
         join imprint.run r using (run_id)
         left join imprint.ingest_head h using (run_id)
         where ($1::text is null or x.name = $1) and ($2::text is null or e.label = $2)
         order by e.label",
    )
    .bind(experiment)
    .bind(label)
    .fetch_all(store.pool())
    .await
}

#[derive(sqlx::FromRow)]
struct RunRow {
    run_id: i32,
    label: String,
    checkpoint: String,
    identity: Json<serde_json::Value>,
    state: RunState,
    scenario_name: Option<String>,
    batch_size: Option<i64>,
    seq_len: Option<i64>,
    /// As text: it may be beyond what Postgres' integers hold.
    seed: Option<String>,
    first_global_step: Option<i64>,
    n_updates: i32,
    n_readings: i32,
    n_readings_stored: i32,
    n_updates_stored: i32,
}

impl TryFrom<RunRow> for RunRecord {
    type Error = Error;

    fn try_from(row: RunRow) -> Result<Self, Error> {
        let corrupt = |key: &str| Error::Corrupt {
            what: format!("the configuration of run {}", row.label),
            problem: format!("`identity.{key}` is not there or of another kind"),
        };
        let count = |key: &str, value: Option<i64>| {
            let value = value.and_then(|v| u32::try_from(v).ok());
            value.ok_or_else(|| corrupt(key))
        };
        let seed = row.seed.as_ref().and_then(|seed| seed.parse().ok());
        Ok(Self {
            run_id: row.run_id,
            checkpoint: row.checkpoint,
            identity: row.identity.0,
            state: row.state,
            batch_size: count("batch_size", row.batch_size)?,
            seq_len: count("seq_len", row.seq_len)?,
            seed: seed.ok_or_else(|| corrupt("seed"))?,
            scenario_name: row
                .scenario_name
                .clone()
                .ok_or_else(|| corrupt("scenario_name"))?,
            first_global_step: row.first_global_step.map(|s| s as u64),
            n_updates: row.n_updates as u32,
            n_readings: row.n_readings as u32,
            n_readings_stored: row.n_readings_stored as u32,
            n_updates_stored: row.n_updates_stored as u32,
            label: row.label,
        })
    }
}

/// In which arm a run shows each fact, by fact.
pub async fn fact_arms(store: &Store, run_id: i32) -> Result<Vec<FactArm>, Error> {
    let rows: Vec<(i32, String)> = sqlx::query_as(
        "select f.fact, a.name from imprint.run_fact f join imprint.run_arm a using (run_id, arm)
         where run_id = $1 order by f.fact",
    )
    .bind(run_id)
    .fetch_all(store.pool())
    .await
    .map_err(Error::doing(format!("look up the arms of run {run_id}")))?;
    let arm = |(fact, arm): (i32, String)| FactArm {
        fact: FactId(fact as u32),
        arm,
    };
    Ok(rows.into_iter().map(arm).collect())
}

/// Every injection of a run, by step and then by fact.
pub async fn injections(store: &Store, run_id: i32) -> Result<Vec<InjectionRecord>, Error> {
    let rows: Vec<(i32, i32, i32, Option<i32>)> = sqlx::query_as(
        "select step, fact, exposure, paraphrase from imprint.injection
         where run_id = $1 order by step, fact",
    )
    .bind(run_id)
    .fetch_all(store.pool())
    .await
    .map_err(Error::doing(format!(
        "look up the injections of run {run_id}"
    )))?;
    let injection =
        |(step, fact, exposure, paraphrase): (i32, i32, i32, Option<i32>)| InjectionRecord {
            step: step as u32,
            fact: FactId(fact as u32),
            exposure: exposure as u32,
            paraphrase: paraphrase.map(|p| p as u32),
        };
    Ok(rows.into_iter().map(injection).collect())
}

/// A run's probes, in the order of the values of its readings.
pub async fn probes(store: &Store, run_id: i32) -> Result<Vec<ProbeRecord>, Error> {
    let rows: Vec<ProbeRow> = sqlx::query_as(
        "select p.probe, p.fact, p.depth, p.ordinal, p.swap_fact, p.prompt, p.target,
             p.n_target_tokens, p.n_full_tokens
         from imprint.run r join imprint.probe p using (probe_set_id)
         where r.run_id = $1 order by p.probe",
    )
    .bind(run_id)
    .fetch_all(store.pool())
    .await
    .map_err(Error::doing(format!("look up the probes of run {run_id}")))?;
    rows.into_iter().map(ProbeRecord::try_from).collect()
}

#[derive(sqlx::FromRow)]
pub(crate) struct ProbeRow {
    probe: i32,
    fact: i32,
    depth: i16,
    ordinal: i16,
    swap_fact: Option<i32>,
    prompt: String,
    target: String,
    n_target_tokens: i32,
    n_full_tokens: i32,
}

impl TryFrom<ProbeRow> for ProbeRecord {
    type Error = Error;

    fn try_from(row: ProbeRow) -> Result<Self, Error> {
        Ok(Self {
            probe: ProbeId(row.probe as u32),
            fact: FactId(row.fact as u32),
            depth: depth(row.depth)?,
            ordinal: row.ordinal as u16,
            swap_fact: row.swap_fact.map(|f| FactId(f as u32)),
            prompt: row.prompt,
            target: row.target,
            n_target_tokens: row.n_target_tokens as u32,
            n_full_tokens: row.n_full_tokens as u32,
        })
    }
}

/// One trajectory of ℓ a probe, in the order of `probes`, which are all those of the run.
///
/// # Errors
/// When a stored reading has another number of values.
pub async fn trajectories(
    store: &Store,
    run_id: i32,
    probes: &[ProbeRecord],
    span: Span,
) -> Result<Vec<Trajectory>, Error> {
    let doing = || Error::doing(format!("fetch the readings of run {run_id}"));
    let query = match span {
        Span::First => "select step, first_sum_nats",
        Span::Target => "select step, target_sum_nats",
        Span::Full => "select step, full_sum_nats",
    };
    let query = format!("{query} from imprint.step_reading where run_id = $1 order by reading");
    let mut points: Vec<Vec<(u32, f64)>> = vec![Vec::new(); probes.len()];
    let mut rows = sqlx::query_as::<_, (i32, Vec<f32>)>(sqlx::AssertSqlSafe(query))
        .bind(run_id)
        .fetch(store.pool());
    while let Some((step, sums)) = rows.try_next().await.map_err(doing())? {
        if sums.len() != probes.len() {
            return Err(Error::Corrupt {
                what: format!("the reading of run {run_id} at step {step}"),
                problem: format!("it has {} values for {} probes", sums.len(), probes.len()),
            });
        }
        for ((points, probe), sum) in points.iter_mut().zip(probes).zip(sums) {
            points.push((
                step as u32,
                f64::from(sum) / f64::from(probe.n_tokens(span)),
            ));
        }
    }
    Ok(points.into_iter().map(Trajectory::new).collect())
}

/// One probe's trajectory of ℓ, quickly also for a long run: from the chunks made for that.
pub async fn trajectory(
    store: &Store,
    run_id: i32,
    probe: ProbeId,
    span: Span,
) -> Result<Trajectory, Error> {
    let points: Vec<(i32, f64, f64, f64)> = sqlx::query_as(
        "select step, first_mean_nats, target_mean_nats, full_mean_nats
         from imprint.curve($1::int4, $2)",
    )
    .bind(run_id)
    .bind(probe.0 as i32)
    .fetch_all(store.pool())
    .await
    .map_err(Error::doing(format!(
        "fetch a probe's readings of run {run_id}"
    )))?;
    let point = |(step, first, target, full)| {
        let nats = match span {
            Span::First => first,
            Span::Target => target,
            Span::Full => full,
        };
        (step as u32, nats)
    };
    Ok(Trajectory::new(points.into_iter().map(point)))
}

/// The statistics of a run's updates, by step.
pub async fn update_stats(store: &Store, run_id: i32) -> Result<Vec<UpdateStats>, Error> {
    export::updates(store, run_id).try_collect().await
}

/// A run's means over probes of ℓ, one curve for each arm, depth and control.
pub async fn mean_curves(store: &Store, run_id: i32, span: Span) -> Result<Vec<MeanCurve>, Error> {
    type Row = (String, i16, bool, i32, i32, f64, f64, f64);
    let rows: Vec<Row> = sqlx::query_as(
        "select a.name, m.depth, m.swap, m.n_probes, m.step,
             m.first_mean_nats, m.target_mean_nats, m.full_mean_nats
         from imprint.step_mean m join imprint.run_arm a using (run_id, arm)
         where run_id = $1 order by arm, m.depth, m.swap, m.reading",
    )
    .bind(run_id)
    .fetch_all(store.pool())
    .await
    .map_err(Error::doing(format!(
        "fetch the mean curves of run {run_id}"
    )))?;
    rows.chunk_by(|a, b| (&a.0, a.1, a.2) == (&b.0, b.1, b.2))
        .map(|curve| {
            let (arm, depth, swap, n_probes, ..) = &curve[0];
            Ok(MeanCurve {
                arm: arm.clone(),
                depth: self::depth(*depth)?,
                swap: *swap,
                n_probes: *n_probes as u32,
                trajectory: Trajectory::new(curve.iter().map(|row| {
                    let mean = match span {
                        Span::First => row.5,
                        Span::Target => row.6,
                        Span::Full => row.7,
                    };
                    (row.4 as u32, mean)
                })),
            })
        })
        .collect()
}

pub(crate) fn depth(number: i16) -> Result<Depth, Error> {
    usize::try_from(number)
        .ok()
        .and_then(Depth::from_index)
        .ok_or_else(|| Error::Corrupt {
            what: "a probe's depth".to_owned(),
            problem: format!("there is no depth {number}"),
        })
}
