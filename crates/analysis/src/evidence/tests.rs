use super::*;
use crate::run::Control;
use crate::synthetic::{self, noise};

/// Twenty facts in five groups, injected three times, and eight held out.
fn exposures() -> Vec<&'static [u32]> {
    const GROUPS: [&[u32]; 5] = [
        &[0, 20, 40],
        &[4, 24, 44],
        &[8, 28, 48],
        &[12, 32, 52],
        &[16, 36, 56],
    ];
    (0..20)
        .map(|f| GROUPS[f % 5])
        .chain([[].as_slice(); 8])
        .collect()
}

fn settings() -> Settings {
    Settings {
        window_steps: 20,
        late_from_steps: Some(75),
        ..Settings::default()
    }
}

/// First exposure 2 nats, later ones 1, of which swap probes get half; then the share `r(t)` of the
/// last value two steps after the last exposure is kept.
fn acquired(r: impl Fn(f64) -> f64) -> RunData {
    synthetic::run(&exposures(), 0..=210, |at| {
        let share = match at.control {
            Control::Own => 1.0,
            Control::Swap => 0.5,
        };
        let gained: f64 = std::iter::zip(0..3, [2.0, 1.0, 1.0])
            .filter(|(i, _)| at.since(*i).is_some_and(|s| s >= 2))
            .map(|(_, gain)| gain * share)
            .sum();
        let kept = match at.since(2) {
            Some(since @ 3..) => r((since - 2) as f64),
            _ => 1.0,
        };
        gained * kept - 12.0 + 0.1 * noise(&at, 7)
    })
}

#[test]
fn acquisition_and_forgetting_pass_their_tests() {
    let found = evidence(&acquired(|t| 1.0 - 0.3 * t.log10()), "arm", &settings());
    let found = found.expect("evidence");
    assert_eq!(found.facts.len(), 20);
    let all_signs_agree = 0.5_f64.powi(20);
    for test in [
        found.jump(),
        found.first_over_second(),
        found.own_over_swap(),
        found.decay(),
    ] {
        assert_eq!(
            (test.n, test.p_value, test.exact),
            (20, all_signs_agree, true)
        );
    }
    assert!(
        (0.3..0.5).contains(&found.retained_late),
        "{}",
        found.retained_late
    );
    assert_eq!(found.late_from_steps, 75);
    let fit = found.decay_fit(Depth::Mem).expect("a fit");
    assert!((0.25..0.35).contains(&fit.a) && fit.r2 > 0.9, "{fit:?}");
    let close = |v: Option<f64>, to: f64| v.is_some_and(|v| (v - to).abs() < 0.2);
    for f in &found.facts {
        assert!(
            close(Some(f.first_nats), 2.0) && close(f.second_nats, 1.0),
            "{f:?}"
        );
        assert!(close(f.first_swap_nats, 1.0), "{f:?}");
    }
}

#[test]
fn what_is_kept_is_not_called_forgotten() {
    let found = evidence(&acquired(|_| 1.0), "arm", &settings()).expect("evidence");
    assert!(found.retained_late > 0.9, "{}", found.retained_late);
    assert!(
        found
            .decay_fit(Depth::Gen)
            .is_some_and(|f| f.a.abs() < 0.05)
    );
}

#[test]
fn there_is_no_evidence_without_a_null() {
    let shown: Vec<_> = exposures().into_iter().filter(|e| !e.is_empty()).collect();
    let run = synthetic::run(&shown, 0..=210, |at| f64::from(at.step));
    assert_eq!(evidence(&run, "arm", &settings()), None);
    assert_eq!(
        evidence(&acquired(|_| 1.0), "another arm", &settings()),
        None
    );
}
