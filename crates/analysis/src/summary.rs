//! The table of results: one row per run, or runs taken together, arm and depth.

use imprint_core::{Depth, Span};
use serde::Serialize;

use crate::effectivity::{Effectivities, Effectivity, effectivities_together};
use crate::fit::DecayFit;
use crate::outliers::within_iqr;
use crate::retainability::{Estimator, Retainability, retainability_together};
use crate::run::{RunData, mean_of};
use crate::settings::{Preset, Settings};

/// One row of `imprint results`; every value that could not be computed is `None`.
///
/// # Units
/// `_nats`: ℓ, the mean log-probability over the span's tokens.
/// `ci95_low` and `ci95_high`: bootstrap over facts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SummaryRow {
    pub run: String,
    pub checkpoint: String,
    pub scenario: String,
    pub batch_size: u32,
    /// `None` where runs of several seeds, or several of one, are taken together.
    pub seed: Option<u64>,
    /// Runs that the numbers are means over.
    pub n_runs: usize,
    pub arm: String,
    pub depth: Depth,
    pub span: Span,
    pub preset: Preset,
    pub n_facts: usize,
    pub n_probes: usize,
    pub n_exposures: u32,
    pub n_held_out_facts: usize,
    /// The window of t_LAM: the smallest and the largest of the exposures.
    pub window_steps_min: u32,
    pub window_steps_max: u32,
    /// (probe, exposure) pairs without the readings they need.
    pub n_not_read: usize,

    /// ε of the first exposure, raw.
    pub first_own_nats: Option<f64>,
    /// The same quantity on held-out facts.
    pub first_null_nats: Option<f64>,
    /// The same quantity on the swap probes, raw.
    pub first_swap_nats: Option<f64>,
    /// own − null.
    pub first_effect_nats: Option<f64>,
    pub first_effect_ci95_low: Option<f64>,
    pub first_effect_ci95_high: Option<f64>,
    /// swap − null.
    pub first_swap_effect_nats: Option<f64>,
    /// own − swap (the null cancels): the gain bound to the subject.
    pub first_binding_nats: Option<f64>,

    /// ε averaged over all exposures, raw, and as above.
    pub mean_own_nats: Option<f64>,
    pub mean_null_nats: Option<f64>,
    pub mean_swap_nats: Option<f64>,
    pub mean_effect_nats: Option<f64>,
    pub mean_effect_ci95_low: Option<f64>,
    pub mean_effect_ci95_high: Option<f64>,
    pub mean_swap_effect_nats: Option<f64>,
    pub mean_binding_nats: Option<f64>,
    /// Raw mean over all exposures as published: without the preset's outliers.
    pub mean_published_nats: Option<f64>,
    pub mean_published_n_outliers: usize,

    /// How the decay was fitted.
    pub decay_fit: Option<String>,
    pub decay_a: Option<f64>,
    pub decay_a_ci95_low: Option<f64>,
    pub decay_a_ci95_high: Option<f64>,
    pub decay_r2: Option<f64>,
    /// R² of a line in t itself.
    pub decay_r2_linear: Option<f64>,
    /// Learnability threshold: log10 of the steps and tokens at which that fit meets R = 0.
    pub threshold_log10_steps: Option<f64>,
    pub threshold_log10_tokens: Option<f64>,
    pub threshold_log10_tokens_ci95_low: Option<f64>,
    pub threshold_log10_tokens_ci95_high: Option<f64>,
    /// Mean R from `retained_late_from_steps` after t_LAM on.
    pub retained_late: Option<f64>,
    pub retained_late_from_steps: Option<u32>,

    /// The fit as the preset publishes it: mean of ratios, no null, every step.
    pub published_fit: Option<String>,
    pub published_a: Option<f64>,
    pub published_r2: Option<f64>,
    pub published_threshold_log10_tokens: Option<f64>,
    /// Probes left out of it because their whole gain is too small, or not positive.
    pub published_n_small_gain: Option<usize>,
    /// Share of its ratios left out as outliers.
    pub published_outlier_share: Option<f64>,
}

/// Everything that is computed for one arm and depth of a run, or of runs taken together.
#[derive(Clone, Debug)]
pub struct GroupAnalysis {
    pub row: SummaryRow,
    pub effectivities: Effectivities,
    pub retainability: Option<Retainability>,
    /// Every fit there is, each under its name; the row has the robust and the published one.
    pub fits: Vec<DecayFit>,
}

