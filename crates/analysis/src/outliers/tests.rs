use super::*;

#[test]
fn quantiles_are_linear_between_order_statistics() {
    let sorted = [1.0, 2.0, 3.0, 4.0];
    for (p, expected) in [(0.0, 1.0), (0.25, 1.75), (0.5, 2.5), (1.0, 4.0)] {
        assert_eq!(quantile(&sorted, p), expected, "p = {p}");
    }
    // Infinities at an end do not make the ones beside them NaN.
    let sorted = [1.0, f64::INFINITY, f64::INFINITY];
    assert_eq!(quantile(&sorted, 0.75), f64::INFINITY);
}

#[test]
fn the_presets_factors_disagree_where_they_should() {
    // Quartiles 2 and 4: 1.5 reaches to 7, 2.0 to 8.
    let values = [1.0, 2.0, 3.0, 4.0, 7.5];
    assert_eq!(within_iqr(&values, 1.5), [true, true, true, true, false]);
    assert_eq!(within_iqr(&values, 2.0), [true; 5]);
}

#[test]
fn few_values_have_no_outliers() {
    assert_eq!(within_iqr(&[0.0, 0.0, 99.0], 1.5), [true; 3]);
    assert!(within_iqr(&[], 1.5).is_empty());
}
