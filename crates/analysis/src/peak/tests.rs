use imprint_core::{FactId, Trajectory};
use proptest::prelude::*;

use super::*;

/// The windows of a fact injected at `steps`, as (step, window).
#[track_caller]
fn check_windows(steps: &[u32], n_updates: u32, window: u32, expected: &[(u32, u32)]) {
    let schedule = FactSchedule {
        fact: FactId(0),
        arm: Some("arm".to_owned()),
        exposure_steps: steps.to_vec(),
    };
    let windows: Vec<_> = exposures(&schedule, n_updates, window)
        .iter()
        .map(|e| (e.step, e.window_steps))
        .collect();
    assert_eq!(windows, expected);
}

#[test]
fn a_window_ends_with_the_next_injection_or_the_run() {
    check_windows(&[0, 100], 1000, 50, &[(0, 50), (100, 50)]);
    check_windows(&[0, 20, 40], 1000, 50, &[(0, 20), (20, 20), (40, 50)]);
    check_windows(&[0, 20], 30, 50, &[(0, 20), (20, 10)]);
    check_windows(&[30], 30, 50, &[(30, 0)]);
    check_windows(&[u32::MAX - 1], u32::MAX, 50, &[(u32::MAX - 1, 1)]);
    check_windows(&[], 30, 50, &[]);
}

/// The peak in (2, 6] of readings at steps 0, 1, …; `x` was not read, `?` is not a number.
#[track_caller]
fn check(readings: &str, expected: Option<(u32, f64)>) {
    let points = readings
        .split_whitespace()
        .enumerate()
        .filter_map(|(step, word)| {
            let nats = match word {
                "x" => return None,
                "?" => f64::NAN,
                number => number.parse().expect("a number"),
            };
            Some((step as u32, nats))
        });
    let exposure = Exposure {
        index: 0,
        step: 2,
        window_steps: 4,
    };
    let found = peak(&Trajectory::new(points), &exposure);
    assert_eq!(found.map(|p| (p.step, p.gain_nats)), expected);
}

#[test]
fn the_peak_is_the_first_largest_reading_of_the_window() {
    //     0  1  2  3  4  5  6  7
    check("-9 -9 -5 -4 -2 -3 -4 -1", Some((4, 3.0)));
    // The reading at the injection, and one past the window, do not count.
    check("-9 -9 -5 -7 -6 -8 -9 -1", Some((4, -1.0)));
    check("-9 -9 -5 -6 -6 -6 -5 -1", Some((6, 0.0)));
    // The first on ties.
    check("-9 -9 -5 -3 -2 -4 -2 -1", Some((4, 3.0)));
    // Gaps: what was read counts.
    check("-9 -9 -5 x -2 x -3 -1", Some((4, 3.0)));
    check("-9 -9 -5 ? ? -4", Some((5, 1.0)));
    // Nothing to compare.
    check("-9 -9 x -4 -2 -3 -4 -1", None);
    check("-9 -9 ? -4 -2 -3 -4 -1", None);
    check("-9 -9 -5 x x x x -1", None);
    check("", None);
}

proptest! {
    #[test]
    fn the_peak_is_never_below_a_reading_of_the_window(
        nats in prop::collection::vec(-9..0_i8, 1..40),
        step in 0..40_u32,
        window_steps in 0..20_u32,
    ) {
        let t = Trajectory::new((0..).zip(nats.iter().map(|&v| f64::from(v))));
        let exposure = Exposure { index: 0, step, window_steps };
        let window = || t.after(step, exposure.through());
        match peak(&t, &exposure) {
            Some(p) => {
                prop_assert!(step < p.step && p.step <= exposure.through());
                prop_assert_eq!(t.at(p.step), Some(p.nats));
                prop_assert!(window().all(|(s, v)| v < p.nats || (v == p.nats && s >= p.step)));
            }
            None => prop_assert!(t.at(step).is_none() || window().count() == 0),
        }
    }
}
