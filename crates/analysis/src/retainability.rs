//! Retainability R: the share of a fact's whole gain that is left t steps after its last peak.

use imprint_core::{Depth, FactId, Trajectory};
use serde::{Deserialize, Serialize};

use crate::bootstrap::{Interval, interval, resamples};
use crate::fit::{DecayFit, log_binned, log_grid};
use crate::outliers::within_iqr;
use crate::peak::{exposures, peak};
use crate::run::{Control, RunData, interpolated, mean, mean_trajectory, reading};
use crate::settings::Settings;

/// How the retainabilities of many probes become one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Estimator {
    /// Mean gain left at t over mean whole gain: no probe is left out, and small denominators do no
    /// harm.
    RatioOfMeans,
    /// The mean over probes of their own ratios, without small denominators and outliers: the
    /// published one.
    MeanOfRatios,
}

/// Which t a line is fitted through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Weighting {
    /// Every whole step from 1 on, of equal weight: late steps, of which there are most, decide.
    EveryStep,
    /// Means over bins of equal width in log t.
    LogBinned,
}

/// Mean retainability t steps after t_LAM.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RetainabilityPoint {
    pub t_steps: u32,
    /// 1 at t = 0.
    pub r: f64,
    pub n_probes: usize,
    /// Probes left out at this t as outliers.
    pub n_outliers: usize,
}

/// Probes that a curve leaves out altogether, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Exclusions {
    /// No reading at the first injection, or none in the window after the last.
    pub n_not_read: usize,
    /// A whole gain that is exactly 0, or below the smallest gain of the settings; mean of ratios
    /// only.
    pub n_small_gain: usize,
}

/// R over t, at every whole step from 1.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RetainabilityCurve {
    pub estimator: Estimator,
    /// Whether the held-out facts' drift over the same steps is subtracted in numerator and
    /// denominator.
    pub null_subtracted: bool,
    pub points: Vec<RetainabilityPoint>,
    pub exclusions: Exclusions,
}

/// How the facts of one arm and depth are retained.
#[derive(Clone, Debug)]
pub struct Retainability {
    gains: Vec<ProbeGain>,
    n_not_read: usize,
    /// Whole steps after t_LAM that every probe has.
    pub t_max_steps: u32,
    /// Probes of each held-out fact.
    held_out_weights: Vec<f64>,
    tokens_per_step: u64,
    settings: Settings,
}

/// One probe's gain over its reading at the first injection, nats.
#[derive(Clone, Debug)]
struct ProbeGain {
    fact: FactId,
    own: Gain,
    /// What the held-out facts gained over the same steps, averaged over their probes.
    null: Option<Gain>,
    /// The same of each held-out fact, on the logarithmic grid alone.
    null_by_fact: Vec<Gain>,
}

/// # Shapes
/// `left_nats` has one value per t asked for; NaN where it was not read.
#[derive(Clone, Debug)]
struct Gain {
    /// At t_LAM: the denominator.
    whole_nats: f64,
    /// At t_LAM + t: the numerator.
    left_nats: Vec<f64>,
}

impl Gain {
    fn of(trajectory: &Trajectory, t_pre: u32, t_lam: u32, ts: impl Iterator<Item = u32>) -> Self {
        let at = |step| interpolated(trajectory, step).unwrap_or(f64::NAN);
        let before = at(t_pre);
        Self {
            whole_nats: at(t_lam) - before,
            left_nats: ts.map(|t| at(t_lam + t) - before).collect(),
        }
    }

    fn minus(&self, null: &Self) -> Self {
        Self {
            whole_nats: self.whole_nats - null.whole_nats,
            left_nats: std::iter::zip(&self.left_nats, &null.left_nats)
                .map(|(own, null)| own - null)
                .collect(),
        }
    }
}

/// What is left of the gains of one arm and depth; `None` where fewer than two steps can be seen.
///
/// t_LAM is the peak after the last exposure, t_pre the reading at the first injection.
/// The null is read at the same steps, so what a maximum makes of noise stays in the denominator.
/// Where the tail of a run is read every few steps, ℓ in between is linear in the step.
///
/// # Source
/// arXiv 2406.11813 §3.3: R(q,t) = (ℓ(t_LAM,N + t) − ℓ(t_pre)) / (ℓ(t_LAM,N) − ℓ(t_pre)).
pub fn retainability(
    run: &RunData,
    arm: &str,
    depth: Depth,
    settings: &Settings,
) -> Option<Retainability> {
    retainability_together(&[run], arm, depth, settings)
}

