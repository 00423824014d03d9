use imprint_core::{Depth, Trajectory};

use super::*;
use crate::synthetic;

#[test]
fn a_step_between_readings_is_interpolated_and_one_outside_is_unknown() {
    let t = Trajectory::new([(10, -4.0), (20, -2.0), (30, f64::NAN)]);
    for (step, expected) in [
        (10, Some(-4.0)),
        (15, Some(-3.0)),
        (20, Some(-2.0)),
        (25, None),
        (9, None),
        (31, None),
    ] {
        assert_eq!(interpolated(&t, step), expected, "step {step}");
    }
}

#[test]
fn a_mean_is_taken_only_where_every_series_was_read() {
    let a = Trajectory::new([(0, -4.0), (1, -3.0), (2, f64::NAN), (3, -1.0)]);
    let b = Trajectory::new([(0, -2.0), (2, -1.0), (3, -2.0)]);
    let mean = mean_trajectory(&[&a, &b]);
    assert_eq!(
        (mean.steps(), mean.nats()),
        (&[0, 3][..], &[-3.0, -1.5][..])
    );
    assert!(mean_trajectory(&[]).is_empty());
}

#[test]
fn fact_means_keep_one_series_per_fact_depth_and_control() {
    let run = synthetic::run(&[&[1], &[]], 0..5, |at| -f64::from(at.ordinal) - 1.0);
    let means = run.fact_means();
    // Own of both facts and swap of the shown one, at three depths.
    assert_eq!(means.probes.len(), 9);
    assert!(
        means
            .probes
            .iter()
            .all(|p| p.trajectory.nats() == [-1.5; 5])
    );
    assert_eq!(means.arms(), ["arm"]);
    assert_eq!(means.held_out(Depth::Gen).len(), 1);
}
