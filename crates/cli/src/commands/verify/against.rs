//! Whether two runs have the same readings, bit by bit.

use std::process::ExitCode;

use futures::TryStreamExt as _;
use imprint_core::{Span, StepReadings};
use imprint_store::results::{self, RunRecord};
use imprint_store::runs::RunState;
use imprint_store::{Store, export};
use serde::Serialize;

use crate::arguments::Output;
use crate::commands::{print_json, tell};
use crate::database::Database;
use crate::failure::{Failure, Outcome};
use crate::place::Place;
use crate::readings;

pub(super) async fn run(place: &Place, name: &str, other: &str, output: Output) -> Outcome {
    let database = Database::open(place).await?;
    let compared = compare(&database.store, name, other).await;
    database.close().await?;
    let compared = compared?;
    match output {
        Output::Json => print_json(&compared)?,
        Output::Table if compared.equal => tell(format_args!(
            "equal, bit by bit: all {} readings of {} probes",
            compared.n_readings, compared.n_probes
        ))?,
        Output::Table => {}
    }
    match compared.in_words() {
        None => Ok(ExitCode::SUCCESS),
        Some(words) => Err(Failure::failed(format!(
            "{name} and {other} differ: {words}"
        ))),
    }
}

/// How the readings of two runs differ.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Comparison {
    equal: bool,
    n_readings: u32,
    n_probes: usize,
    /// Summed log-probabilities of each run.
    n_values: u64,
    n_different: u64,
    first_different_step: Option<u32>,
    largest: Option<Difference>,
}

/// Where two runs differ, and by how much.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Difference {
    step: u32,
    probe: usize,
    span: &'static str,
    nats: f32,
    other_nats: f32,
}

impl Difference {
    fn size(&self) -> f64 {
        (f64::from(self.nats) - f64::from(self.other_nats)).abs()
    }
}

impl Comparison {
    /// What is different; `None` where nothing is.
    fn in_words(&self) -> Option<String> {
        let largest = self.largest.filter(|_| !self.equal)?;
        let Difference {
            step,
            probe,
            span,
            nats,
            other_nats,
        } = largest;
        Some(format!(
            "{} of {} values, first at step {}; the largest difference is {:.3e} nats, of the \
             span {span} of probe {probe} at step {step} ({nats} and {other_nats})",
            self.n_different,
            self.n_values,
            self.first_different_step.unwrap_or(step),
            largest.size(),
        ))
    }

    /// Adds the readings that two runs took at the same step.
    fn add(&mut self, reading: &StepReadings, other: &StepReadings) {
        self.n_readings += 1;
        for (span, sums_nats, others_nats) in [
            (Span::First, &reading.first_sum_nats, &other.first_sum_nats),
            (
                Span::Target,
                &reading.target_sum_nats,
                &other.target_sum_nats,
            ),
            (Span::Full, &reading.full_sum_nats, &other.full_sum_nats),
        ] {
            let values = sums_nats.iter().zip(others_nats);
            for (probe, (&nats, &other_nats)) in values.enumerate() {
                self.n_values += 1;
                if nats.to_bits() == other_nats.to_bits() {
                    continue;
                }
                self.equal = false;
                self.n_different += 1;
                self.first_different_step.get_or_insert(reading.step);
                let difference = Difference {
                    step: reading.step,
                    probe,
                    span: span.as_str(),
                    nats,
                    other_nats,
                };
                if (self.largest).is_none_or(|largest| difference.size() > largest.size()) {
                    self.largest = Some(difference);
                }
            }
        }
    }
}

async fn compare(store: &Store, name: &str, other: &str) -> Result<Comparison, Failure> {
    let (run, other) = (complete(store, name).await?, complete(store, other).await?);
    let probes = results::probes(store, run.run_id).await?;
    if results::probes(store, other.run_id).await? != probes {
        return Err(Failure::bad_input(format!(
            "{} and {} read other probes: their readings cannot be compared",
            run.label, other.label
        )));
    }
    let mut comparison = Comparison {
        equal: true,
        n_probes: probes.len(),
        ..Comparison::default()
    };
    let mut readings = std::pin::pin!(export::readings(store, run.run_id));
    let mut others = std::pin::pin!(export::readings(store, other.run_id));
    loop {
        match (readings.try_next().await?, others.try_next().await?) {
            (None, None) => break,
            (Some(reading), Some(other)) if reading.step == other.step => {
                comparison.add(&reading, &other);
            }
            _ => {
                return Err(Failure::bad_input(format!(
                    "{} and {} were read at other steps: their readings cannot be compared",
                    run.label, other.label
                )));
            }
        }
    }
    let n_values = u64::from(comparison.n_readings) * 3 * probes.len() as u64;
    if comparison.n_values != n_values || comparison.n_readings != run.n_readings {
        return Err(Failure::failed(format!(
            "not all readings are whole; `imprint verify {}` and `imprint verify {}` say which",
            run.label, other.label
        )));
    }
    Ok(comparison)
}

/// A run all of whose readings are there.
async fn complete(store: &Store, name: &str) -> Result<RunRecord, Failure> {
    if !name.contains('/') {
        return Err(Failure::bad_input(format!(
            "`{name}` is no run (`experiment/cell`): --against compares one run with one other"
        )));
    }
    let mut runs = readings::named(store, name).await?;
    match runs.pop() {
        Some(run) if run.state == RunState::Complete => Ok(run),
        run => {
            let state = run.map_or("not there", |run| run.state.as_str());
            Err(Failure::failed(format!(
                "{name} is {state}: runs are compared once they are complete"
            )))
        }
    }
}

#[cfg(test)]
mod tests;
