use imprint_core::Depth;
use proptest::prelude::*;

use super::*;
use crate::settings::Preset;
use crate::synthetic::{self, At, noise};

/// Two facts injected at 0 and 20, one a little later, two held out.
const FACTS: [&[u32]; 5] = [&[0, 20], &[0, 20], &[4, 24], &[], &[]];
const GAIN: f64 = 3.0;

fn settings() -> Settings {
    Settings {
        window_steps: 10,
        n_bootstrap: 200,
        ..Settings::default()
    }
}

/// ℓ over −20 of a probe that gains `gain` two steps after its last exposure and then keeps the
/// share `r(t)` of it.
fn kept(at: &At, gain: f64, r: impl Fn(f64) -> f64) -> f64 {
    match at.since(1) {
        Some(2) => gain,
        Some(since @ 3..) => gain * r((since - 2) as f64),
        _ => 0.0,
    }
}

fn log_decay(t: f64) -> f64 {
    1.0 - 0.2 * t.log10()
}

fn retained(run: &RunData, settings: &Settings) -> Retainability {
    retainability(run, "arm", Depth::Mem, settings).expect("a curve")
}

#[track_caller]
fn check_exact(fit: &DecayFit) {
    assert!(
        (fit.a - 0.2).abs() < 1e-9 && (fit.intercept - 1.0).abs() < 1e-9 && fit.r2 > 1.0 - 1e-9,
        "{fit:?}"
    );
    let x = fit.x_intercept_log10_tokens.expect("it falls");
    assert!((x - 8.0).abs() < 1e-6, "{fit:?}");
}

#[test]
fn an_exact_log_decay_is_recovered_by_every_fit() {
    let run = synthetic::run(&FACTS, 0..=500, |at| kept(&at, GAIN, log_decay) - 20.0);
    let retained = retained(&run, &settings());
    // The fact that came last peaks at 26.
    assert_eq!(retained.t_max_steps, 474);
    assert_eq!(retained.late_from_steps(), 237);
    let fits = retained.fits();
    assert_eq!(fits.len(), 8);
    fits.iter().for_each(check_exact);
    let mut names: Vec<&str> = fits.iter().map(|f| f.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 8, "{names:?}");
    check_exact(&retained.published_fit().expect("a fit"));
    check_exact(&retained.robust_fit().expect("a fit"));
    let (a, threshold) = retained.robust_intervals();
    let close = |end: Option<f64>, to: f64| end.is_some_and(|v| (v - to).abs() < 1e-6);
    assert!(
        a.is_some_and(|i| close(i.low, 0.2) && close(i.high, 0.2)),
        "{a:?}"
    );
    assert!(threshold.is_some_and(|i| close(i.low, 8.0) && close(i.high, 8.0)));
}

#[test]
fn drift_is_in_the_raw_curve_and_out_of_the_null_subtracted_one() {
    let run = synthetic::run(&FACTS, 0..=500, |at| {
        kept(&at, GAIN, log_decay) - 20.0 - 0.002 * f64::from(at.step)
    });
    let retained = retained(&run, &settings());
    check_exact(&retained.robust_fit().expect("a fit"));
    let raw = retained
        .curve(Estimator::RatioOfMeans, false)
        .expect("a curve");
    let raw = retained.fit(&raw, Weighting::LogBinned).expect("a fit");
    assert!(raw.a > 0.25, "{raw:?}");
}

#[test]
fn a_thinned_tail_is_interpolated() {
    let steps = (0..=500).filter(|t| *t <= 80 || t % 10 == 0);
    let run = synthetic::run(&FACTS, steps, |at| kept(&at, GAIN, log_decay) - 20.0);
    let retained = retained(&run, &settings());
    let fit = retained.robust_fit().expect("a fit");
    assert!((fit.a - 0.2).abs() < 1e-3, "{fit:?}");
    let curve = retained.robust_curve().expect("a curve");
    assert_eq!(curve.points.len(), 474);
}

#[test]
fn steps_that_were_not_read_at_all_are_left_out() {
    let run = synthetic::run(&FACTS, 0..=100, |at| match (at.fact, at.step) {
        (0, 50) => f64::NAN,
        _ => kept(&at, GAIN, log_decay) - 20.0,
    });
    let retained = retained(&run, &settings());
    let curve = retained.robust_curve().expect("a curve");
    // Fact 0 peaks at 22, so t = 28 is missing, and only that.
    let missing: Vec<u32> = (1..=74)
        .filter(|t| curve.points.iter().all(|p| p.t_steps != *t))
        .collect();
    assert_eq!(missing, [28]);
    let ratios = retained
        .curve(Estimator::MeanOfRatios, false)
        .expect("a curve");
    assert_eq!(
        (ratios.points[27].n_probes, ratios.points[28].n_probes),
        (4, 6)
    );
}

