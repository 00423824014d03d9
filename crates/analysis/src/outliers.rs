//! Outliers by interquartile range.

/// Whether each value lies within `factor` interquartile ranges of the quartiles.
///
/// Quartiles are linear between order statistics.
/// Fewer than four values have no quartiles worth the name, and none is an outlier.
pub(crate) fn within_iqr(values: &[f64], factor: f64) -> Vec<bool> {
    if values.len() < 4 {
        return vec![true; values.len()];
    }
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let (q1, q3) = (quantile(&sorted, 0.25), quantile(&sorted, 0.75));
    let reach = factor * (q3 - q1);
    values
        .iter()
        .map(|v| (q1 - reach..=q3 + reach).contains(v))
        .collect()
}

/// The quantile of ascending values, linear between order statistics.
pub(crate) fn quantile(sorted: &[f64], p: f64) -> f64 {
    let position = p * (sorted.len() - 1) as f64;
    let below = position.floor() as usize;
    let above = position.ceil() as usize;
    if sorted[below] == sorted[above] {
        return sorted[below];
    }
    sorted[below] + (position - below as f64) * (sorted[above] - sorted[below])
}

#[cfg(test)]
mod tests;