/// The same of runs that show the same facts at the same steps, as if they were one: every run's
/// probes keep the null of their own run.
pub(crate) fn retainability_together(
    runs: &[&RunData],
    arm: &str,
    depth: Depth,
    settings: &Settings,
) -> Option<Retainability> {
    let mut peaked_by_run = Vec::with_capacity(runs.len());
    let mut n_not_read = 0;
    for run in runs {
        let mut peaked = Vec::new();
        for schedule in run.shown(arm) {
            let exposures = exposures(schedule, run.n_updates, settings.window_steps);
            let (first, last) = (exposures.first()?, exposures.last()?);
            for probe in run.series(schedule.fact, depth, Control::Own) {
                let trajectory = &probe.trajectory;
                match (reading(trajectory, first.step), peak(trajectory, last)) {
                    (Some(_), Some(peak)) => peaked.push((probe, first.step, peak.step)),
                    _ => n_not_read += 1,
                }
            }
        }
        peaked_by_run.push(peaked);
    }
    let t_max_steps = (peaked_by_run.iter().flatten())
        .filter_map(|(probe, _, t_lam)| Some(probe.trajectory.steps().last()? - t_lam))
        .min()
        .filter(|&t| t >= 2)?;

    let grid = log_grid(t_max_steps);
    let mut gains = Vec::new();
    for (run, peaked) in std::iter::zip(runs, peaked_by_run) {
        let held_out = run.held_out(depth);
        let all_null: Vec<&Trajectory> = held_out.iter().flat_map(|h| h.probes.clone()).collect();
        let null_mean = (!all_null.is_empty()).then(|| mean_trajectory(&all_null));
        gains.extend(peaked.into_iter().map(|(probe, t_pre, t_lam)| {
            let every = |trajectory| Gain::of(trajectory, t_pre, t_lam, 1..=t_max_steps);
            ProbeGain {
                fact: probe.fact,
                own: every(&probe.trajectory),
                null: null_mean.as_ref().map(every),
                null_by_fact: held_out
                    .iter()
                    .map(|h| Gain::of(&h.mean, t_pre, t_lam, grid.iter().copied()))
                    .collect(),
            }
        }));
    }
    let first = runs.first()?;
    let held_out = first.held_out(depth);
    Some(Retainability {
        gains,
        n_not_read,
        t_max_steps,
        held_out_weights: held_out.iter().map(|h| h.probes.len() as f64).collect(),
        tokens_per_step: first.tokens_per_step,
        settings: *settings,
    })
}

impl Retainability {
    /// The curve of an estimator; `None` where there is no null to subtract, no probe is left, or,
    /// for a ratio of means, the mean gain is not above the smallest gain of the settings.
    pub fn curve(&self, estimator: Estimator, null_subtracted: bool) -> Option<RetainabilityCurve> {
        let gains: Vec<Gain> = self
            .gains
            .iter()
            .map(|g| match (null_subtracted, &g.null) {
                (false, _) => Some(g.own.clone()),
                (true, null) => Some(g.own.minus(null.as_ref()?)),
            })
            .collect::<Option<_>>()?;
        let (points, n_small_gain) = match estimator {
            Estimator::RatioOfMeans => (self.ratio_of_means(&gains)?, 0),
            Estimator::MeanOfRatios => self.mean_of_ratios(&gains),
        };
        (!points.is_empty()).then_some(RetainabilityCurve {
            estimator,
            null_subtracted,
            points,
            exclusions: Exclusions {
                n_not_read: self.n_not_read,
                n_small_gain,
            },
        })
    }

    /// Steps at which some probe was not read are left out, so that every mean is over the same
    /// probes.
    fn ratio_of_means(&self, gains: &[Gain]) -> Option<Vec<RetainabilityPoint>> {
        let whole: f64 = gains.iter().map(|g| g.whole_nats).sum();
        if !self.settings.is_gain(whole / gains.len() as f64) {
            return None;
        }
        let point = |t: u32| RetainabilityPoint {
            t_steps: t,
            r: gains
                .iter()
                .map(|g| g.left_nats[t as usize - 1])
                .sum::<f64>()
                / whole,
            n_probes: gains.len(),
            n_outliers: 0,
        };
        let points = (1..=self.t_max_steps).map(point);
        Some(points.filter(|p| p.r.is_finite()).collect())
    }

    fn mean_of_ratios(&self, gains: &[Gain]) -> (Vec<RetainabilityPoint>, usize) {
        let large: Vec<&Gain> = gains
            .iter()
            .filter(|g| match self.settings.min_gain_nats {
                Some(smallest) => g.whole_nats >= smallest && g.whole_nats > 0.0,
                None => g.whole_nats != 0.0,
            })
            .collect();
        let point = |t: u32| {
            let ratios: Vec<f64> = large
                .iter()
                .map(|g| g.left_nats[t as usize - 1] / g.whole_nats)
                .filter(|r| r.is_finite())
                .collect();
            let within = within_iqr(&ratios, self.settings.iqr_factor);
            let kept: Vec<f64> = std::iter::zip(&ratios, &within)
                .filter(|(_, within)| **within)
                .map(|(r, _)| *r)
                .collect();
            (!kept.is_empty()).then(|| RetainabilityPoint {
                t_steps: t,
                r: mean(&kept),
                n_probes: kept.len(),
                n_outliers: ratios.len() - kept.len(),
            })
        };
        let points = (1..=self.t_max_steps).filter_map(point).collect();
        (points, gains.len() - large.len())
    }

