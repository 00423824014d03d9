use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;

fn schedule(keys: &str) -> RateSchedule {
    from_toml(keys).unwrap().settle(0, None, 1).unwrap()
}

fn from_toml(keys: &str) -> Result<LearningRate, String> {
    #[derive(Deserialize)]
    struct File {
        rate: LearningRate,
    }
    toml::from_str::<File>(&format!("rate = {{ {keys} }}"))
        .map(|file| file.rate)
        .map_err(|e| e.message().to_owned())
}

#[track_caller]
fn close(got: f64, want: f64, tolerance: f64) {
    assert!((got - want).abs() <= tolerance, "got {got}, want {want}");
}

/// Rows of a batch with which OLMo-7B was pretrained, and their length.
const PRETRAINED_WITH: u64 = 2160 * 2048;

/// Initial rates of the reference study's main runs, to the digits its tables give.
#[test]
fn reference_rates() {
    let seven = from_toml(
        "kind = 'linear', peak = 3e-4, warmup_steps = 5000, max_tokens = 2_000_000_000_000",
    )
    .unwrap();
    let seven = |step: u64| {
        let tokens_seen = step * PRETRAINED_WITH;
        let settled = seven.settle(step, Some(tokens_seen), 2048 * 2048);
        settled.unwrap()
    };
    let early = seven(40_000);
    assert_eq!(40_000 * PRETRAINED_WITH, 176_947_200_000);
    assert_eq!(early.max_steps(), Some(474_649));
    close(early.at(40_000), 0.000_279_878_590_181_177_86, 1e-18);
    close(
        early.of_update(40_000, 0),
        0.000_279_878_015_283_754_47,
        1e-18,
    );
    let printed = |rate: f64| format!("{rate:.2e}");
    for (step, want) in [
        (40_000, "2.80e-4"),
        (113_000, "2.37e-4"),
        (339_000, "1.01e-4"),
    ] {
        assert_eq!(printed(seven(step).at(step)), want);
    }
    let one = schedule("kind = 'cosine', peak = 4e-4, warmup_steps = 2000, max_steps = 739328");
    for (step, want) in [
        (40_000, "3.98e-4"),
        (117_850, "3.79e-4"),
        (358_000, "2.30e-4"),
    ] {
        assert_eq!(printed(one.at(step)), want);
    }
}

#[test]
fn tokens_that_are_unknown_or_used_up_settle_nothing() {
    let rate = from_toml("kind = 'cosine', peak = 1, max_tokens = 1000").unwrap();
    assert!(rate.counts_tokens());
    let settled = |tokens_seen| rate.settle(7, tokens_seen, 64).map(|s| s.max_steps());
    assert_eq!(settled(None), Err(SettleError::UnknownTokens));
    assert_eq!(settled(Some(0)), Ok(Some(7 + 15)));
    assert_eq!(settled(Some(900)), Ok(Some(8)));
    let over = SettleError::NothingLeft {
        tokens_seen: 1000,
        max_tokens: 1000,
    };
    assert_eq!(settled(Some(1000)), Err(over));
    let far = rate.settle(u64::MAX, Some(0), 64).unwrap();
    assert_eq!(far.max_steps(), Some(u64::MAX));
}

#[test]
fn warm_up_starts_at_a_tenth_unless_told_otherwise() {
    let rate = schedule("kind = 'constant', peak = 1.0, warmup_steps = 10");
    close(rate.at(0), 0.1, 1e-15);
    close(rate.at(5), 0.55, 1e-15);
    close(rate.at(10), 1.0, 1e-15);
    close(rate.at(1000), 1.0, 1e-15);
    let from_nothing = "kind = 'constant', peak = 1.0, warmup_steps = 10, warmup_from = 0.0";
    close(schedule(from_nothing).at(0), 0.0, 0.0);
    close(schedule(from_nothing).at(5), 0.5, 1e-15);
}

