use imprint_store::runs::Parent;

use super::*;

const SLOTS: u32 = 2;

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_000_000 + seconds, 0).unwrap()
}

/// Everything that is seen, built up row by row.
struct Scene {
    leases_from: DateTime<Utc>,
    runs: Vec<OpenRun>,
    jobs: BTreeMap<i32, Job>,
    sights: BTreeMap<i32, Sight>,
    site: Rooms,
}

/// Two slots on this machine, and a cluster.
fn site() -> Rooms {
    let local = ("local".to_owned(), Room::Slots(SLOTS));
    let cluster = ("cluster".to_owned(), Room::Queue(3));
    Rooms {
        executors: BTreeMap::from([local, cluster]),
        default: Some("local".to_owned()),
        jobs_per_experiment: None,
    }
}

fn scene() -> Scene {
    Scene {
        leases_from: at(-100),
        runs: Vec::new(),
        jobs: BTreeMap::new(),
        sights: BTreeMap::new(),
        site: site(),
    }
}

fn run(run_id: i32, state: RunState) -> OpenRun {
    OpenRun {
        run_id,
        experiment_id: 1,
        label: format!("x/run{run_id}"),
        state,
        reason: String::new(),
        priority: 0,
        executor: None,
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

/// Running its first attempt, which its first job made.
fn running(run_id: i32) -> OpenRun {
    OpenRun {
        last_attempt: Some(attempt()),
        ..run(run_id, RunState::Running)
    }
}

fn attempt() -> LastAttempt {
    LastAttempt {
        attempt: 1,
        job: Some(1),
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

fn cancelled(run: OpenRun) -> OpenRun {
    OpenRun {
        cancel_requested: true,
        ..run
    }
}

/// A run's first job, which has not begun an attempt.
fn job(run_id: i32) -> Job {
    Job {
        run_id,
        job: 1,
        executor: "local".to_owned(),
        slot: Some(run_id as u32 - 1),
        request_id: format!("request {run_id}"),
        external_id: Some(format!("here:{run_id}")),
        asked_for: Duration::from_secs(1),
        n_asked: 1,
        alive_for: Some(Duration::from_secs(1)),
        stopping_for: None,
        killing_for: None,
        began: false,
        idle_for: Duration::from_secs(1),
    }
}

fn began(run_id: i32) -> Job {
    Job {
        began: true,
        ..job(run_id)
    }
}

fn ended(how: &str) -> Sight {
    Sight::Ended {
        how: how.to_owned(),
    }
}

fn waiting(reason: &str) -> Sight {
    Sight::Waiting {
        reason: reason.to_owned(),
    }
}

fn unknown_sight() -> Sight {
    Sight::Unknown { problem: None }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

impl Scene {
    fn run(mut self, run: OpenRun) -> Self {
        self.runs.push(run);
        self
    }

    fn job(mut self, job: Job, sight: Sight) -> Self {
        self.sights.insert(job.run_id, sight);
        self.jobs.insert(job.run_id, job);
        self
    }

    fn plan(&self) -> Vec<Action> {
        let observed = Observed {
            now: at(0),
            leases_from: self.leases_from,
            runs: &self.runs,
            jobs: &self.jobs,
            sights: &self.sights,
            site: &self.site,
        };
        plan(&observed, &Limits::default())
    }

    #[track_caller]
    fn check(&self, want: &[Action]) {
        assert_eq!(self.plan(), want);
    }

    /// For a scene of one run, number 1: why it waits.
    #[track_caller]
    fn check_waits(&self, reason: &str) {
        let state = self.runs[0].state;
        self.check(&[explain(1, state, reason)]);
    }

    /// The runs that start, in order.
    #[track_caller]
    fn check_starts(&self, want: &[i32]) {
        let plan = self.plan();
        let started = plan.iter().filter_map(|action| match action {
            Action::Start { run_id, .. } => Some(*run_id),
            _ => None,
        });
        assert_eq!(started.collect::<Vec<_>>(), want);
    }
}

fn start(run_id: i32, slot: u32) -> Action {
    Action::Start {
        run_id,
        executor: "local".to_owned(),
        slot: Some(slot),
    }
}

fn explain(run_id: i32, state: RunState, reason: &str) -> Action {
    Action::Explain {
        run_id,
        state,
        reason: reason.to_owned(),
    }
}

fn end(run_id: i32, how: &str) -> Action {
    Action::End {
        run_id,
        how: how.to_owned(),
    }
}

fn lose(run_id: i32, lost: Lost, reason: &str, next: Next) -> Action {
    Action::Lose {
        run_id,
        lost,
        reason: reason.to_owned(),
        next,
    }
}

fn lost_job(outcome: &str) -> Lost {
    Lost::Job {
        job: 1,
        outcome: outcome.to_owned(),
    }
}

fn retry(barren_attempts: u32, after: u64) -> Next {
    Next::Retry {
        barren_attempts,
        after: seconds(after),
    }
}

const STOP: Action = Action::Stop { run_id: 1 };
const KILL: Action = Action::Kill { run_id: 1 };

#[test]
fn free_slots_are_filled_in_order() {
    scene().check(&[]);
    scene().run(queued(1)).check(&[start(1, 0)]);
    const FULL: &str = "waits for a free slot (2 of 2 busy on local)";
    let full = |run_id| explain(run_id, RunState::Queued, FULL);
    scene()
        .run(queued(1))
        .run(queued(2))
        .run(queued(3))
        .check(&[start(1, 0), start(2, 1), full(3)]);
    scene()
        .run(running(1))
        .job(began(1), Sight::Alive)
        .run(queued(2))
        .run(queued(3))
        .check(&[start(2, 1), full(3)]);
    // A job whose run has ended has its slot for as long as its process lives.
    scene()
        .job(began(1), Sight::Alive)
        .job(began(2), Sight::Alive)
        .run(queued(3))
        .check(&[full(3)]);
}

#[test]
fn the_highest_priority_starts_first_and_experiments_take_turns() {
    let of = |run_id, experiment_id, priority| OpenRun {
        experiment_id,
        priority,
        ..queued(run_id)
    };
    let wide = |mut scene: Scene, slots| {
        scene
            .site
            .executors
            .insert("local".to_owned(), Room::Slots(slots));
        scene
    };
    let many = || {
        let mut scene = scene();
        for run_id in 1..=4 {
            scene = scene.run(of(run_id, 1, 0));
        }
        scene.run(of(5, 2, 0)).run(of(6, 2, 0)).run(of(7, 3, -1))
    };
    wide(many(), 4).check_starts(&[1, 5, 2, 6]);
    wide(many(), 7).check_starts(&[1, 5, 2, 6, 3, 4, 7]);
    wide(many().run(of(8, 1, 5)), 3).check_starts(&[8, 5, 1]);
    // What goes on counts.
    let busy = scene()
        .run(running(1))
        .job(began(1), Sight::Alive)
        .run(of(2, 1, 0))
        .run(of(3, 2, 0));
    busy.check_starts(&[3]);
    // One that waits for a full executor keeps nobody else waiting.
    let elsewhere = OpenRun {
        executor: Some("cluster".to_owned()),
        ..of(9, 1, 0)
    };
    many().run(elsewhere).check_starts(&[1, 5, 9]);
    scene()
        .run(of(1, 1, 0))
        .run(of(2, 1, 0))
        .run(of(3, 1, 0))
        .run(OpenRun {
            executor: Some("cluster".to_owned()),
            ..of(4, 1, 0)
        })
        .check_starts(&[1, 2, 4]);
}

#[test]
fn limits_hold_and_say_so() {
    let mut limited = scene().run(queued(1)).run(queued(2));
    limited.site.jobs_per_experiment = Some(1);
    limited.check(&[
        start(1, 0),
        explain(
            2,
            RunState::Queued,
            "waits for its experiment's turn (1 of 1 runs going on)",
        ),
    ]);
    let at = |executor: &str| OpenRun {
        executor: Some(executor.to_owned()),
        ..queued(1)
    };
    let on_cluster = |run_id| Job {
        executor: "cluster".to_owned(),
        slot: None,
        ..began(run_id)
    };
    scene()
        .job(on_cluster(7), Sight::Alive)
        .job(on_cluster(8), Sight::Alive)
        .run(at("cluster"))
        .check(&[Action::Start {
            run_id: 1,
            executor: "cluster".to_owned(),
            slot: None,
        }]);
    scene()
        .job(on_cluster(7), Sight::Alive)
        .job(on_cluster(8), Sight::Alive)
        .job(on_cluster(9), Sight::Alive)
        .run(at("cluster"))
        .check_waits("waits for room on cluster (3 of 3 jobs there)");
    scene()
        .run(at("moon"))
        .check_waits("the site file has no executor `moon` any more");
    let mut undecided = scene().run(queued(1));
    undecided.site.default = None;
    undecided.check_waits("names no executor, and the site file has no `default`: give it one");
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
            .check(&[start(1, 0)]);
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
            ..attempt()
        }),
        ..queued(1)
    };
    scene()
        .run(pausing)
        .check_waits("next attempt in 3 s: the trainer was ended by SIGKILL");
    // Where no attempt began, the reason of the run has the cause; the pause is not said twice.
    let reasons = [
        "the trainer could not be started",
        "next attempt in 4 s: the trainer could not be started",
    ];
    for reason in reasons {
        let pausing = OpenRun {
            not_before: at(3),
            barren_attempts: 1,
            reason: reason.to_owned(),
            ..queued(1)
        };
        scene()
            .run(pausing)
            .check_waits("next attempt in 3 s: the trainer could not be started");
    }
}

#[test]
fn a_job_is_not_started_again() {
    let of_sight = |sight| scene().run(queued(1)).job(job(1), sight);
    of_sight(Sight::Alive).check_waits("starting");
    of_sight(Sight::Unseen { problem: None }).check_waits("starting");
    of_sight(waiting("Slurm job 12 waits: Resources")).check_waits("Slurm job 12 waits: Resources");
    let problem = Some("Slurm does not answer".to_owned());
    of_sight(Sight::Unseen { problem }).check_waits("Slurm does not answer");
    // It has ended its attempt, and its process is about to end or waits for its next turn.
    let between = OpenRun {
        last_attempt: Some(LastAttempt {
            open: false,
            ..attempt()
        }),
        ..queued(1)
    };
    scene()
        .run(between.clone())
        .job(began(1), Sight::Alive)
        .check_waits("starting");
    scene()
        .run(between)
        .job(began(1), ended("ended with exit code 0"))
        .check(&[end(1, "ended with exit code 0")]);
}

#[test]
fn a_job_that_lives_without_an_attempt_for_too_long_is_killed() {
    let idle = |idle_for, killing_for| {
        let job = Job {
            idle_for: seconds(idle_for),
            killing_for,
            ..job(1)
        };
        scene().run(queued(1)).job(job, Sight::Alive)
    };
    idle(299, None).check_waits("starting");
    idle(300, None).check(&[KILL]);
    idle(310, Some(seconds(10))).check(&[]);
    idle(330, Some(seconds(30))).check(&[KILL]);
    // The orchestrator was away, and its trainer waits for it.
    let mut back = idle(3000, None);
    back.leases_from = at(1);
    back.check_waits("starting");
}

#[test]
fn a_job_that_nobody_knows_is_asked_for_again() {
    let unknown = |asked_for, external_id: Option<&str>, began| {
        let job = Job {
            asked_for: seconds(asked_for),
            external_id: external_id.map(str::to_owned),
            began,
            ..job(1)
        };
        scene().run(queued(1)).job(job, unknown_sight())
    };
    unknown(44, None, false).check_waits("starting");
    unknown(45, None, false).check(&[Action::AskAgain { run_id: 1 }]);
    let refused = |n_asked, asked_for| {
        let job = Job {
            asked_for: seconds(asked_for),
            n_asked,
            external_id: None,
            ..job(1)
        };
        let problem = Some("too many jobs of this user".to_owned());
        (scene().run(queued(1))).job(job, Sight::Unknown { problem })
    };
    refused(1, 44).check_waits("too many jobs of this user");
    refused(2, 89).check_waits("too many jobs of this user");
    refused(2, 90).check(&[Action::AskAgain { run_id: 1 }]);
    refused(30, 599).check_waits("too many jobs of this user");
    refused(30, 600).check(&[Action::AskAgain { run_id: 1 }]);
    // It was there.
    unknown(44, Some("12"), false).check(&[]);
    let gone = "is gone: local does not know 12 any more";
    unknown(45, Some("12"), false).check(&[lose(
        1,
        lost_job(gone),
        &format!("the trainer {gone}"),
        retry(1, 1),
    )]);
    unknown(45, Some("12"), true).check(&[end(1, gone)]);
    // Its attempt has a lease, which decides.
    let far = Job {
        asked_for: seconds(100),
        ..began(1)
    };
    (scene().run(running(1)).job(far, unknown_sight())).check(&[]);
}

#[test]
fn a_job_that_never_began_an_attempt_counts_as_barren() {
    let how = "ended with exit code 1: no such option";
    scene().run(queued(1)).job(job(1), ended(how)).check(&[lose(
        1,
        lost_job(how),
        "the trainer ended with exit code 1: no such option",
        retry(1, 1),
    )]);
    let again = OpenRun {
        barren_attempts: 2,
        ..queued(1)
    };
    let reason =
        "3 attempts in a row got no further; in the last the trainer ended with exit code 1";
    scene()
        .run(again)
        .job(job(1), ended("ended with exit code 1"))
        .check(&[lose(
            1,
            lost_job("ended with exit code 1"),
            reason,
            Next::Fail,
        )]);
}

#[test]
fn a_job_gone_without_a_word_loses_its_attempt() {
    let gone = |progressed, barren_attempts| {
        scene()
            .run(OpenRun {
                barren_attempts,
                last_attempt: Some(LastAttempt {
                    progressed,
                    ..attempt()
                }),
                ..running(1)
            })
            .job(began(1), ended("was ended by SIGKILL"))
    };
    let lost = |next| {
        [lose(
            1,
            Lost::Attempt(1),
            "the trainer was ended by SIGKILL",
            next,
        )]
    };
    gone(false, 0).check(&lost(retry(1, 1)));
    gone(false, 1).check(&lost(retry(2, 2)));
    gone(true, 2).check(&lost(retry(0, 0)));
    let reason = "3 attempts in a row got no further; in the last the trainer was ended by SIGKILL";
    gone(false, 2).check(&[lose(1, Lost::Attempt(1), reason, Next::Fail)]);
}

#[test]
fn silence_beyond_the_lease_loses_the_attempt() {
    let silent = || OpenRun {
        last_attempt: Some(LastAttempt {
            lease_until: at(-1),
            ..attempt()
        }),
        ..running(1)
    };
    let reason = "the trainer sent no heartbeat before its lease ran out";
    let lost = lose(1, Lost::Attempt(1), reason, retry(1, 1));
    let alive = || scene().run(silent()).job(began(1), Sight::Alive);
    alive().check(&[KILL, lost.clone()]);
    let problem = Some("Slurm does not answer".to_owned());
    for sight in [
        unknown_sight(),
        Sight::Unseen { problem },
        waiting("Resources"),
    ] {
        scene()
            .run(silent())
            .job(began(1), sight)
            .check(std::slice::from_ref(&lost));
    }
    scene().run(silent()).check(&[lost]);
    // Heartbeats had nowhere to go a moment ago.
    let mut after_an_outage = alive();
    after_an_outage.leases_from = at(5);
    after_an_outage.check(&[]);
}

#[test]
fn an_attempt_whose_time_offline_is_over_stands_until_another_begins() {
    let offline = |lease_until| OpenRun {
        last_attempt: Some(LastAttempt {
            job: None,
            offline: true,
            lease_until,
            ..attempt()
        }),
        ..running(1)
    };
    let overdue = || scene().run(offline(at(-1)));
    scene().run(offline(at(20))).check(&[]);
    // It was taken by force from a job, which has lost it.
    scene()
        .run(offline(at(20)))
        .job(began(1), waiting("Resources"))
        .check(&[STOP]);
    scene()
        .run(offline(at(20)))
        .job(began(1), Sight::Alive)
        .check(&[]);
    overdue().check(&[start(1, 0)]);
    let why = "its time offline is over, import its spool; ";
    let again = |reason: &str| {
        scene().run(OpenRun {
            barren_attempts: 1,
            not_before: at(3),
            reason: reason.to_owned(),
            ..offline(at(-1))
        })
    };
    let crashed = "the trainer ended with exit code 1";
    again(crashed).check_waits(&format!("{why}next attempt in 3 s: {crashed}"));
    again(&format!("{why}next attempt in 4 s: {crashed}"))
        .check_waits(&format!("{why}next attempt in 3 s: {crashed}"));
    let mut full = overdue();
    full.site
        .executors
        .insert("local".to_owned(), Room::Slots(0));
    full.check_waits(
        "its time offline is over, import its spool; waits for a free slot (0 of 0 busy on local)",
    );
    let started = |sight| overdue().job(job(1), sight);
    started(Sight::Alive).check_waits("its time offline is over, import its spool; starting");
    started(ended("ended with exit code 1")).check(&[lose(
        1,
        lost_job("ended with exit code 1"),
        "the trainer ended with exit code 1",
        retry(1, 1),
    )]);
    scene().run(cancelled(offline(at(-1)))).check(&[lose(
        1,
        Lost::Attempt(1),
        "cancelled while offline",
        retry(0, 0),
    )]);
}

#[test]
fn a_job_that_somebody_took_over_from_is_ended() {
    let taken_over = || {
        scene().run(OpenRun {
            last_attempt: Some(LastAttempt {
                attempt: 2,
                job: None,
                ..attempt()
            }),
            ..running(1)
        })
    };
    // It is refused at its next word.
    taken_over().job(began(1), Sight::Alive).check(&[]);
    taken_over()
        .job(began(1), waiting("BeginTime"))
        .check(&[STOP]);
    taken_over()
        .job(began(1), ended("ended with exit code 3"))
        .check(&[end(1, "ended with exit code 3")]);
}

#[test]
fn cancelling_stops_what_runs_and_ends_what_does_not() {
    let finish = Action::FinishCancelling { run_id: 1 };
    scene()
        .run(cancelled(queued(1)))
        .check(std::slice::from_ref(&finish));
    for sight in [Sight::Alive, waiting("Priority")] {
        scene()
            .run(cancelled(queued(1)))
            .job(job(1), sight)
            .check(&[STOP]);
    }
    scene()
        .run(cancelled(queued(1)))
        .job(job(1), ended("was cancelled"))
        .check(&[end(1, "was cancelled")]);
    let asked = |stopping_for, killing_for: Option<u64>| {
        let job = Job {
            stopping_for,
            killing_for: killing_for.map(seconds),
            ..began(1)
        };
        scene().run(cancelled(running(1))).job(job, Sight::Alive)
    };
    asked(None, None).check(&[STOP]);
    asked(Some(seconds(29)), None).check(&[]);
    asked(Some(seconds(30)), None).check(&[KILL]);
    asked(Some(seconds(40)), Some(10)).check(&[]);
    scene()
        .run(cancelled(run(1, RunState::Delivering)))
        .check(&[finish]);
    // Its last attempt is lost, but it does not fail any more.
    let third = OpenRun {
        barren_attempts: 2,
        ..cancelled(running(1))
    };
    let crashed = "the trainer ended with exit code 101";
    (scene()
        .run(third)
        .job(began(1), ended("ended with exit code 101")))
    .check(&[lose(1, Lost::Attempt(1), crashed, retry(2, 0))]);
}

#[test]
fn a_job_whose_executor_is_no_more_ends_when_nobody_wants_its_run() {
    let lost = Job {
        executor: "old".to_owned(),
        slot: None,
        ..job(1)
    };
    let unseen = Sight::Unseen { problem: None };
    let gone = "is on `old`, which the site file does not have any more";
    let with = |run| scene().run(run).job(lost.clone(), unseen.clone());
    with(queued(1)).check_waits(&format!(
        "its job {gone}: put it back, or cancel the run and retry it"
    ));
    with(cancelled(queued(1))).check(&[end(1, gone)]);
    // Its trainer goes on, and is told by its heartbeats.
    with(running(1)).check(&[]);
    scene()
        .job(lost.clone(), unseen.clone())
        .check(&[end(1, gone)]);
}

#[test]
fn a_run_is_complete_once_everything_is_durable() {
    let delivering = |undelivered_since_step, not_before| {
        scene().run(OpenRun {
            undelivered_since_step,
            not_before,
            ..run(1, RunState::Delivering)
        })
    };
    delivering(Some(90), at(60)).check_waits("undelivered since step 90; next attempt in 60 s");
    delivering(Some(90), at(-1)).check(&[start(1, 0)]);
    delivering(None, at(60)).check(&[Action::Complete { run_id: 1 }]);
    let with_job = |job, sight| delivering(Some(90), at(-1)).job(job, sight);
    with_job(began(1), ended("ended with exit code 0")).check(&[end(1, "ended with exit code 0")]);
    with_job(job(1), waiting("Priority")).check_waits("undelivered since step 90; Priority");
    with_job(job(1), ended("ended with exit code 1")).check(&[lose(
        1,
        lost_job("ended with exit code 1"),
        "the trainer ended with exit code 1",
        retry(1, 1),
    )]);
}

#[test]
fn a_job_that_outlives_its_run_is_stopped() {
    let left = |idle_for, stopping_for: Option<u64>, sight| {
        let job = Job {
            idle_for: seconds(idle_for),
            stopping_for: stopping_for.map(seconds),
            ..began(1)
        };
        scene().job(job, sight)
    };
    // It is about to end by itself.
    left(1, None, Sight::Alive).check(&[]);
    left(30, None, Sight::Alive).check(&[STOP]);
    left(50, Some(20), Sight::Alive).check(&[]);
    left(60, Some(30), Sight::Alive).check(&[KILL]);
    left(0, None, waiting("BeginTime")).check(&[STOP]);
    left(1, None, ended("ended with exit code 0")).check(&[end(1, "ended with exit code 0")]);
    left(1, None, unknown_sight()).check(&[]);
}

mod simulation;