    /// The line through a curve, named after how it was made.
    pub fn fit(&self, curve: &RetainabilityCurve, weighting: Weighting) -> Option<DecayFit> {
        let points = match weighting {
            Weighting::EveryStep => curve
                .points
                .iter()
                .map(|p| (f64::from(p.t_steps), p.r))
                .collect(),
            Weighting::LogBinned => curve.log_binned(),
        };
        let name = format!(
            "{}, {}, {}",
            match curve.estimator {
                Estimator::RatioOfMeans => "ratio of means".to_owned(),
                Estimator::MeanOfRatios =>
                    format!("mean of ratios (IQR {:.1})", self.settings.iqr_factor),
            },
            if curve.null_subtracted {
                "null-subtracted"
            } else {
                "raw"
            },
            match weighting {
                Weighting::EveryStep => "every step",
                Weighting::LogBinned => "log-binned",
            },
        );
        DecayFit::new(name, &points, self.tokens_per_step)
    }

    /// The curve that tables and figures lead with: ratio of means, null-subtracted where there is
    /// a null; a single probe's noise cannot upset it.
    pub fn robust_curve(&self) -> Option<RetainabilityCurve> {
        self.curve(Estimator::RatioOfMeans, self.has_null())
    }

    /// The line through the log-binned [`Self::robust_curve`].
    pub fn robust_fit(&self) -> Option<DecayFit> {
        self.fit(&self.robust_curve()?, Weighting::LogBinned)
    }

    /// The fit as published: mean of ratios without a null, through every whole step.
    pub fn published_fit(&self) -> Option<DecayFit> {
        let curve = self.curve(Estimator::MeanOfRatios, false)?;
        self.fit(&curve, Weighting::EveryStep)
    }

    /// Every combination of estimator, null and weighting that there is.
    pub fn fits(&self) -> Vec<DecayFit> {
        let mut fits = Vec::new();
        for estimator in [Estimator::RatioOfMeans, Estimator::MeanOfRatios] {
            for null_subtracted in [true, false] {
                let curve = self.curve(estimator, null_subtracted);
                for weighting in [Weighting::LogBinned, Weighting::EveryStep] {
                    fits.extend(curve.as_ref().and_then(|c| self.fit(c, weighting)));
                }
            }
        }
        fits
    }

    /// From how many steps after t_LAM on retention is called late.
    pub fn late_from_steps(&self) -> u32 {
        self.settings
            .late_from_steps
            .unwrap_or(self.t_max_steps.div_ceil(2))
    }

    /// 95 % bootstrap intervals, over facts, of the robust fit's a and log10 tokens at R = 0.
    ///
    /// Resamples whose mean gain is not above the smallest gain have no curve and are left out.
    pub fn robust_intervals(&self) -> (Option<Interval>, Option<Interval>) {
        let grid = log_grid(self.t_max_steps);
        let facts = self.facts();
        let shown: Vec<Gain> = facts
            .iter()
            .map(|&fact| sum(self.of_fact(fact).map(|g| self.on_grid(&g.own))))
            .collect();
        // By held-out fact, then by shown fact.
        let null: Vec<Vec<Gain>> = (0..self.held_out_weights.len())
            .map(|k| {
                facts
                    .iter()
                    .map(|&fact| sum(self.of_fact(fact).map(|g| g.null_by_fact[k].clone())))
                    .collect()
            })
            .collect();
        let n_by_fact: Vec<f64> = facts
            .iter()
            .map(|&fact| self.of_fact(fact).count() as f64)
            .collect();

        let settings = &self.settings;
        let draws = resamples(
            facts.len(),
            self.held_out_weights.len(),
            settings.n_bootstrap,
            settings.bootstrap_seed,
        );
        let fits = draws.map(|draw| {
            let mut total = weighted_sum(&shown, &draw.shown, grid.len());
            let weights: Vec<f64> = std::iter::zip(&draw.held_out, &self.held_out_weights)
                .map(|(drawn, n_probes)| drawn * n_probes)
                .collect();
            let n_null: f64 = weights.iter().sum();
            for (of_facts, weight) in std::iter::zip(&null, &weights) {
                if *weight > 0.0 {
                    let drift = weighted_sum(of_facts, &draw.shown, grid.len());
                    total.add(&drift, -weight / n_null);
                }
            }
            let n: f64 = std::iter::zip(&n_by_fact, &draw.shown)
                .map(|(n, w)| n * w)
                .sum();
            if !settings.is_gain(total.whole_nats / n) {
                return None;
            }
            let curve = std::iter::zip(&grid, &total.left_nats)
                .map(|(&t, left)| (t, left / total.whole_nats))
                .filter(|(_, r)| r.is_finite());
            DecayFit::new(String::new(), &log_binned(curve), self.tokens_per_step)
        });
        let fits: Vec<DecayFit> = fits.flatten().collect();
        (
            interval(fits.iter().map(|f| f.a)),
            interval(
                fits.iter()
                    .map(|f| f.x_intercept_log10_tokens.unwrap_or(f64::INFINITY)),
            ),
        )
    }

