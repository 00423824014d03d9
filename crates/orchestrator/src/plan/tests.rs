use imprint_store::runs::Parent;

use super::*;

const HOST: &str = "here";
const SLOTS: usize = 2;

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_000_000 + seconds, 0).unwrap()
}

/// Everything that is seen, built up row by row.
struct Scene {
    leases_from: DateTime<Utc>,
    runs: Vec<OpenRun>,
    processes: BTreeMap<i32, Process>,
}

fn scene() -> Scene {
    Scene {
        leases_from: at(-100),
        runs: Vec::new(),
        processes: BTreeMap::new(),
    }
}

fn run(run_id: i32, state: RunState) -> OpenRun {
    OpenRun {
        run_id,
        label: format!("x/run{run_id}"),
        state,
        reason: String::new(),
        cancel_requested: false,
        barren_attempts: 0,
        not_before: at(-1),
        parent: None,
        last_attempt: None,
        undelivered_since_step: Some(0),
    }
}

fn queued(run_id: i32) -> OpenRun {
    run(run_id, RunState::Queued)
}

/// Running its first attempt, whose process has the run's number.
fn running(run_id: i32) -> OpenRun {
    OpenRun {
        last_attempt: Some(attempt(run_id)),
        ..run(run_id, RunState::Running)
    }
}

fn attempt(run_id: i32) -> LastAttempt {
    LastAttempt {
        attempt: 1,
        host: HOST.to_owned(),
        pid: run_id as u32,
        open: true,
        offline: false,
        lease_until: at(20),
        reason: String::new(),
        progressed: false,
    }
}

fn parent(state: RunState, reason: &str, ready: bool) -> Option<Parent> {
    Some(Parent {
        label: "pre/a".to_owned(),
        step: 500,
        state,
        reason: reason.to_owned(),
        ready,
    })
}

impl Scene {
    fn run(mut self, run: OpenRun) -> Self {
        self.runs.push(run);
        self
    }

    fn process(mut self, run_id: i32, exit: Option<&str>) -> Self {
        self.processes.insert(
            run_id,
            Process {
                pid: run_id as u32,
                age: Duration::from_secs(1),
                exit: exit.map(str::to_owned),
                stopping_for: None,
            },
        );
        self
    }

    fn aged(mut self, run_id: i32, seconds: u64) -> Self {
        self.processes.get_mut(&run_id).unwrap().age = Duration::from_secs(seconds);
        self
    }

    fn stopping_for(mut self, run_id: i32, seconds: u64) -> Self {
        let process = self.processes.get_mut(&run_id).unwrap();
        process.stopping_for = Some(Duration::from_secs(seconds));
        self
    }

    #[track_caller]
    fn check(&self, want: &[Action]) {
        let observed = Observed {
            now: at(0),
            leases_from: self.leases_from,
            host: HOST,
            runs: &self.runs,
            processes: &self.processes,
        };
        assert_eq!(plan(&observed, SLOTS, &Limits::default()), want);
    }

    /// For a scene of one run, number 1: why it waits.
    #[track_caller]
    fn check_waits(&self, reason: &str) {
        let state = self.runs[0].state;
        self.check(&[explain(1, state, reason)]);
    }
}

fn start(run_id: i32) -> Action {
    Action::Start { run_id }
}

fn explain(run_id: i32, state: RunState, reason: &str) -> Action {
    Action::Explain {
        run_id,
        state,
        reason: reason.to_owned(),
    }
}

fn lose(run_id: i32, attempt: Option<u32>, reason: &str, next: Next) -> Action {
    Action::Lose {
        run_id,
        attempt,
        reason: reason.to_owned(),
        next,
    }
}

fn retry(barren_attempts: u32, seconds: u64) -> Next {
    Next::Retry {
        barren_attempts,
        after: Duration::from_secs(seconds),
    }
}

#[test]
fn free_slots_are_filled_in_order() {
    scene().check(&[]);
    scene().run(queued(1)).check(&[start(1)]);
    let full = explain(3, RunState::Queued, "waits for a free slot (2 of 2 busy)");
    scene()
        .run(queued(1))
        .run(queued(2))
        .run(queued(3))
        .check(&[start(1), start(2), full.clone()]);
    scene()
        .run(running(1))
        .process(1, None)
        .run(queued(2))
        .run(queued(3))
        .process(9, None)
        .run(running(9))
        .check(&[
            explain(2, RunState::Queued, "waits for a free slot (2 of 2 busy)"),
            full,
        ]);
}

