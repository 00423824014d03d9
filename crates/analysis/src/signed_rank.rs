//! Wilcoxon's signed-rank test.

use serde::Serialize;

/// Up to this many differences the null distribution is counted out.
const MAX_EXACT: usize = 200;

/// The outcome of a one-sided Wilcoxon signed-rank test.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SignedRank {
    /// Differences that are not 0; zeros carry no sign and are left out.
    pub n: usize,
    /// The sum of the ranks of positive differences.
    pub w_plus: f64,
    /// The probability of a sum this large or larger if signs were fair coins.
    pub p_value: f64,
    /// Whether `p_value` is counted out (ties included) or a normal approximation.
    pub exact: bool,
}

/// Whether differences lie above 0: one-sided Wilcoxon signed-rank test.
///
/// Equal magnitudes share their mean rank.
/// Without any difference p is 1; differences that are NaN are left out like zeros.
pub fn signed_rank_greater(differences: &[f64]) -> SignedRank {
    let mut differences: Vec<f64> = differences
        .iter()
        .copied()
        .filter(|d| *d != 0.0 && !d.is_nan())
        .collect();
    differences.sort_unstable_by(|x, y| x.abs().total_cmp(&y.abs()));
    let n = differences.len();

    // Mean ranks are halves, so doubled ranks are whole: the ranks i+1..=j doubled and averaged.
    let mut doubled_ranks = Vec::with_capacity(n);
    for tied in differences.chunk_by(|x, y| x.abs() == y.abs()) {
        let rank = 2 * doubled_ranks.len() + tied.len() + 1;
        doubled_ranks.extend(std::iter::repeat_n(rank, tied.len()));
    }
    let doubled_w: usize = differences
        .iter()
        .zip(&doubled_ranks)
        .filter(|(d, _)| **d > 0.0)
        .map(|(_, rank)| rank)
        .sum();
    let exact = n <= MAX_EXACT;
    SignedRank {
        n,
        w_plus: doubled_w as f64 / 2.0,
        p_value: if exact {
            exact_tail(&doubled_ranks, doubled_w)
        } else {
            normal_tail(&doubled_ranks, doubled_w)
        },
        exact,
    }
}

/// P(sum ≥ w) by dynamic programming over the ranks: each counts with probability one half.
fn exact_tail(doubled_ranks: &[usize], doubled_w: usize) -> f64 {
    let total: usize = doubled_ranks.iter().sum();
    let mut probability = vec![0.0; total + 1];
    probability[0] = 1.0;
    let mut reached = 0;
    for &rank in doubled_ranks {
        reached += rank;
        for sum in (0..=reached).rev() {
            let with = if sum >= rank {
                probability[sum - rank]
            } else {
                0.0
            };
            probability[sum] = 0.5 * (probability[sum] + with);
        }
    }
    probability[doubled_w..].iter().sum::<f64>().min(1.0)
}

/// P(sum ≥ w) by the normal distribution of the same mean and variance, corrected for continuity.
fn normal_tail(doubled_ranks: &[usize], doubled_w: usize) -> f64 {
    let mean = doubled_ranks.iter().sum::<usize>() as f64 / 2.0;
    let variance = doubled_ranks
        .iter()
        .map(|&r| (r * r) as f64 / 4.0)
        .sum::<f64>();
    // Doubled sums move in twos where there are no ties.
    let z = (doubled_w as f64 - 1.0 - mean) / variance.sqrt();
    0.5 * erfc(z / std::f64::consts::SQRT_2)
}

/// The complementary error function, by its continued fraction or series, to 1e-12.
fn erfc(x: f64) -> f64 {
    if x < 0.0 {
        return 2.0 - erfc(-x);
    }
    let scale = (-x * x).exp() / std::f64::consts::PI.sqrt();
    if x < 2.0 {
        // erf(x) = 2/√π · e^(−x²) · Σ 2^n x^(2n+1) / (2n+1)!!
        let mut term = x;
        let mut sum = x;
        for n in 1..200 {
            term *= 2.0 * x * x / f64::from(2 * n + 1);
            sum += term;
        }
        1.0 - 2.0 * scale * sum
    } else {
        // erfc(x) = e^(−x²)/√π · 1/(x + ½/(x + 1/(x + 3⁄2/(x + …)))), from the inside out.
        let tail = (1..=120)
            .rev()
            .fold(x, |inner, k| x + f64::from(k) / 2.0 / inner);
        scale / tail
    }
}

#[cfg(test)]
mod tests;