/// Every arm and depth of a run, in the order of arms and then of depths.
pub fn analyse(run: &RunData, settings: &Settings) -> Vec<GroupAnalysis> {
    analyse_together(&run.label, &[run], settings)
}

/// The same of runs that differ in nothing but what chance is in them, under one name.
///
/// Means are over the probes of all runs, each with the null of its own run; intervals are over
/// facts, each drawn with all its runs.
pub fn analyse_together(name: &str, runs: &[&RunData], settings: &Settings) -> Vec<GroupAnalysis> {
    let mut groups = Vec::new();
    for arm in runs.first().map(|run| run.arms()).unwrap_or_default() {
        for depth in Depth::ALL {
            let effects = effectivities_together(runs, arm, depth, settings);
            if !effects.rows.is_empty() || effects.n_not_read > 0 {
                groups.push(group(name, runs, arm, depth, settings, effects));
            }
        }
    }
    groups
}

fn group(
    name: &str,
    runs: &[&RunData],
    arm: &str,
    depth: Depth,
    settings: &Settings,
    all: Effectivities,
) -> GroupAnalysis {
    let run = runs[0];
    let first = all.first_exposures();
    let retained = retainability_together(runs, arm, depth, settings);
    let retained = retained.as_ref();
    let windows = || all.rows.iter().map(|r| r.exposure.window_steps);
    let distinct = |key: fn(&Effectivity) -> u32| {
        let mut keys: Vec<u32> = all.rows.iter().map(key).collect();
        keys.sort_unstable();
        keys.dedup();
        keys.len()
    };
    let first_ci = first.effect_interval(settings);
    let mean_ci = all.effect_interval(settings);
    let (published_effect, n_outliers) = without_outliers(&all, settings);
    let robust = retained.and_then(Retainability::robust_curve);
    let fit = retained.and_then(Retainability::robust_fit);
    let (a_ci, threshold_ci) = match &fit {
        Some(_) => retained
            .map(Retainability::robust_intervals)
            .unwrap_or_default(),
        None => (None, None),
    };
    let published = retained.and_then(|r| r.curve(Estimator::MeanOfRatios, false));
    let published_fit = retained.and_then(Retainability::published_fit);
    let row = SummaryRow {
        run: name.to_owned(),
        checkpoint: run.checkpoint.clone(),
        scenario: run.scenario.clone(),
        batch_size: run.batch_size,
        seed: (runs.len() == 1).then_some(run.seed),
        n_runs: runs.len(),
        arm: arm.to_owned(),
        depth,
        span: run.span,
        preset: settings.preset,
        n_facts: distinct(|r| r.fact.0),
        n_probes: distinct(|r| r.probe.0),
        n_exposures: distinct(|r| r.exposure.index) as u32,
        n_held_out_facts: run.held_out(depth).len(),
        window_steps_min: windows().min().unwrap_or(0),
        window_steps_max: windows().max().unwrap_or(0),
        n_not_read: all.n_not_read,

        first_own_nats: first.mean(|r| Some(r.own_nats)),
        first_null_nats: first.mean(|r| r.null_nats),
        first_swap_nats: first.mean(|r| r.swap_nats),
        first_effect_nats: first.mean(Effectivity::effect_nats),
        first_effect_ci95_low: first_ci.and_then(|i| i.low),
        first_effect_ci95_high: first_ci.and_then(|i| i.high),
        first_swap_effect_nats: first.mean(Effectivity::swap_effect_nats),
        first_binding_nats: first.mean(Effectivity::binding_nats),

        mean_own_nats: all.mean(|r| Some(r.own_nats)),
        mean_null_nats: all.mean(|r| r.null_nats),
        mean_swap_nats: all.mean(|r| r.swap_nats),
        mean_effect_nats: all.mean(Effectivity::effect_nats),
        mean_effect_ci95_low: mean_ci.and_then(|i| i.low),
        mean_effect_ci95_high: mean_ci.and_then(|i| i.high),
        mean_swap_effect_nats: all.mean(Effectivity::swap_effect_nats),
        mean_binding_nats: all.mean(Effectivity::binding_nats),
        mean_published_nats: published_effect,
        mean_published_n_outliers: n_outliers,

        decay_fit: fit.as_ref().map(|f| f.name.clone()),
        decay_a: fit.as_ref().map(|f| f.a),
        decay_a_ci95_low: a_ci.and_then(|i| i.low),
        decay_a_ci95_high: a_ci.and_then(|i| i.high),
        decay_r2: fit.as_ref().map(|f| f.r2),
        decay_r2_linear: fit.as_ref().map(|f| f.r2_linear),
        threshold_log10_steps: fit.as_ref().and_then(|f| f.x_intercept_log10_steps),
        threshold_log10_tokens: fit.as_ref().and_then(|f| f.x_intercept_log10_tokens),
        threshold_log10_tokens_ci95_low: threshold_ci.and_then(|i| i.low),
        threshold_log10_tokens_ci95_high: threshold_ci.and_then(|i| i.high),
        retained_late: robust
            .as_ref()
            .and_then(|c| c.mean_from(retained?.late_from_steps())),
        retained_late_from_steps: robust.as_ref().and(retained).map(|r| r.late_from_steps()),

        published_fit: published_fit.as_ref().map(|f| f.name.clone()),
        published_a: published_fit.as_ref().map(|f| f.a),
        published_r2: published_fit.as_ref().map(|f| f.r2),
        published_threshold_log10_tokens: published_fit
            .as_ref()
            .and_then(|f| f.x_intercept_log10_tokens),
        published_n_small_gain: published.as_ref().map(|c| c.exclusions.n_small_gain),
        published_outlier_share: published.as_ref().map(|c| c.outlier_share()),
    };
    GroupAnalysis {
        row,
        fits: retained.map(Retainability::fits).unwrap_or_default(),
        retainability: retained.cloned(),
        effectivities: all,
    }
}

