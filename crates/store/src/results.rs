//! What was measured, for those who make sense of it.

use futures::TryStreamExt as _;
use imprint_core::{Depth, FactId, ProbeId, RunSpec, Span, Trajectory, UpdateStats};
use sqlx::types::Json;

use crate::runs::RunState;
use crate::{Error, Store};

/// A run of an experiment.
#[derive(Clone, Debug, PartialEq)]
pub struct RunRecord {
    pub run_id: i32,
    /// The run's name in the experiment asked for.
    pub label: String,
    pub spec: RunSpec,
    pub state: RunState,
    pub n_updates: u32,
    /// The steps at which all probes are read.
    pub reading_steps: Vec<u32>,
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
    type Row = (
        i32,
        String,
        Json<RunSpec>,
        RunState,
        i32,
        Vec<i32>,
        i32,
        i32,
    );
    let rows: Vec<Row> = sqlx::query_as(
        "select r.run_id, e.label, r.spec, r.state, r.n_updates, r.reading_steps,
             coalesce(h.next_reading, 0), coalesce(h.next_update, 0)
         from imprint.experiment x
         join imprint.experiment_run e using (experiment_id)
         join imprint.run r using (run_id)
         left join imprint.ingest_head h using (run_id)
         where x.name = $1 order by e.label",
    )
    .bind(experiment)
    .fetch_all(store.pool())
    .await
    .map_err(doing())?;
    let record =
        |(run_id, label, Json(spec), state, updates, steps, reading, update): Row| RunRecord {
            run_id,
            label,
            spec,
            state,
            n_updates: updates as u32,
            reading_steps: steps.into_iter().map(|s| s as u32).collect(),
            n_readings_stored: reading as u32,
            n_updates_stored: update as u32,
        };
    Ok(rows.into_iter().map(record).collect())
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
    type Row = (i32, i32, i16, i16, Option<i32>, String, String, i32, i32);
    let rows: Vec<Row> = sqlx::query_as(
        "select p.probe, p.fact, p.depth, p.ordinal, p.swap_fact, p.prompt, p.target,
             p.n_target_tokens, p.n_full_tokens
         from imprint.run r join imprint.probe p using (probe_set_id)
         where r.run_id = $1 order by p.probe",
    )
    .bind(run_id)
    .fetch_all(store.pool())
    .await
    .map_err(Error::doing(format!("look up the probes of run {run_id}")))?;
    rows.into_iter()
        .map(
            |(probe, fact, depth, ordinal, swap, prompt, target, n_target, n_full)| {
                Ok(ProbeRecord {
                    probe: ProbeId(probe as u32),
                    fact: FactId(fact as u32),
                    depth: self::depth(depth)?,
                    ordinal: ordinal as u16,
                    swap_fact: swap.map(|f| FactId(f as u32)),
                    prompt,
                    target,
                    n_target_tokens: n_target as u32,
                    n_full_tokens: n_full as u32,
                })
            },
        )
        .collect()
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
    type Row = (i32, i32, f64, f64, f64, f64, i32, i32, f32);
    let rows: Vec<Row> = sqlx::query_as(
        "select step, attempt, loss_nats, learning_rate, grad_norm, update_norm, n_tokens,
             n_injected_tokens, duration_ms
         from imprint.update_stats where run_id = $1 order by step",
    )
    .bind(run_id)
    .fetch_all(store.pool())
    .await
    .map_err(Error::doing(format!("fetch the updates of run {run_id}")))?;
    let update = |(
        step,
        attempt,
        loss_nats,
        learning_rate,
        grad_norm,
        update_norm,
        n,
        injected,
        ms,
    ): Row| UpdateStats {
        step: step as u32,
        measured_by: attempt as u32,
        loss_nats,
        learning_rate,
        grad_norm,
        update_norm,
        n_tokens: n as u32,
        n_injected_tokens: injected as u32,
        duration_ms: ms,
    };
    Ok(rows.into_iter().map(update).collect())
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

fn depth(number: i16) -> Result<Depth, Error> {
    usize::try_from(number)
        .ok()
        .and_then(Depth::from_index)
        .ok_or_else(|| Error::Corrupt {
            what: "a probe's depth".to_owned(),
            problem: format!("there is no depth {number}"),
        })
}