#[test]
fn floors_are_shares_of_the_peak() {
    for (keys, want) in [
        ("kind = 'linear', peak = 2.0, max_steps = 10", 0.2),
        (
            "kind = 'linear', peak = 2.0, max_steps = 10, floor = 0.0",
            0.0,
        ),
        (
            "kind = 'cosine', peak = 2.0, max_steps = 10, floor = 0.5",
            1.0,
        ),
    ] {
        let rate = schedule(keys);
        close(rate.at(0), 2.0, 0.0);
        close(rate.at(10), want, 1e-15);
        close(rate.at(99), want, 1e-15);
    }
}

#[test]
fn stable_then_decaying() {
    for (decay, at_a_quarter) in [
        ("linear", 0.75),
        ("sqrt", 0.5),
        ("cosine", f64::midpoint(1.0, 0.5_f64.sqrt())),
    ] {
        let rate = schedule(&format!(
            "kind = 'wsd', peak = 1.0, warmup_steps = 10, max_steps = 100, decay_steps = 40, \
             decay = '{decay}', floor = 0.0"
        ));
        close(rate.at(5), 0.55, 1e-15);
        close(rate.at(10), 1.0, 0.0);
        close(rate.at(60), 1.0, 0.0);
        close(rate.at(70), at_a_quarter, 1e-15);
        close(rate.at(100), 0.0, 1e-15);
        close(rate.at(200), 0.0, 1e-15);
    }
}

#[test]
fn a_table_says_every_rate() {
    let points = "kind = 'table', points = [[10, 1.0], [20, 3.0], [40, 0.0]]";
    let lines = schedule(points);
    let steps = schedule(&format!("{points}, interpolation = 'step'"));
    for (at, on_lines, on_steps) in [
        (0, 1.0, 1.0),
        (10, 1.0, 1.0),
        (15, 2.0, 1.0),
        (20, 3.0, 3.0),
        (30, 1.5, 3.0),
        (40, 0.0, 0.0),
        (99, 0.0, 0.0),
    ] {
        close(lines.at(at), on_lines, 1e-15);
        close(steps.at(at), on_steps, 0.0);
    }
    let warmed = schedule(&format!("{points}, warmup_steps = 20, warmup_from = 0.0"));
    close(warmed.at(15), 0.75 * 2.0, 1e-15);
}

#[test]
fn the_frozen_control_counts_the_runs_own_steps() {
    for kind in [
        "kind = 'constant', peak = 1.0",
        "kind = 'wsd', peak = 1.0, max_steps = 1000, decay_steps = 10",
        "kind = 'table', points = [[0, 1.0]]",
    ] {
        let rate = schedule(&format!("{kind}, zero_from_step = 3"));
        close(rate.of_update(500, 2), 1.0, 0.0);
        close(rate.of_update(500, 3), 0.0, 0.0);
    }
}

#[track_caller]
#[expect(
    clippy::needless_pass_by_value,
    reason = "an expectation reads best where it stands"
)]
fn refuses(keys: &str, want: Expect) {
    want.assert_eq(&from_toml(keys).unwrap_err());
}

#[test]
fn keys_that_make_no_schedule_are_named() {
    refuses(
        "kind = 'linear', peak = 1.0",
        expect!["a schedule of kind `linear` needs either `max_steps` or `max_tokens`"],
    );
    refuses(
        "kind = 'cosine', max_steps = 10",
        expect!["a schedule of kind `cosine` needs `peak`"],
    );
    refuses(
        "kind = 'constant', peak = 1.0, max_tokens = 10",
        expect!["`max_steps` or `max_tokens` does not go with a schedule of kind `constant`"],
    );
    refuses(
        "kind = 'linear', peak = 1.0, warmup_steps = 10, max_steps = 10",
        expect!["`max_steps` 10 is not after the warm-up of 10 steps"],
    );
    refuses(
        "kind = 'wsd', peak = 1.0, warmup_steps = 5, max_steps = 10, decay_steps = 6",
        expect!["6 `decay_steps` after 5 `warmup_steps` do not fit into `max_steps` 10"],
    );
    refuses(
        "kind = 'table', points = [[5, 1.0], [5, 2.0]]",
        expect!["the global steps of `points` do not ascend"],
    );
    refuses(
        "kind = 'linear', peak = 1.0, max_steps = 10, floor = 2.0",
        expect!["`floor` 2 is no share of the peak, from 0 to 1"],
    );
    refuses(
        "kind = 'constant', peak = nan",
        expect!["`peak` NaN is no learning rate"],
    );
    refuses(
        "kind = 'constant', peek = 1.0",
        expect![
            "unknown field `peek`, expected one of `kind`, `peak`, `warmup_steps`, `warmup_from`, `floor`, `max_steps`, `max_tokens`, `decay_steps`, `decay`, `points`, `interpolation`, `zero_from_step`"
        ],
    );
}

