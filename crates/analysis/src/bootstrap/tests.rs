use super::*;

#[test]
fn draws_follow_from_the_seed_and_keep_their_number() {
    let draws = |seed| -> Vec<Vec<f64>> { resamples(7, 3, 50, seed).map(|d| d.shown).collect() };
    assert_eq!(draws(1), draws(1));
    assert_ne!(draws(1), draws(2));
    assert!(draws(1).iter().all(|d| d.iter().sum::<f64>() == 7.0));
    let drawn: Vec<f64> = (0..7)
        .map(|i| draws(1).iter().map(|d| d[i]).sum())
        .collect();
    assert!(
        drawn.iter().all(|&n| (20.0..80.0).contains(&n)),
        "{drawn:?}"
    );
    assert!(
        resamples(0, 0, 1, 0)
            .next()
            .is_some_and(|d| d.shown.is_empty())
    );
}

#[test]
fn an_interval_is_the_middle_95_percent_and_open_where_it_is_infinite() {
    let close = |end: Option<f64>, to: f64| end.is_some_and(|v| (v - to).abs() < 1e-9);
    let whole = interval((0..=1000).map(f64::from)).expect("values");
    assert!(
        close(whole.low, 25.0) && close(whole.high, 975.0),
        "{whole:?}"
    );
    let open = interval((0..=10).map(|v| if v > 8 { f64::INFINITY } else { f64::from(v) }));
    let open = open.expect("values");
    assert!(close(open.low, 0.25) && open.high.is_none(), "{open:?}");
    assert_eq!(interval([f64::NAN]), None);
}

#[test]
fn the_interval_of_a_mean_is_about_two_standard_errors_wide() {
    let values: Vec<f64> = (0..40).map(|i| f64::from(i % 10)).collect();
    let means = resamples(40, 0, 2000, 0).map(|d| {
        std::iter::zip(&values, &d.shown)
            .map(|(v, w)| v * w)
            .sum::<f64>()
            / 40.0
    });
    let found = interval(means).expect("values");
    let width = found.high.unwrap_or(f64::NAN) - found.low.unwrap_or(f64::NAN);
    // σ = √8.25, so 2·1.96·σ/√40 = 1.78.
    assert!((1.6..1.95).contains(&width), "{width}");
}