    /// Each fact's whole gain and gains left on the logarithmic grid, averaged over its probes,
    /// null-subtracted where there is a null.
    pub(crate) fn fact_gains(&self) -> Vec<FactGain> {
        let grid = log_grid(self.t_max_steps);
        self.facts()
            .into_iter()
            .map(|fact| {
                let n = self.of_fact(fact).count() as f64;
                let total = sum(self.of_fact(fact).map(|g| match &g.null {
                    Some(null) => self.on_grid(&g.own.minus(null)),
                    None => self.on_grid(&g.own),
                }));
                FactGain {
                    fact,
                    whole_nats: total.whole_nats / n,
                    left_nats: std::iter::zip(&grid, &total.left_nats)
                        .map(|(&t, left)| (t, left / n))
                        .collect(),
                }
            })
            .collect()
    }

    pub(crate) fn has_null(&self) -> bool {
        self.gains.iter().all(|g| g.null.is_some())
    }

    fn facts(&self) -> Vec<FactId> {
        let mut facts: Vec<FactId> = self.gains.iter().map(|g| g.fact).collect();
        facts.sort_unstable();
        facts.dedup();
        facts
    }

    fn of_fact(&self, fact: FactId) -> impl Iterator<Item = &ProbeGain> {
        self.gains.iter().filter(move |g| g.fact == fact)
    }

    fn on_grid(&self, gain: &Gain) -> Gain {
        Gain {
            whole_nats: gain.whole_nats,
            left_nats: log_grid(self.t_max_steps)
                .into_iter()
                .map(|t| gain.left_nats[t as usize - 1])
                .collect(),
        }
    }
}

/// One fact's gains in nats; `left_nats` by steps after t_LAM.
pub(crate) struct FactGain {
    pub(crate) fact: FactId,
    pub(crate) whole_nats: f64,
    pub(crate) left_nats: Vec<(u32, f64)>,
}

impl Gain {
    fn add(&mut self, other: &Self, weight: f64) {
        self.whole_nats += weight * other.whole_nats;
        for (sum, value) in std::iter::zip(&mut self.left_nats, &other.left_nats) {
            *sum += weight * value;
        }
    }
}

fn weighted_sum(gains: &[Gain], weights: &[f64], n_points: usize) -> Gain {
    let mut total = Gain {
        whole_nats: 0.0,
        left_nats: vec![0.0; n_points],
    };
    for (gain, &weight) in std::iter::zip(gains, weights) {
        if weight > 0.0 {
            total.add(gain, weight);
        }
    }
    total
}

fn sum(gains: impl Iterator<Item = Gain>) -> Gain {
    let gains: Vec<Gain> = gains.collect();
    let n_points = gains.first().map_or(0, |g| g.left_nats.len());
    weighted_sum(&gains, &vec![1.0; gains.len()], n_points)
}

impl RetainabilityCurve {
    /// (t, R) averaged over bins of equal width in log t.
    pub fn log_binned(&self) -> Vec<(f64, f64)> {
        let Some(last) = self.points.last() else {
            return Vec::new();
        };
        let grid = log_grid(last.t_steps);
        log_binned(
            self.points
                .iter()
                .filter(|p| grid.binary_search(&p.t_steps).is_ok())
                .map(|p| (p.t_steps, p.r)),
        )
    }

    /// The mean R over steps from `from` on, each decade of t of equal weight.
    pub fn mean_from(&self, from_steps: u32) -> Option<f64> {
        let grid = log_grid(self.points.last()?.t_steps);
        crate::run::mean_of(
            self.points
                .iter()
                .filter(|p| p.t_steps >= from_steps && grid.binary_search(&p.t_steps).is_ok())
                .map(|p| p.r),
        )
    }

    /// Share of the ratios left out as outliers, over all t.
    pub fn outlier_share(&self) -> f64 {
        let n_outliers: usize = self.points.iter().map(|p| p.n_outliers).sum();
        let n_probes: usize = self.points.iter().map(|p| p.n_probes).sum();
        n_outliers as f64 / (n_outliers + n_probes).max(1) as f64
    }
}

#[cfg(test)]
mod tests;
