use super::{median, quantile};

#[test]
fn quantiles_are_values_that_were_measured() {
    let mut values = [4.0, 1.0, 3.0, 2.0, 5.0];
    assert_eq!(quantile(&mut values, 0.0), 1.0);
    assert_eq!(quantile(&mut values, 0.5), 3.0);
    assert_eq!(quantile(&mut values, 1.0), 5.0);
    assert_eq!(median([2.0]), Some(2.0));
    assert_eq!(median([]), None);
}
