use expect_test::{Expect, expect};

use super::*;

#[track_caller]
fn says(run: &pb::Run, want: &Expect) {
    want.assert_eq(&line(run));
}

fn running() -> pb::Run {
    let mut run = pb::Run {
        run: "demo/late-once-b4-s0".to_owned(),
        n_updates: 250,
        step: 120,
        attempts: 1,
        steps_per_second: 41.27,
        ..pb::Run::default()
    };
    run.set_state(pb::RunState::Running);
    run
}

#[test]
fn a_line_says_what_a_run_does_and_why_it_does_not() {
    says(
        &running(),
        &expect!["demo/late-once-b4-s0  120/250  running, 41.3 steps/s"],
    );
    let mut waiting = running();
    waiting.set_state(pb::RunState::Queued);
    waiting.step = 0;
    waiting.attempts = 0;
    waiting.reason = "waits for step 250 of demo-pretrain/scratch-none-b32-s0".to_owned();
    says(
        &waiting,
        &expect![
            "demo/late-once-b4-s0  0/250  queued, waits for step 250 of demo-pretrain/scratch-none-b32-s0"
        ],
    );
    let mut cut_off = running();
    cut_off.attempts = 2;
    cut_off.steps_per_second = 2.0;
    cut_off.undelivered_since_step = Some(97);
    says(
        &cut_off,
        &expect![
            "demo/late-once-b4-s0  120/250  running, 2.0 steps/s, attempt 2, undelivered since step 97"
        ],
    );
    let mut failed = running();
    failed.set_state(pb::RunState::Failed);
    failed.reason = "the loss of update 120 is NaN".to_owned();
    says(
        &failed,
        &expect!["demo/late-once-b4-s0  120/250  failed, the loss of update 120 is NaN"],
    );
}

#[test]
fn off_a_terminal_a_run_is_told_when_something_changed() {
    let mut progress = Progress::Lines {
        told: BTreeMap::new(),
    };
    let of = |step| pb::Experiment {
        name: "demo".to_owned(),
        runs: vec![pb::Run { step, ..running() }],
    };
    let told = |progress: &Progress| match progress {
        Progress::Lines { told } => told[&0],
        Progress::Bars { .. } => unreachable!("lines were asked for"),
    };
    progress.show(&of(1));
    let first = told(&progress);
    progress.show(&of(60));
    assert_eq!(told(&progress), first, "less than a quarter of the updates");
    progress.show(&of(63));
    assert_ne!(told(&progress), first, "a quarter of the updates");
}