fn shapes() -> impl Strategy<Value = Shape> {
    let peak = 1e-6..1e-1_f64;
    let end = prop_oneof![
        (2000..1_000_000_u64).prop_map(End::Steps),
        (1..1_u64 << 40).prop_map(End::Tokens)
    ];
    let floor = 0.0..=1.0_f64;
    prop_oneof![
        peak.clone().prop_map(|peak| Shape::Constant { peak }),
        (peak.clone(), floor.clone(), end.clone()).prop_map(|(peak, floor, end)| Shape::Linear {
            peak,
            floor,
            end
        }),
        (peak.clone(), floor.clone(), end.clone()).prop_map(|(peak, floor, end)| Shape::Cosine {
            peak,
            floor,
            end
        }),
        (peak, floor, end, 1..1000_u64).prop_map(|(peak, floor, end, decay_steps)| Shape::Wsd {
            peak,
            floor,
            end,
            decay_steps,
            decay: Decay::Sqrt,
        }),
        prop::collection::btree_map(any::<u32>(), 0.0..1.0_f64, 1..6).prop_map(|points| {
            Shape::Table {
                points: points.into_iter().map(|(s, r)| (s.into(), r)).collect(),
                interpolation: Interpolation::Linear,
            }
        }),
    ]
}

proptest! {
    /// A schedule is stored as JSON in the run's configuration, where it must be the same again.
    #[test]
    fn what_is_written_is_read(shape in shapes(), steps in 0..1000_u64, zero in any::<Option<u64>>()) {
        let rate = LearningRate {
            warmup: Warmup { steps, from: 0.1 },
            shape,
            zero_from_step: zero,
        };
        let json = serde_json::to_string(&rate).unwrap();
        prop_assert_eq!(&serde_json::from_str::<LearningRate>(&json).unwrap(), &rate);
    }

    /// Between the floor and the peak, and never rising once warm.
    #[test]
    fn rates_stay_between_floor_and_peak(shape in shapes(), steps in 0..1000_u64, at in 0..2_000_000_u64) {
        let (peak, floor) = match &shape {
            Shape::Constant { peak } => (*peak, 1.0),
            Shape::Linear { peak, floor, .. }
            | Shape::Cosine { peak, floor, .. }
            | Shape::Wsd { peak, floor, .. } => (*peak, *floor),
            Shape::Table { .. } => return Ok(()),
        };
        let rate = LearningRate {
            warmup: Warmup { steps, from: 0.1 },
            shape,
            zero_from_step: None,
        };
        let schedule = rate.settle(0, Some(0), 1024).unwrap();
        let now = schedule.at(at);
        let slack = 1e-12 * peak;
        prop_assert!(now <= peak + slack && now >= floor.min(0.1) * peak - slack, "{now}");
        if at >= steps {
            prop_assert!(now >= floor * peak - slack);
            prop_assert!(schedule.at(at + 1) <= now + slack);
        }
    }
}

/// What the file says in tokens is refused in tokens, before a run depends on it.
#[test]
fn an_end_in_tokens_is_held_to_the_rules_of_an_end_in_steps() {
    let rate: LearningRate = toml::from_str(
        "kind = 'linear'\npeak = 1e-3\nwarmup_steps = 2000\nmax_tokens = 10_000_000",
    )
    .unwrap();
    let error = rate.settle(0, Some(0), 128 * 2048).unwrap_err().to_string();
    assert!(
        error.contains("at 262144 tokens an update ends the schedule at global step 38"),
        "{error}"
    );
    assert!(error.contains("warm-up of 2000"), "{error}");
    rate.settle(0, Some(0), 2048).unwrap();
}
