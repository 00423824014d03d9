//! Bootstrap intervals over facts.

use rand_core::{RngCore, SeedableRng};
use rand_pcg::Pcg64;
use serde::Serialize;

use crate::outliers::quantile;

/// A central 95 % percentile interval; an end is `None` where resamples put it at infinity.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    pub low: Option<f64>,
    pub high: Option<f64>,
}

/// How often each shown and each held-out fact was drawn.
pub(crate) struct Resample {
    pub(crate) shown: Vec<f64>,
    pub(crate) held_out: Vec<f64>,
}

/// Draws of facts with replacement; shown and held-out facts are drawn separately.
///
/// Facts, not probes, are drawn: probes of one fact rise and fall together.
pub(crate) fn resamples(
    n_shown: usize,
    n_held_out: usize,
    n_resamples: u32,
    seed: u64,
) -> impl Iterator<Item = Resample> {
    let mut rng = Pcg64::seed_from_u64(seed);
    (0..n_resamples).map(move |_| Resample {
        shown: draw(&mut rng, n_shown),
        held_out: draw(&mut rng, n_held_out),
    })
}

fn draw(rng: &mut Pcg64, n: usize) -> Vec<f64> {
    let mut counts = vec![0.0; n];
    for _ in 0..n {
        // The high half of the product is uniform on 0..n, but for a bias below n / 2^64.
        let i = (u128::from(rng.next_u64()) * n as u128) >> 64;
        counts[i as usize] += 1.0;
    }
    counts
}

/// The interval of resampled statistics; those that are NaN (nothing to compute from) are left out.
pub(crate) fn interval(statistics: impl IntoIterator<Item = f64>) -> Option<Interval> {
    let mut values: Vec<f64> = statistics.into_iter().filter(|v| !v.is_nan()).collect();
    if values.is_empty() {
        return None;
    }
    values.sort_unstable_by(f64::total_cmp);
    let end = |p: f64| Some(quantile(&values, p)).filter(|v| v.is_finite());
    Some(Interval {
        low: end(0.025),
        high: end(0.975),
    })
}

#[cfg(test)]
mod tests;
