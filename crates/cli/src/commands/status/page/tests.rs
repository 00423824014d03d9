use expect_test::{Expect, expect};

use super::*;

/// 15 June 2025, 15:06:40.
const THEN: i64 = 1_750_000_000_000;

fn running() -> pb::GetRunResponse {
    let mut run = pb::Run {
        run_id: 7,
        run: "mine/late-once-b32-s0".to_owned(),
        n_updates: 1000,
        step: 120,
        attempts: 2,
        steps_per_second: 41.27,
        seconds_left: Some(22),
        readings_expected: 1001,
        readings_stored: 119,
        priority: 5,
        ..Default::default()
    };
    run.set_state(pb::RunState::Running);
    let name = |run: &str, wanted| pb::RunName {
        run: run.to_owned(),
        wanted,
    };
    let mut parent = pb::ParentRun {
        run: "pre/scratch-none-b32-s0".to_owned(),
        step: 250,
        state: 0,
    };
    parent.set_state(pb::RunState::Complete);
    let attempt = |attempt, outcome: &str, reason: &str| pb::Attempt {
        attempt,
        job: Some(attempt),
        host: "node-7".to_owned(),
        pid: 4711,
        machine: "x86-64 avx512f, 8 threads, NVIDIA H100 80GB HBM3, driver 550.54".to_owned(),
        step: 120,
        began_unix_ms: THEN,
        heartbeat_age_ms: 1200,
        ended_unix_ms: (!outcome.is_empty()).then_some(THEN + 60_000),
        outcome: outcome.to_owned(),
        reason: reason.to_owned(),
        ..Default::default()
    };
    pb::GetRunResponse {
        run: Some(run),
        names: vec![
            name("mine/late-once-b32-s0", true),
            name("yours/late-once-b32-s0", false),
        ],
        cancel_requested: false,
        created_unix_ms: THEN,
        started_unix_ms: Some(THEN),
        finished_unix_ms: None,
        parent: Some(parent),
        job: Some(pb::Job {
            job: 2,
            executor: "cluster".to_owned(),
            external_id: "123456".to_owned(),
            asked_unix_ms: THEN,
            alive_unix_ms: Some(THEN + 120_000),
            ..Default::default()
        }),
        attempts: vec![
            attempt(2, "", ""),
            attempt(
                1,
                "lost",
                "the trainer ended with signal 9 (SIGKILL); its log ends in: loading",
            ),
        ],
        logs: vec![pb::Log {
            name: "job-2.log".to_owned(),
            n_bytes: 12_345,
            changed_unix_ms: THEN,
            job: Some(2),
        }],
    }
}

#[track_caller]
fn check(run: &pb::GetRunResponse, want: &Expect) {
    let text = as_text("mine/late-once-b32-s0", run, Some(80));
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
    want.assert_eq(&(text + "\n"));
}

#[test]
fn a_run_that_goes_on() {
    check(
        &running(),
        &expect![[r#"
        mine/late-once-b32-s0
        state     running since 2025-06-15 15:06 (UTC)
        step      120 of 1000 updates, 41.3 steps/s, 22 s left
        readings  119 of 1001 stored
        priority  5
        parent    step 250 of pre/scratch-none-b32-s0, complete
        job       2 of executor cluster, 123456, alive since 2025-06-15 15:08
        trainer   process 4711 on node-7, x86-64 avx512f, 8 threads, NVIDIA H100 80GB
                  HBM3, driver 550.54
        log       job-2.log (12,345 bytes); `imprint logs mine/late-once-b32-s0` shows
                  it
        also      yours/late-once-b32-s0 (cancelled)
    "#]],
    );
}

#[test]
fn a_run_that_waits() {
    let mut waiting = running();
    let run = waiting.run.as_mut().unwrap();
    run.set_state(pb::RunState::Queued);
    run.reason = "waits in Slurm\u{2019}s queue as job 123456: (QOSMaxJobsPerUserLimit)".to_owned();
    (run.seconds_left, run.priority) = (None, 0);
    waiting.cancel_requested = true;
    waiting.attempts.remove(0);
    (waiting.names, waiting.parent) = (Vec::new(), None);
    waiting.logs.clear();
    let job = waiting.job.as_mut().unwrap();
    job.alive_unix_ms = None;
    job.stop_asked_unix_ms = Some(THEN + 60_000);
    check(
        &waiting,
        &expect![[r#"
        mine/late-once-b32-s0
        state     queued, submitted 2025-06-15 15:06 (UTC), to be cancelled
        why       waits in Slurm’s queue as job 123456: (QOSMaxJobsPerUserLimit)
        step      120 of 1000 updates
        readings  119 of 1001 stored
        job       2 of executor cluster, 123456, asked for 2025-06-15 15:06, asked to
                  stop 2025-06-15 15:07
    "#]],
    );
}

#[test]
fn attempts_have_a_cause_each() {
    expect![[r#"
        attempt  began (UTC)          step  end   host    cause
        ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
              1  2025-06-15 15:06:40   120  lost  node-7  the trainer ended with signal 9 (SIGKILL); its log ends in: loading
              2  2025-06-15 15:06:40   120  open  node-7
    "#]]
    .assert_eq(&(attempts(&running().attempts) + "\n"));
}

#[test]
fn events_are_in_words() {
    let event = |event, kind: &str, attempt, job, detail: &str| pb::RunEvent {
        event,
        happened_unix_ms: THEN + i64::from(event) * 1000,
        kind: kind.to_owned(),
        attempt,
        job,
        detail: detail.to_owned(),
    };
    let events = [
        event(1, "queued", None, None, "mine/late-once-b32-s0"),
        event(2, "job_asked", None, Some(1), "local"),
        event(
            3,
            "attempt_began",
            Some(1),
            Some(1),
            "process 4711 on node-7",
        ),
    ];
    expect![[r#"
        when (UTC)           what               detail
        ───────────────────────────────────────────────────────────────
        2025-06-15 15:06:41  queued             mine/late-once-b32-s0
        2025-06-15 15:06:42  job asked (1)      local
        2025-06-15 15:06:43  attempt began (1)  process 4711 on node-7
    "#]]
    .assert_eq(&(as_table(&events) + "\n"));
    let page = as_json(&running(), &events);
    assert_eq!(page["state"], "running");
    assert_eq!(page["attempts"][1]["outcome"], "lost");
    assert_eq!(page["parent"]["step"], 250);
    assert_eq!(page["events"][2]["kind"], "attempt_began");
}
