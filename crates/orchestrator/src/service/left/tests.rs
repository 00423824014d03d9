use super::*;

/// A run of 100 updates.
fn run(state: RunState, step: u32, steps_per_second: f32, tokens_per_update: u64) -> RunView {
    RunView {
        run_id: 1,
        label: "mine/run".to_owned(),
        state,
        reason: String::new(),
        n_updates: 100,
        step,
        n_attempts: 1,
        steps_per_second,
        readings_expected: 101,
        readings_stored: 0,
        undelivered_since_step: None,
        priority: 0,
        tokens_per_update,
    }
}

#[test]
fn a_run_takes_what_is_left_at_its_speed() {
    for (state, step, speed, want) in [
        (RunState::Running, 0, 2.0, Some(50)),
        (RunState::Running, 99, 0.25, Some(4)),
        (RunState::Running, 100, 2.0, Some(0)),
        (RunState::Running, 10, 0.0, None),
        (RunState::Running, 10, f32::NAN, None),
        (RunState::Running, 10, f32::INFINITY, None),
        (RunState::Running, 10, f32::MIN_POSITIVE, Some(u64::MAX)),
        (RunState::Queued, 10, 2.0, None),
        (RunState::Complete, 100, 2.0, None),
    ] {
        assert_eq!(
            of_run(&run(state, step, speed, 8)),
            want,
            "{state:?} {step} {speed}"
        );
    }
}

#[test]
fn those_that_wait_take_their_turns() {
    use RunState::{Complete, Delivering, Failed, Queued, Running};
    let check = |runs: &[RunView], want| assert_eq!(of_all(runs), want, "{runs:?}");
    check(&[], None);
    check(&[run(Queued, 0, 0.0, 8)], None);
    check(&[run(Running, 50, 1.0, 8)], Some(50));
    // Two at a time, then two more.
    let two = [run(Running, 0, 1.0, 8), run(Running, 0, 1.0, 8)];
    let four = [
        two.clone(),
        [run(Queued, 0, 0.0, 8), run(Queued, 0, 0.0, 8)],
    ]
    .concat();
    check(&two, Some(100));
    check(&four, Some(200));
    // What has ended, or only delivers, takes no time.
    let ended = [
        run(Running, 0, 1.0, 8),
        run(Complete, 100, 0.0, 8),
        run(Failed, 3, 0.0, 8),
    ];
    check(
        &[ended.as_slice(), &[run(Delivering, 100, 0.0, 8)]].concat(),
        Some(100),
    );
    // A batch of four times the tokens takes four times as long.
    check(
        &[run(Running, 0, 1.0, 8), run(Queued, 0, 0.0, 32)],
        Some(500),
    );
    // A quick one does not make a slow one quicker.
    check(
        &[run(Running, 0, 1.0, 8), run(Running, 99, 100.0, 8)],
        Some(100),
    );
}