#[test]
fn a_reason_that_stands_there_is_not_written_again() {
    let told = OpenRun {
        reason: "waits for step 500 of pre/a".to_owned(),
        parent: parent(RunState::Running, "", false),
        ..queued(1)
    };
    scene().run(told).check(&[]);
}

#[test]
fn a_child_waits_for_its_parents_state() {
    let child = |parent| OpenRun {
        parent,
        ..queued(1)
    };
    for state in RunState::ALL {
        scene()
            .run(child(parent(state, "", true)))
            .check(&[start(1)]);
    }
    scene()
        .run(child(parent(RunState::Running, "", false)))
        .check_waits("waits for step 500 of pre/a");
    scene()
        .run(child(parent(RunState::Failed, "the disk is full", false)))
        .check_waits("waits for step 500 of pre/a, which failed: the disk is full");
    scene()
        .run(child(parent(RunState::Cancelled, "", false)))
        .check_waits("waits for step 500 of pre/a, which is cancelled");
    scene()
        .run(child(parent(RunState::Complete, "", false)))
        .check_waits("waits for step 500 of pre/a, which is complete and did not keep it");
}

#[test]
fn a_run_that_must_pause_says_how_long_and_why() {
    let pausing = OpenRun {
        not_before: at(3),
        last_attempt: Some(LastAttempt {
            open: false,
            reason: "the trainer was ended by SIGKILL".to_owned(),
            ..attempt(1)
        }),
        ..queued(1)
    };
    scene()
        .run(pausing)
        .check_waits("next attempt in 3 s: the trainer was ended by SIGKILL");
}

#[test]
fn a_started_process_is_not_started_again() {
    scene()
        .run(queued(1))
        .process(1, None)
        .check_waits("starting");
    let hanging = scene().run(queued(1)).process(1, None);
    hanging.aged(1, 120).check(&[Action::Kill { run_id: 1 }]);
    // It has ended its attempt, and its process is about to end.
    let stopped = OpenRun {
        last_attempt: Some(LastAttempt {
            open: false,
            ..attempt(1)
        }),
        ..queued(1)
    };
    scene()
        .run(stopped.clone())
        .process(1, None)
        .check(&[Action::Stop { run_id: 1 }]);
    scene()
        .run(stopped)
        .process(1, Some("ended with exit code 0"))
        .check(&[Action::Forget { run_id: 1 }]);
}

#[test]
fn a_process_that_never_began_an_attempt_counts_as_barren() {
    scene()
        .run(queued(1))
        .process(1, Some("ended with exit code 1: no such option"))
        .check(&[
            lose(
                1,
                None,
                "the trainer ended with exit code 1: no such option",
                retry(1, 1),
            ),
            Action::Forget { run_id: 1 },
        ]);
    let again = OpenRun {
        barren_attempts: 2,
        ..queued(1)
    };
    let reason =
        "3 attempts in a row got no further; in the last the trainer ended with exit code 1";
    scene()
        .run(again)
        .process(1, Some("ended with exit code 1"))
        .check(&[
            lose(1, None, reason, Next::Fail),
            Action::Forget { run_id: 1 },
        ]);
}

#[test]
fn a_process_gone_without_a_word_loses_its_attempt() {
    let gone = |progressed, barren_attempts| {
        scene()
            .run(OpenRun {
                barren_attempts,
                last_attempt: Some(LastAttempt {
                    progressed,
                    ..attempt(1)
                }),
                ..running(1)
            })
            .process(1, Some("was ended by SIGKILL"))
    };
    let lost = |next| {
        let lose = lose(1, Some(1), "the trainer was ended by SIGKILL", next);
        [lose, Action::Forget { run_id: 1 }]
    };
    gone(false, 0).check(&lost(retry(1, 1)));
    gone(false, 1).check(&lost(retry(2, 2)));
    gone(true, 2).check(&lost(retry(0, 0)));
    let reason = "3 attempts in a row got no further; in the last the trainer was ended by SIGKILL";
    gone(false, 2).check(&[
        lose(1, Some(1), reason, Next::Fail),
        Action::Forget { run_id: 1 },
    ]);
}

