use super::*;

fn reading(step: u32, target_sum_nats: [f32; 2]) -> StepReadings {
    StepReadings {
        step,
        first_sum_nats: vec![-1.0, -0.0],
        target_sum_nats: target_sum_nats.to_vec(),
        full_sum_nats: vec![-3.0, -4.0],
        ..StepReadings::default()
    }
}

fn compared(pairs: &[(StepReadings, StepReadings)]) -> Comparison {
    let mut comparison = Comparison {
        equal: true,
        n_probes: 2,
        ..Comparison::default()
    };
    for (reading, other) in pairs {
        comparison.add(reading, other);
    }
    comparison
}

#[test]
fn equal_bits_are_equal() {
    let same = || (reading(0, [-1.5, -2.5]), reading(0, [-1.5, -2.5]));
    let comparison = compared(&[same(), same()]);
    assert!(comparison.equal && comparison.in_words().is_none());
    assert_eq!((comparison.n_readings, comparison.n_values), (2, 12));
}

#[test]
fn the_largest_difference_is_named() {
    let last_digit = f32::from_bits((-2.5_f32).to_bits() + 1);
    let comparison = compared(&[
        (reading(0, [-1.5, -2.5]), reading(0, [-1.5, -2.5])),
        (reading(1, [-1.5, -2.5]), reading(1, [-1.5, last_digit])),
        (reading(2, [-1.5, -2.5]), reading(2, [-1.0, -2.5])),
    ]);
    assert_eq!(
        comparison.in_words().unwrap(),
        "2 of 18 values, first at step 1; the largest difference is 5.000e-1 nats, of the span \
         target of probe 0 at step 2 (-1.5 and -1)"
    );
}