#[test]
fn small_and_negative_gains_are_excluded_as_the_preset_says() {
    // Of six probes one loses, one gains next to nothing and one nothing at all.
    let gain = |at: &At| match (at.fact, at.ordinal) {
        (0, 0) => -1.0,
        (0, 1) => 0.05,
        (1, 0) => 0.0,
        _ => GAIN,
    };
    let run = synthetic::run(&FACTS, 0..=200, |at| kept(&at, gain(&at), log_decay) - 20.0);
    for (preset, n_small_gain) in [(Preset::Paper, 3), (Preset::Code, 2)] {
        let settings = Settings {
            window_steps: 10,
            ..Settings::of(preset)
        };
        let curve = retained(&run, &settings)
            .curve(Estimator::MeanOfRatios, false)
            .expect("a curve");
        assert_eq!(curve.exclusions.n_small_gain, n_small_gain, "{preset}");
    }
    // Without any gain there is nothing to keep.
    let none = synthetic::run(&FACTS, 0..=200, |_| -20.0);
    let none = retained(&none, &settings());
    assert!(none.robust_curve().is_none() && none.published_fit().is_none());
}

#[test]
fn an_outlier_is_told_apart_at_every_t() {
    let run = synthetic::run(&FACTS, 0..=200, |at| {
        let wild = (at.fact, at.ordinal) == (1, 1) && at.step > 100;
        kept(&at, GAIN, |t| if wild { 9.0 } else { log_decay(t) }) - 60.0
    });
    let retained = retained(&run, &settings());
    let curve = retained
        .curve(Estimator::MeanOfRatios, false)
        .expect("a curve");
    // Fact 1 peaks at 22: it is wild from t = 79 on.
    assert_eq!(
        (curve.points[77].n_outliers, curve.points[78].n_outliers),
        (0, 1)
    );
    assert!((curve.points[100].r - log_decay(101.0)).abs() < 1e-9);
    assert!((0.05..0.2).contains(&curve.outlier_share()));
}

#[test]
fn what_is_kept_late_is_the_mean_of_late_shares() {
    let run = synthetic::run(&FACTS, 0..=224, |at| {
        kept(&at, GAIN, |t| if t < 100.0 { 0.9 } else { 0.4 }) - 20.0
    });
    let retained = retained(&run, &settings());
    let late = retained.robust_curve().and_then(|c| c.mean_from(100));
    assert!(late.is_some_and(|v| (v - 0.4).abs() < 1e-9), "{late:?}");
}

#[test]
fn a_run_that_ends_at_its_peak_has_no_curve() {
    let run = synthetic::run(&FACTS, 0..=26, |at| kept(&at, GAIN, log_decay) - 20.0);
    assert!(retainability(&run, "arm", Depth::Mem, &settings()).is_none());
    assert!(retainability(&run, "none", Depth::Mem, &settings()).is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn scale_and_common_drift_do_not_change_the_null_subtracted_ratio_of_means(
        scale in 0.5..4.0_f64,
        drift in -0.01..0.01_f64,
        salt in any::<u64>(),
    ) {
        let settings = Settings { min_gain_nats: None, ..settings() };
        // Noise stays small enough that drift moves no peak.
        let nats = |at: &At| kept(at, GAIN, log_decay) + 0.05 * noise(at, salt);
        let plain = synthetic::run(&FACTS, 0..=120, |at| nats(&at));
        let moved = synthetic::run(&FACTS, 0..=120, |at| {
            scale * (nats(&at) + drift * f64::from(at.step))
        });
        let fit = |run: &RunData| retained(run, &settings).robust_fit().expect("a fit");
        let peaks = |run: &RunData| -> Vec<u32> {
            crate::effectivities(run, "arm", Depth::Mem, &settings)
                .rows
                .iter()
                .filter(|r| r.exposure.index == 1)
                .map(|r| r.t_lam)
                .collect()
        };
        prop_assume!(peaks(&plain) == peaks(&moved));
        let (plain, moved) = (fit(&plain), fit(&moved));
        prop_assert!((plain.a - moved.a).abs() < 1e-9);
        prop_assert!((plain.intercept - moved.intercept).abs() < 1e-9);
    }
}
