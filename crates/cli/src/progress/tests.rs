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
fn what_runs_says_how_long_it_takes() {
    let run = pb::Run {
        seconds_left: Some(3),
        ..running()
    };
    says(
        &run,
        &expect!["demo/late-once-b4-s0  120/250  running, 41.3 steps/s, 3 s left"],
    );
    assert_eq!(short_remark(&run), "41.3 steps/s, 3 s left");
    let mut ended = running();
    ended.set_state(pb::RunState::Cancelled);
    ended.reason = "cancelled".to_owned();
    assert_eq!(short_remark(&ended), "cancelled");
}

#[test]
fn all_together_are_told_in_the_order_of_interest() {
    let summary = pb::ExperimentSummary {
        runs_by_state: HashMap::from([
            ("complete".to_owned(), 4),
            ("queued".to_owned(), 12),
            ("running".to_owned(), 3),
            ("failed".to_owned(), 1),
            ("cancelled".to_owned(), 0),
        ]),
        seconds_left: Some(720),
        ..Default::default()
    };
    assert_eq!(
        of_all(&summary),
        "3 running, 1 failed, 12 queued, 4 complete; 12 m left"
    );
}

fn off_a_terminal() -> Progress {
    Progress {
        runs: BTreeMap::new(),
        shown: Shown::Lines {
            told: BTreeMap::new(),
            told_all: None,
        },
    }
}

#[test]
fn off_a_terminal_a_run_is_told_when_something_changed() {
    let mut progress = off_a_terminal();
    let of = |step| pb::Experiment {
        name: "demo".to_owned(),
        runs: vec![pb::Run { step, ..running() }],
        summary: None,
    };
    let told = |progress: &Progress| match &progress.shown {
        Shown::Lines { told, .. } => told[&0],
        Shown::Bars(_) => unreachable!("lines were asked for"),
    };
    progress.show(&of(1));
    let first = told(&progress);
    progress.show(&of(60));
    assert_eq!(told(&progress), first, "less than a quarter of the updates");
    progress.show(&of(63));
    assert_ne!(told(&progress), first, "a quarter of the updates");
}

#[test]
fn off_a_terminal_many_runs_are_told_of_together() {
    let mut progress = off_a_terminal();
    let mut show = |ids: std::ops::Range<i32>, step| {
        let runs = ids.map(|run_id| pb::Run {
            run_id,
            step,
            ..running()
        });
        progress.show(&pb::Experiment {
            name: "demo".to_owned(),
            runs: runs.collect(),
            summary: Some(pb::ExperimentSummary {
                runs_by_state: HashMap::from([("running".to_owned(), 2000)]),
                ..Default::default()
            }),
        });
        match &progress.shown {
            Shown::Lines { told, told_all } => {
                assert!(told.is_empty(), "no run by itself");
                *told_all
            }
            Shown::Bars(_) => unreachable!("lines were asked for"),
        }
    };
    assert_eq!(show(0..1000, 0), None, "half of the first picture");
    assert_eq!(show(1000..2000, 0), Some(0));
    assert_eq!(show(0..2, 250), Some(0));
    assert_eq!(show(0..20, 250), Some(1));
}

#[test]
fn bars_are_for_what_goes_on_where_there_are_more_runs_than_lines() {
    let mut bars = Bars::new(80, 10);
    let run = |run_id: i32, state| {
        let mut run = pb::Run {
            run_id,
            ..running()
        };
        run.set_state(state);
        (run_id, run)
    };
    let summary = pb::ExperimentSummary::default();
    let few: BTreeMap<i32, pb::Run> = (0..5).map(|i| run(i, pb::RunState::Queued)).collect();
    bars.show(&few, &summary, false);
    assert_eq!(bars.of_run.len(), 5);
    let mut many: BTreeMap<i32, pb::Run> =
        (0..1000).map(|i| run(i, pb::RunState::Queued)).collect();
    many.extend((3..6).map(|i| run(i, pb::RunState::Running)));
    bars.show(&many, &summary, true);
    assert_eq!(bars.of_run.keys().copied().collect::<Vec<_>>(), [3, 4, 5]);
    many.extend((0..1000).map(|i| run(i, pb::RunState::Running)));
    bars.show(&many, &summary, true);
    assert_eq!(bars.of_run.len(), 8, "and one for all, and the cursor's");
}
