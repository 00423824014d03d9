//! Least squares, and the decay constant.

use serde::Serialize;

/// An ordinary least-squares line.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LineFit {
    pub slope: f64,
    pub intercept: f64,
    /// Share of the variance explained; 0 where y does not vary.
    pub r2: f64,
}

/// The least-squares line through points of equal weight; `None` without two different x.
pub fn line_fit(points: &[(f64, f64)]) -> Option<LineFit> {
    let n = points.len() as f64;
    let mean_x = points.iter().map(|p| p.0).sum::<f64>() / n;
    let mean_y = points.iter().map(|p| p.1).sum::<f64>() / n;
    let (mut sxx, mut sxy, mut syy) = (0.0, 0.0, 0.0);
    for &(x, y) in points {
        sxx += (x - mean_x) * (x - mean_x);
        sxy += (x - mean_x) * (y - mean_y);
        syy += (y - mean_y) * (y - mean_y);
    }
    if points.len() < 2 || sxx <= 0.0 || !(sxx + syy).is_finite() {
        return None;
    }
    let slope = sxy / sxx;
    Some(LineFit {
        slope,
        intercept: mean_y - slope * mean_x,
        r2: if syy > 0.0 { slope * sxy / syy } else { 0.0 },
    })
}

/// A line through retainability R against log10 t, always with the name of how it was made.
///
/// # Units
/// R is a share (1 at t_LAM); the reference's code multiplies it, and so a, by 100.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DecayFit {
    /// Estimator, control and weighting: intercepts of differently made fits differ by decades.
    pub name: String,
    /// The decay constant: −slope of R on log10 t, per decade of t.
    pub a: f64,
    /// R at t = 1.
    pub intercept: f64,
    pub r2: f64,
    /// R² of a line through the same points against t itself, for comparison.
    pub r2_linear: f64,
    /// Learnability threshold: log10 of the t at which the line meets R = 0; `None` where it does
    /// not fall.
    pub x_intercept_log10_steps: Option<f64>,
    /// The same in tokens: one step is batch size × sequence length.
    pub x_intercept_log10_tokens: Option<f64>,
    pub n_points: usize,
}

impl DecayFit {
    /// The fit through (t in steps, R) points; `None` without two different t.
    ///
    /// # Source
    /// arXiv 2406.11813 §4.3: ΔR ≈ −a·log(t2/t1), read as base 10 as in the released code.
    pub fn new(name: String, points: &[(f64, f64)], tokens_per_step: u64) -> Option<Self> {
        let on_log: Vec<(f64, f64)> = points.iter().map(|&(t, r)| (t.log10(), r)).collect();
        let log = line_fit(&on_log)?;
        let linear = line_fit(points)?;
        let a = -log.slope;
        let steps = (a > 0.0).then(|| log.intercept / a);
        Some(Self {
            name,
            a,
            intercept: log.intercept,
            r2: log.r2,
            r2_linear: linear.r2,
            x_intercept_log10_steps: steps,
            x_intercept_log10_tokens: steps.map(|s| s + (tokens_per_step as f64).log10()),
            n_points: points.len(),
        })
    }

    /// R that the line gives at t.
    pub fn at(&self, t_steps: f64) -> f64 {
        self.intercept - self.a * t_steps.log10()
    }
}

/// Bins of a log-binned fit in each decade of t.
const BINS_PER_DECADE: f64 = 6.0;
/// Grid points in each decade of t before binning.
const GRID_PER_DECADE: f64 = 20.0;

/// Whole steps from 1 to `t_max`, about evenly spaced in log t.
pub(crate) fn log_grid(t_max: u32) -> Vec<u32> {
    let mut grid: Vec<u32> = (0..)
        .map(|k| 10_f64.powf(f64::from(k) / GRID_PER_DECADE).round() as u32)
        .take_while(|&t| t <= t_max)
        .collect();
    grid.dedup();
    grid
}

/// Means of log10 t and of R in each bin of log t, as (t, R): late steps do not outweigh early ones.
pub(crate) fn log_binned(points: impl IntoIterator<Item = (u32, f64)>) -> Vec<(f64, f64)> {
    let bin_of = |t: u32| (f64::from(t).log10() * BINS_PER_DECADE).floor() as i64;
    let mut bins: Vec<(i64, f64, f64, f64)> = Vec::new();
    for (t, r) in points {
        let log_t = f64::from(t).log10();
        match bins.last_mut() {
            Some(last) if last.0 == bin_of(t) => {
                last.1 += log_t;
                last.2 += r;
                last.3 += 1.0;
            }
            _ => bins.push((bin_of(t), log_t, r, 1.0)),
        }
    }
    bins.into_iter()
        .map(|(_, log_t, r, n)| (10_f64.powf(log_t / n), r / n))
        .collect()
}

#[cfg(test)]
mod tests;
