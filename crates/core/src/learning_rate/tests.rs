use super::LearningRate;

#[track_caller]
fn close(got: f64, want: f64, tolerance: f64) {
    assert!((got - want).abs() <= tolerance, "got {got}, want {want}");
}

/// Initial rates of the reference study's main runs, to the digits its tables give.
#[test]
fn reference_rates() {
    // 7B: max_steps = step + (2e12 − tokens_seen) / (2048·2048), OLMo-7B trained with 2160 rows.
    let max_steps = |step: u64| step + (2_000_000_000_000 - step * 2160 * 2048) / (2048 * 2048);
    assert_eq!(max_steps(40_000), 474_649);
    let seven = |step| LearningRate::Linear {
        peak: 3e-4,
        warmup_steps: 5000,
        max_steps: max_steps(step),
    };
    close(
        seven(40_000).at(40_000),
        0.000_279_878_590_181_177_86,
        1e-18,
    );
    close(
        seven(40_000).of_update(40_000, 0),
        0.000_279_878_015_283_754_47,
        1e-18,
    );
    for (step, want) in [(40_000, 2.80e-4), (113_000, 2.37e-4), (339_000, 1.01e-4)] {
        close(seven(step).at(step), want, 0.005e-4);
    }
    let one = LearningRate::Cosine {
        peak: 4e-4,
        warmup_steps: 2000,
        max_steps: 739_328,
    };
    for (step, want) in [(40_000, 3.98e-4), (117_850, 3.79e-4), (358_000, 2.30e-4)] {
        close(one.at(step), want, 0.005e-4);
    }
}

#[test]
fn warm_up_starts_at_a_tenth() {
    let rate = LearningRate::Constant {
        peak: 1.0,
        warmup_steps: 10,
        zero_from_step: None,
    };
    close(rate.at(0), 0.1, 1e-15);
    close(rate.at(5), 0.55, 1e-15);
    close(rate.at(10), 1.0, 1e-15);
    close(rate.at(1000), 1.0, 1e-15);
}

#[test]
fn the_frozen_control_counts_the_runs_own_steps() {
    let rate = LearningRate::Constant {
        peak: 1.0,
        warmup_steps: 0,
        zero_from_step: Some(3),
    };
    close(rate.of_update(500, 2), 1.0, 0.0);
    close(rate.of_update(500, 3), 0.0, 0.0);
}
