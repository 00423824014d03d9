use expect_test::expect;

use super::*;

#[test]
fn the_table_says_why() {
    let run = |name: &str, state: pb::RunState| {
        let mut run = pb::Run {
            run: name.to_owned(),
            n_updates: 250,
            readings_expected: 161,
            ..pb::Run::default()
        };
        run.set_state(state);
        run
    };
    let waiting = pb::Run {
        reason: "all 2 slots are busy".to_owned(),
        ..run("demo/a", pb::RunState::Queued)
    };
    let running = pb::Run {
        step: 130,
        attempts: 1,
        steps_per_second: 4.0,
        seconds_left: Some(30),
        readings_stored: 98,
        undelivered_since_step: Some(98),
        ..run("demo/b", pb::RunState::Running)
    };
    expect![[r#"
        run     state       step  steps/s  left  readings  why
        ─────────────────────────────────────────────────────────────────────────────
        demo/a  queued     0/250        –     –     0/161  all 2 slots are busy
        demo/b  running  130/250      4.0  30 s    98/161  undelivered since step 98
    "#]]
    .assert_eq(&(as_table(&[waiting, running]) + "\n"));
}
