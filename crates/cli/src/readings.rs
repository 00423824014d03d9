//! Runs as the formulas need them, from the database.

mod cells;

use std::collections::BTreeMap;

use imprint_analysis::{Control, FactSchedule, ProbeSeries, RunData};
use imprint_core::{FactId, Span};
use imprint_store::results::{self, RunRecord};
use imprint_store::runs::RunState;
use imprint_store::{Error, Store};

pub(crate) use self::cells::{Sweep, in_words};
use crate::failure::Failure;

/// The data of [`complete`] runs, by what they are runs of.
///
/// # Errors
/// When there is no such experiment or run, or none of them is complete.
pub(crate) async fn load(store: &Store, name: &str, span: Span) -> Result<Sweep, Failure> {
    let records = complete(store, name).await?;
    let mut runs = Vec::with_capacity(records.len());
    for record in &records {
        runs.push(run_data(store, record, span).await?);
    }
    let identities = records.iter().map(|record| &record.identity).collect();
    Ok(Sweep::new(runs, identities))
}

/// The runs of an experiment, or the one that `name` (`experiment/cell`) names.
///
/// # Errors
/// When there is no such experiment or run.
pub(crate) async fn named(store: &Store, name: &str) -> Result<Vec<RunRecord>, Failure> {
    let Some((experiment, _)) = name.split_once('/') else {
        return Ok(results::runs(store, name).await?);
    };
    match results::run(store, name).await {
        Ok(run) => Ok(vec![run]),
        Err(Error::NotFound { .. }) => Err(Failure::bad_input(format!(
            "there is no run `{name}`; `imprint status {experiment}` lists the experiment's"
        ))),
        Err(error) => Err(error.into()),
    }
}

/// The complete runs of an experiment, or the one that `name` (`experiment/cell`) names.
///
/// Runs that are not complete are counted on stderr: half a curve must not look like a whole one.
///
/// # Errors
/// When there is no such experiment or run, or none of them is complete.
pub(crate) async fn complete(store: &Store, name: &str) -> Result<Vec<RunRecord>, Failure> {
    let mut records = named(store, name).await?;
    let n_runs = records.len();
    records.retain(|r| r.state == RunState::Complete);
    match (records.len(), n_runs - records.len()) {
        (0, _) => {
            return Err(Failure::bad_input(format!(
                "no run of `{name}` is complete yet; `imprint status` says why"
            )));
        }
        (_, 0) => {}
        (_, n) => eprintln!("{n} of {n_runs} runs are not complete and are left out"),
    }
    Ok(records)
}

/// What the formulas need of a run.
pub(crate) async fn run_data(
    store: &Store,
    record: &RunRecord,
    span: Span,
) -> Result<RunData, Error> {
    let run_id = record.run_id;
    let mut exposure_steps: BTreeMap<FactId, Vec<u32>> = BTreeMap::new();
    for injection in results::injections(store, run_id).await? {
        exposure_steps
            .entry(injection.fact)
            .or_default()
            .push(injection.step);
    }
    let facts = results::fact_arms(store, run_id).await?;
    let facts = facts.into_iter().map(|f| {
        let exposure_steps = exposure_steps.remove(&f.fact).unwrap_or_default();
        FactSchedule {
            fact: f.fact,
            arm: (!exposure_steps.is_empty()).then_some(f.arm),
            exposure_steps,
        }
    });
    let facts = facts.collect();
    let probes = results::probes(store, run_id).await?;
    let trajectories = results::trajectories(store, run_id, &probes, span).await?;
    let series = probes
        .iter()
        .zip(trajectories)
        .map(|(p, trajectory)| ProbeSeries {
            probe: p.probe,
            fact: p.fact,
            depth: p.depth,
            ordinal: p.ordinal,
            control: if p.swap_fact.is_some() {
                Control::Swap
            } else {
                Control::Own
            },
            trajectory,
        });
    Ok(RunData {
        label: record.label.clone(),
        checkpoint: record.checkpoint.clone(),
        scenario: record.scenario_name.clone(),
        batch_size: record.batch_size,
        seed: record.seed,
        repeat: repeat(record),
        n_updates: record.n_updates,
        tokens_per_step: u64::from(record.batch_size) * u64::from(record.seq_len),
        span,
        facts,
        probes: series.collect(),
    })
}

fn repeat(record: &RunRecord) -> u32 {
    let repeat = record.identity.get("repeat");
    let repeat = repeat.and_then(serde_json::Value::as_u64);
    repeat.map_or(0, |repeat| repeat as u32)
}
