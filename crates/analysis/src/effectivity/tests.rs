use imprint_core::Depth;

use super::*;
use crate::synthetic::{self, noise};

/// Three facts injected at 10 and 40 (the third at 20 and 50), two held out.
const FACTS: [&[u32]; 5] = [&[10, 40], &[10, 40], &[20, 50], &[], &[]];

/// ℓ jumps by 2 at each exposure of its own (1 for swap probes), three steps after it, and falls
/// back by half; everything drifts by 0.01 a step.
fn staircase() -> crate::RunData {
    synthetic::run(&FACTS, 0..=100, |at| {
        let jump = match at.control {
            Control::Own => 2.0,
            Control::Swap => 1.0,
        };
        let gained: f64 = (0..2)
            .filter_map(|i| at.since(i))
            .map(|since| match since {
                3 => jump,
                4.. => jump / 2.0,
                _ => 0.0,
            })
            .sum();
        -20.0 + gained + 0.01 * f64::from(at.step)
    })
}

fn settings() -> Settings {
    Settings {
        window_steps: 5,
        ..Settings::default()
    }
}

fn close(a: Option<f64>, b: f64) -> bool {
    a.is_some_and(|a| (a - b).abs() < 1e-9)
}

#[test]
fn a_known_jump_is_measured_with_its_controls() {
    let all = effectivities(&staircase(), "arm", Depth::Mem, &settings());
    assert_eq!(all.rows.len(), 3 * 2 * 2);
    assert_eq!(all.n_not_read, 0);
    for row in &all.rows {
        assert_eq!(row.t_lam, row.exposure.step + 3);
        assert!(close(Some(row.own_nats), 2.03));
        // The held-out facts' maximum is at the window's end: five steps of drift.
        assert!(close(row.null_nats, 0.05));
        assert!(close(row.swap_nats, 1.03));
        assert!(close(row.effect_nats(), 1.98));
        assert!(close(row.swap_effect_nats(), 0.98));
        assert!(close(row.binding_nats(), 1.0));
    }
    assert_eq!(all.first_exposures().rows.len(), 6);
    assert!(close(all.mean(Effectivity::effect_nats), 1.98));
}

#[test]
fn equal_facts_have_an_interval_without_width() {
    let all = effectivities(&staircase(), "arm", Depth::Mem, &settings());
    let found = all.effect_interval(&settings()).expect("there is a null");
    assert!(
        close(found.low, 1.98) && close(found.high, 1.98),
        "{found:?}"
    );
}

#[test]
fn the_interval_holds_the_mean_and_follows_from_the_seed() {
    let mut run = staircase();
    for probe in &mut run.probes {
        let (steps, nats) = (probe.trajectory.steps(), probe.trajectory.nats());
        let at = |step| crate::synthetic::At {
            fact: probe.fact.0,
            depth: probe.depth,
            ordinal: probe.ordinal,
            control: probe.control,
            step,
            exposures: &[],
        };
        let noisy = std::iter::zip(steps, nats).map(|(&s, v)| (s, v + 0.3 * noise(&at(s), 1)));
        probe.trajectory = imprint_core::Trajectory::new(noisy.collect::<Vec<_>>());
    }
    let all = effectivities(&run, "arm", Depth::Gen, &settings());
    let found = all.effect_interval(&settings()).expect("there is a null");
    let mean = all.mean(Effectivity::effect_nats).expect("rows");
    let (low, high) = (found.low.expect("finite"), found.high.expect("finite"));
    assert!(
        low < mean && mean < high && high - low < 1.0,
        "{low} {mean} {high}"
    );
    assert_eq!(all.effect_interval(&settings()), Some(found));
    let other = Settings {
        bootstrap_seed: 1,
        ..settings()
    };
    assert_ne!(all.effect_interval(&other), Some(found));
}

#[test]
fn without_held_out_facts_there_is_no_null() {
    let run = synthetic::run(&FACTS[..3], 0..=100, |at| f64::from(at.step));
    let all = effectivities(&run, "arm", Depth::Mem, &settings());
    assert!(close(all.mean(|r| Some(r.own_nats)), 5.0));
    assert_eq!(all.mean(Effectivity::effect_nats), None);
    assert_eq!(all.effect_interval(&settings()), None);
}

#[test]
fn exposures_that_were_not_read_are_counted() {
    let thinned = (0..=100).filter(|t| *t <= 30 || t % 10 == 5);
    let run = synthetic::run(&FACTS, thinned, |at| f64::from(at.step));
    let all = effectivities(&run, "arm", Depth::Mem, &settings());
    // The second exposures, of three facts with two probes each, lack the reading at t_i.
    assert_eq!((all.rows.len(), all.n_not_read), (6, 6));
}
