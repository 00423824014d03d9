use proptest::prelude::*;

use super::*;

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-9
}

fn every_step(t_max: u32, r: impl Fn(f64) -> f64) -> Vec<(f64, f64)> {
    (1..=t_max)
        .map(|t| (f64::from(t), r(f64::from(t))))
        .collect()
}

fn binned(t_max: u32, r: impl Fn(f64) -> f64) -> Vec<(f64, f64)> {
    log_binned(log_grid(t_max).into_iter().map(|t| (t, r(f64::from(t)))))
}

fn decay(points: &[(f64, f64)]) -> DecayFit {
    DecayFit::new("test".to_owned(), points, 1000).expect("a fit")
}

#[test]
fn a_decay_linear_in_log_t_is_recovered_by_either_weighting() {
    let r = |t: f64| 1.0 - 0.2 * t.log10();
    for points in [every_step(1500, r), binned(1500, r)] {
        let fit = decay(&points);
        assert!(
            close(fit.a, 0.2) && close(fit.intercept, 1.0) && close(fit.r2, 1.0),
            "{fit:?}"
        );
        assert!(fit.x_intercept_log10_steps.is_some_and(|x| close(x, 5.0)));
        assert!(fit.x_intercept_log10_tokens.is_some_and(|x| close(x, 8.0)));
        assert!(fit.r2_linear < 0.9);
        assert!(close(fit.at(100.0), 0.6));
    }
}

#[test]
fn a_decay_that_sets_in_late_is_underestimated_most_by_log_bins() {
    // R is flat before τ and falls by 0.2 a decade after it: what t_LAM as a maximum makes of a
    // decay that began at the injection.
    let r = |t: f64| 1.0 - 0.2 * (1.0 + t / 30.0).log10();
    let (unweighted, binned) = (decay(&every_step(1500, r)), decay(&binned(1500, r)));
    assert!(
        unweighted.a < 0.2 && binned.a < 0.75 * unweighted.a,
        "{unweighted:?} {binned:?}"
    );
    assert!((unweighted.a - 0.165).abs() < 5e-4 && (binned.a - 0.108).abs() < 5e-4);
    // And so the thresholds of the same curve lie decades apart.
    let threshold = |fit: DecayFit| fit.x_intercept_log10_steps.expect("it falls");
    assert!(threshold(binned) > threshold(unweighted) + 2.0);
}

#[test]
fn what_does_not_fall_has_no_threshold() {
    let rising = decay(&every_step(100, |t| 0.5 + 0.1 * t.log10()));
    assert!(rising.a < 0.0 && rising.x_intercept_log10_tokens.is_none());
    let flat = decay(&every_step(100, |_| 0.5));
    assert_eq!(
        (flat.a, flat.r2, flat.x_intercept_log10_steps),
        (0.0, 0.0, None)
    );
}

#[test]
fn a_line_needs_two_different_x() {
    assert_eq!(line_fit(&[]), None);
    assert_eq!(line_fit(&[(1.0, 2.0)]), None);
    assert_eq!(line_fit(&[(1.0, 2.0), (1.0, 3.0)]), None);
    assert_eq!(line_fit(&[(1.0, 2.0), (2.0, f64::NAN)]), None);
}

#[test]
fn the_grid_begins_with_every_step_and_thins() {
    let grid = log_grid(1000);
    assert_eq!(grid[..8], [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(grid.last(), Some(&1000));
    assert!(grid.is_sorted_by(|a, b| a < b));
    assert!(log_grid(0).is_empty());
}

proptest! {
    #[test]
    fn no_line_is_closer_than_the_fitted_one(
        points in prop::collection::vec((-9.0..9.0, -9.0..9.0), 3..20),
        slope in -3.0..3.0,
        intercept in -3.0..3.0,
    ) {
        let squares = |s: f64, i: f64| -> f64 {
            points.iter().map(|(x, y): &(f64, f64)| (y - s * x - i).powi(2)).sum()
        };
        let fit = line_fit(&points).expect("random points differ");
        let best = squares(fit.slope, fit.intercept);
        prop_assert!(best <= squares(slope, intercept) + 1e-9);
        let mean = points.iter().map(|p| p.1).sum::<f64>() / points.len() as f64;
        prop_assert!((fit.r2 - (1.0 - best / squares(0.0, mean))).abs() < 1e-6);
    }
}