#[test]
fn silence_beyond_the_lease_loses_the_attempt() {
    let silent = |host: &str| OpenRun {
        last_attempt: Some(LastAttempt {
            lease_until: at(-1),
            host: host.to_owned(),
            ..attempt(1)
        }),
        ..running(1)
    };
    let reason = "the trainer sent no heartbeat before its lease ran out";
    let lost = lose(1, Some(1), reason, retry(1, 1));
    scene()
        .run(silent(HOST))
        .process(1, None)
        .check(&[Action::Kill { run_id: 1 }, lost.clone()]);
    scene().run(silent("elsewhere")).check(&[lost]);
    // Heartbeats had nowhere to go a moment ago.
    let mut after_an_outage = scene().run(silent(HOST)).process(1, None);
    after_an_outage.leases_from = at(5);
    after_an_outage.check(&[]);
}

#[test]
fn an_attempt_whose_time_offline_is_over_stands_until_another_begins() {
    let offline = |lease_until| OpenRun {
        last_attempt: Some(LastAttempt {
            host: "offline".to_owned(),
            pid: 0,
            offline: true,
            lease_until,
            ..attempt(1)
        }),
        ..running(1)
    };
    let overdue = || scene().run(offline(at(-1)));
    scene().run(offline(at(20))).check(&[]);
    overdue().check(&[start(1)]);
    scene()
        .process(8, None)
        .process(9, None)
        .run(running(8))
        .run(running(9))
        .run(offline(at(-1)))
        .check(&[explain(
            1,
            RunState::Running,
            "its time offline is over, import its spool; waits for a free slot (2 of 2 busy)",
        )]);
    overdue().process(1, None).check_waits("starting");
    overdue()
        .process(1, None)
        .aged(1, 120)
        .check(&[Action::Kill { run_id: 1 }]);
    overdue()
        .process(1, Some("ended with exit code 1"))
        .check(&[
            lose(
                1,
                Some(1),
                "the trainer ended with exit code 1",
                retry(1, 1),
            ),
            Action::Forget { run_id: 1 },
        ]);
    scene()
        .run(OpenRun {
            cancel_requested: true,
            ..offline(at(-1))
        })
        .check(&[lose(1, Some(1), "cancelled while offline", retry(1, 1))]);
}

#[test]
fn a_process_that_another_one_took_over_from_is_only_forgotten() {
    let taken_over = OpenRun {
        last_attempt: Some(LastAttempt {
            attempt: 2,
            pid: 77,
            ..attempt(1)
        }),
        ..running(1)
    };
    scene().run(taken_over.clone()).process(1, None).check(&[]);
    scene()
        .run(taken_over)
        .process(1, Some("ended with exit code 3"))
        .check(&[Action::Forget { run_id: 1 }]);
}

#[test]
fn cancelling_stops_what_runs_and_ends_what_does_not() {
    let cancelled = |run: OpenRun| OpenRun {
        cancel_requested: true,
        ..run
    };
    let finish = Action::FinishCancelling { run_id: 1 };
    let stop = Action::Stop { run_id: 1 };
    scene()
        .run(cancelled(queued(1)))
        .check(std::slice::from_ref(&finish));
    scene()
        .run(cancelled(queued(1)))
        .process(1, None)
        .check(std::slice::from_ref(&stop));
    scene()
        .run(cancelled(running(1)))
        .process(1, None)
        .check(&[stop]);
    let asked = scene().run(cancelled(running(1))).process(1, None);
    asked.stopping_for(1, 29).check(&[]);
    let asked = scene().run(cancelled(running(1))).process(1, None);
    asked
        .stopping_for(1, 30)
        .check(&[Action::Kill { run_id: 1 }]);
    scene()
        .run(cancelled(run(1, RunState::Delivering)))
        .check(&[finish]);
}

#[test]
fn a_run_is_complete_once_everything_is_durable() {
    scene()
        .run(OpenRun {
            undelivered_since_step: Some(90),
            not_before: at(60),
            ..run(1, RunState::Delivering)
        })
        .check_waits("undelivered since step 90; next attempt in 60 s");
    scene()
        .run(OpenRun {
            undelivered_since_step: Some(90),
            ..run(1, RunState::Delivering)
        })
        .check(&[Action::Start { run_id: 1 }]);
    scene()
        .run(OpenRun {
            undelivered_since_step: None,
            ..run(1, RunState::Delivering)
        })
        .check(&[Action::Complete { run_id: 1 }]);
}

#[test]
fn a_process_that_outlives_its_run_is_stopped() {
    scene()
        .process(1, None)
        .check(&[Action::Stop { run_id: 1 }]);
    scene()
        .process(1, None)
        .stopping_for(1, 30)
        .check(&[Action::Kill { run_id: 1 }]);
    scene()
        .process(1, Some("ended"))
        .check(&[Action::Forget { run_id: 1 }]);
}

mod simulation;