/// The mean of raw ε without outliers, and how many there were; outliers are told apart within
/// each exposure, since the first is the largest.
fn without_outliers(all: &Effectivities, settings: &Settings) -> (Option<f64>, usize) {
    let mut by_exposure: std::collections::BTreeMap<u32, Vec<f64>> = Default::default();
    for row in &all.rows {
        by_exposure
            .entry(row.exposure.index)
            .or_default()
            .push(row.own_nats);
    }
    let mut kept = Vec::new();
    for values in by_exposure.values() {
        let within = within_iqr(values, settings.iqr_factor);
        kept.extend(
            std::iter::zip(values, within)
                .filter(|(_, w)| *w)
                .map(|(v, _)| *v),
        );
    }
    let n_outliers = all.rows.len() - kept.len();
    (mean_of(kept), n_outliers)
}

impl SummaryRow {
    /// The headings of [`Self::cells`].
    pub const HEADINGS: [&str; 12] = [
        "run",
        "arm",
        "depth",
        "ε first",
        "95 % CI",
        "null",
        "swap − null",
        "ε mean",
        "a",
        "R²",
        "kept late",
        "threshold",
    ];

    /// What a terminal has room for: ε (own − null) of the first exposure with its interval, the
    /// null and the swap (− null) beside it, mean ε of all exposures (nats), the decay constant with
    /// its R², late R, and the learnability threshold in log10 tokens.
    pub fn cells(&self) -> [String; 12] {
        // Adding 0 turns a −0 into a 0.
        let two = |v: f64| format!("{:.2}", (v * 100.0).round() / 100.0 + 0.0);
        let number = |v: Option<f64>| v.map_or_else(|| "–".to_owned(), two);
        let interval = match (self.first_effect_ci95_low, self.first_effect_ci95_high) {
            (Some(low), Some(high)) => format!("{} … {}", two(low), two(high)),
            _ => "–".to_owned(),
        };
        [
            self.run.clone(),
            self.arm.clone(),
            self.depth.to_string(),
            number(self.first_effect_nats.or(self.first_own_nats)),
            interval,
            number(self.first_null_nats),
            number(self.first_swap_effect_nats),
            number(self.mean_effect_nats.or(self.mean_own_nats)),
            number(self.decay_a),
            number(self.decay_r2),
            number(self.retained_late),
            number(self.threshold_log10_tokens),
        ]
    }
}

/// The rows as CSV with a heading; empty cells where a value could not be computed.
pub fn summary_csv<'a>(rows: impl IntoIterator<Item = &'a SummaryRow>) -> String {
    crate::figures::csv_of(rows)
}

#[cfg(test)]
mod tests;
