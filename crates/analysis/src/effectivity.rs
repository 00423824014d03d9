//! Effectivity ε: how much one exposure raises a probe's log-probability.

use std::collections::BTreeMap;

use imprint_core::{Depth, FactId, ProbeId};

use crate::bootstrap::{Interval, interval, resamples};
use crate::peak::{Exposure, exposures, peak};
use crate::run::{Control, HeldOut, RunData, mean_of};
use crate::settings::Settings;

/// The effect of one exposure on one probe.
///
/// # Units
/// Nats of ℓ, the mean log-probability over the span's tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Effectivity {
    pub probe: ProbeId,
    pub fact: FactId,
    pub exposure: Exposure,
    pub t_lam: u32,
    /// ε = ℓ(t_LAM) − ℓ(t_i).
    pub own_nats: f64,
    /// The same over the same window, each with its own maximum, averaged over the probes of this
    /// depth of the held-out facts: what a maximum makes of drift and noise alone.
    pub null_nats: Option<f64>,
    /// The same averaged over the swap probes of this fact and depth: what the value gains whatever
    /// the subject.
    pub swap_nats: Option<f64>,
}

impl Effectivity {
    /// own − null.
    pub fn effect_nats(&self) -> Option<f64> {
        Some(self.own_nats - self.null_nats?)
    }

    /// swap − null.
    pub fn swap_effect_nats(&self) -> Option<f64> {
        Some(self.swap_nats? - self.null_nats?)
    }

    /// own − swap, in which the null cancels: the gain that is bound to the subject.
    pub fn binding_nats(&self) -> Option<f64> {
        Some(self.own_nats - self.swap_nats?)
    }
}

/// Every exposure of every probe of one arm and depth.
#[derive(Clone, Debug)]
pub struct Effectivities {
    pub rows: Vec<Effectivity>,
    /// Exposures of probes left out because the reading at t_i or every reading of the window is
    /// missing.
    pub n_not_read: usize,
    /// By exposure: each held-out fact's sum of gains and its number of probes.
    null: BTreeMap<Exposure, Vec<(f64, f64)>>,
}

/// The effectivities of one arm and depth, of every exposure.
///
/// # Source
/// arXiv 2406.11813 §3.3; the null and swap controls and the cut of the window at the next
/// injection are ours.
pub fn effectivities(run: &RunData, arm: &str, depth: Depth, settings: &Settings) -> Effectivities {
    let held_out = run.held_out(depth);
    let mut null: BTreeMap<Exposure, Vec<(f64, f64)>> = BTreeMap::new();
    let mut rows = Vec::new();
    let mut n_not_read = 0;
    for schedule in run.shown(arm) {
        let own = run.series(schedule.fact, depth, Control::Own);
        let swap = run.series(schedule.fact, depth, Control::Swap);
        for exposure in exposures(schedule, run.n_updates, settings.window_steps) {
            let null_gains = null
                .entry(exposure)
                .or_insert_with(|| held_out.iter().map(|h| null_gain(h, &exposure)).collect());
            let gains = |series: &[&crate::run::ProbeSeries]| {
                mean_of(
                    series
                        .iter()
                        .filter_map(|p| peak(&p.trajectory, &exposure))
                        .map(|p| p.gain_nats),
                )
            };
            let null_nats = weighted_mean(null_gains, null_gains.iter().map(|_| 1.0));
            let swap_nats = gains(&swap);
            for probe in &own {
                match peak(&probe.trajectory, &exposure) {
                    Some(peak) => rows.push(Effectivity {
                        probe: probe.probe,
                        fact: schedule.fact,
                        exposure,
                        t_lam: peak.step,
                        own_nats: peak.gain_nats,
                        null_nats,
                        swap_nats,
                    }),
                    None => n_not_read += 1,
                }
            }
        }
    }
    Effectivities {
        rows,
        n_not_read,
        null,
    }
}

/// Those of runs that show the same facts at the same steps, as if they were one: every run's rows
/// keep the null of their own run.
pub(crate) fn effectivities_together(
    runs: &[&RunData],
    arm: &str,
    depth: Depth,
    settings: &Settings,
) -> Effectivities {
    let mut together = Effectivities {
        rows: Vec::new(),
        n_not_read: 0,
        null: BTreeMap::new(),
    };
    for run in runs {
        let of_run = effectivities(run, arm, depth, settings);
        together.rows.extend(of_run.rows);
        together.n_not_read += of_run.n_not_read;
        for (exposure, gains) in of_run.null {
            let sums = together.null.entry(exposure).or_default();
            sums.resize(sums.len().max(gains.len()), (0.0, 0.0));
            for (sum, gain) in std::iter::zip(sums, gains) {
                *sum = (sum.0 + gain.0, sum.1 + gain.1);
            }
        }
    }
    together
}

fn null_gain(held_out: &HeldOut<'_>, exposure: &Exposure) -> (f64, f64) {
    held_out
        .probes
        .iter()
        .filter_map(|t| peak(t, exposure))
        .fold((0.0, 0.0), |(sum, n), p| (sum + p.gain_nats, n + 1.0))
}

/// The mean over probes, each fact's probes counted `weights` times.
fn weighted_mean(sums: &[(f64, f64)], weights: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, n) = sums
        .iter()
        .zip(weights)
        .fold((0.0, 0.0), |(sum, n), (s, w)| (sum + w * s.0, n + w * s.1));
    (n > 0.0).then(|| sum / n)
}

impl Effectivities {
    /// The rows of the first exposures alone.
    pub fn first_exposures(&self) -> Self {
        Self {
            rows: self
                .rows
                .iter()
                .filter(|r| r.exposure.index == 0)
                .cloned()
                .collect(),
            ..self.clone()
        }
    }

    /// The mean over rows of one of their quantities, over the rows that have it.
    pub fn mean(&self, quantity: impl Fn(&Effectivity) -> Option<f64>) -> Option<f64> {
        mean_of(self.rows.iter().filter_map(quantity))
    }

    /// A 95 % bootstrap interval, over facts, of the mean of own − null.
    pub fn effect_interval(&self, settings: &Settings) -> Option<Interval> {
        let mut facts: Vec<FactId> = self.rows.iter().map(|r| r.fact).collect();
        facts.sort_unstable();
        facts.dedup();
        let n_held_out = self.null.values().next().map_or(0, Vec::len);
        if n_held_out == 0 {
            return None;
        }
        let windows: Vec<&Exposure> = self.null.keys().collect();
        // One cell for a fact and window: the rows in it differ only in what their probes gained.
        let mut cells: BTreeMap<(usize, usize), (f64, f64)> = BTreeMap::new();
        for row in &self.rows {
            let fact = facts.partition_point(|f| *f < row.fact);
            let window = windows.partition_point(|w| **w < row.exposure);
            let cell = cells.entry((fact, window)).or_default();
            cell.0 += row.own_nats;
            cell.1 += 1.0;
        }
        let draws = resamples(
            facts.len(),
            n_held_out,
            settings.n_bootstrap,
            settings.bootstrap_seed,
        );
        interval(draws.map(|draw| {
            let null: Vec<f64> = self
                .null
                .values()
                .map(|sums| weighted_mean(sums, draw.held_out.iter().copied()).unwrap_or(f64::NAN))
                .collect();
            let (sum, n) = cells.iter().fold((0.0, 0.0), |(sum, n), (key, cell)| {
                let weight = draw.shown[key.0];
                (
                    sum + weight * (cell.0 - cell.1 * null[key.1]),
                    n + weight * cell.1,
                )
            });
            sum / n
        }))
    }
}

#[cfg(test)]
mod tests;
