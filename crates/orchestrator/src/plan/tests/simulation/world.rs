//! The database, the trainers and the orchestrators of a history.

use super::super::*;
use super::Chance;
use super::engine::{Answer, Engine, State};

const TICK: Duration = Duration::from_secs(1);
const N_STEPS: u32 = 60;
/// From this tick on nothing goes wrong any more.
const CALM_FROM: u32 = 300;
const LAST_TICK: u32 = 3_000;

/// What may follow what: the rows of `imprint.run_transition`, but for imported runs.
const TRANSITIONS: [(RunState, &[RunState]); 5] = {
    use RunState::{Cancelled, Complete, Delivering, Failed, Queued, Running};
    [
        (Queued, &[Running, Failed, Cancelled]),
        (Running, &[Queued, Delivering, Failed, Cancelled]),
        (Delivering, &[Running, Complete, Cancelled, Queued, Failed]),
        (Failed, &[Queued]),
        (Cancelled, &[Queued]),
    ]
};

/// How often what happened in all histories.
#[derive(Debug, Default)]
pub(super) struct Tally {
    complete: u32,
    failed: u32,
    cancelled: u32,
    attempts: u32,
    jobs: u32,
    asked_again: u32,
    killed: u32,
    takeovers: u32,
    not_leading: u32,
    begun_refused: u32,
    doubles: u32,
    stale: u32,
    given_up: u32,
}

impl Tally {
    pub(super) fn add(&mut self, other: &Self) {
        self.complete += other.complete;
        self.failed += other.failed;
        self.cancelled += other.cancelled;
        self.attempts += other.attempts;
        self.jobs += other.jobs;
        self.asked_again += other.asked_again;
        self.killed += other.killed;
        self.takeovers += other.takeovers;
        self.not_leading += other.not_leading;
        self.begun_refused += other.begun_refused;
        self.doubles += other.doubles;
        self.stale += other.stale;
        self.given_up += other.given_up;
    }

    /// The histories are as bad as they are meant to be, and most runs come through.
    pub(super) fn check(&self) {
        let bad = [
            self.asked_again,
            self.killed,
            self.takeovers,
            self.not_leading,
            self.begun_refused,
            self.doubles,
            self.stale,
            self.given_up,
            self.cancelled,
        ];
        assert!(bad.iter().all(|&n| n > 0), "{self:?}");
        assert!(self.attempts > 2 * self.complete, "{self:?}");
        assert!(self.failed < self.complete / 4, "{self:?}");
    }
}

struct RunModel {
    open: OpenRun,
    jobs: Vec<JobModel>,
    attempts: Vec<AttemptModel>,
    /// Steps that are durable, and the furthest that an ended attempt came.
    durable: u32,
    furthest: u32,
    /// Every step by the attempt that measured it, as the fence let it in.
    lineage: Vec<u32>,
}

struct JobModel {
    job: Job,
    asked_at: DateTime<Utc>,
    alive_at: Option<DateTime<Utc>>,
    stop_asked_at: Option<DateTime<Utc>>,
    kill_asked_at: Option<DateTime<Utc>>,
    open: bool,
}

struct AttemptModel {
    seen: LastAttempt,
    pid: u32,
    ended_at: Option<DateTime<Utc>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Doing {
    Starting,
    Training { attempt: u32, step: u32 },
}

struct Trainer {
    engine: usize,
    entry: u32,
    run_id: i32,
    request_id: String,
    doing: Doing,
    /// Alive and silent before this tick; it may go on as if nothing had happened.
    hangs_until: u32,
}

/// An orchestrator: what it remembers is lost when it crashes.
#[derive(Default)]
struct Orchestrator {
    number: Option<i64>,
    listed: Vec<(i32, u32)>,
    view: BTreeMap<(i32, u32), (Sight, Option<String>)>,
    /// Decided and not done yet, under which number.
    held: Option<(i64, Vec<Action>)>,
    away_until: u32,
}

pub(super) struct World {
    chance: Chance,
    tells: bool,
    /// Whether most requests to start something go wrong.
    is_rough: bool,
    tick: u32,
    now: DateTime<Utc>,
    leases_from: DateTime<Utc>,
    limits: Limits,
    runs: Vec<RunModel>,
    engines: [Engine; 2],
    trainers: BTreeMap<u32, Trainer>,
    next_pid: u32,
    orchestrators: [Orchestrator; 2],
    leader: (i64, DateTime<Utc>),
    site: Rooms,
    next_request: u32,
    pub(super) tally: Tally,
}

impl World {
    pub(super) fn new(seed: u64, tells: bool) -> Self {
        let on_cluster = |run_id| OpenRun {
            executor: Some("cluster".to_owned()),
            experiment_id: 2,
            ..queued(run_id)
        };
        let child = OpenRun {
            parent: parent(RunState::Queued, "", false),
            ..on_cluster(3)
        };
        let urgent = OpenRun {
            priority: 1,
            ..on_cluster(6)
        };
        let runs = [
            queued(1),
            queued(2),
            child,
            queued(4),
            on_cluster(5),
            urgent,
        ];
        let model = |open| RunModel {
            open,
            jobs: Vec::new(),
            attempts: Vec::new(),
            durable: 0,
            furthest: 0,
            lineage: Vec::new(),
        };
        Self {
            chance: Chance(seed),
            tells,
            is_rough: seed.is_multiple_of(8),
            tick: 0,
            now: at(0),
            leases_from: at(0),
            limits: Limits {
                lease: Duration::from_secs(6),
                begin_within: Duration::from_secs(20),
                stop_grace: Duration::from_secs(5),
                ask_again_after: Duration::from_secs(8),
                lead: Duration::from_secs(3),
                ..Limits::default()
            },
            runs: runs.map(model).into(),
            engines: [Engine::new("local", false), Engine::new("cluster", true)],
            trainers: BTreeMap::new(),
            next_pid: 1,
            orchestrators: Default::default(),
            leader: (0, at(-1)),
            site: site(),
            next_request: 1,
            tally: Tally::default(),
        }
    }

    pub(super) fn play(&mut self) {
        while self.tick < LAST_TICK && !self.is_over() {
            self.pass_time();
            self.engines();
            self.train();
            self.people();
            for who in 0..2 {
                self.look(who);
                self.orchestrate(who);
            }
            self.check();
            self.tick += 1;
        }
        for at in 0..self.runs.len() {
            assert!(self.has_settled(at), "{:?}", self.runs[at].open);
            assert!(
                self.runs[at].jobs.iter().all(|job| !job.open),
                "a job outlives its run"
            );
            let run = &self.runs[at];
            match run.open.state {
                RunState::Complete => {
                    self.tally.complete += 1;
                    assert_eq!(run.durable, N_STEPS);
                    assert_eq!(run.lineage.len(), N_STEPS as usize);
                    assert!(
                        run.lineage.is_sorted(),
                        "an older attempt wrote after a newer"
                    );
                }
                RunState::Failed => self.tally.failed += 1,
                _ => self.tally.cancelled += 1,
            }
            self.tally.attempts += run.attempts.len() as u32;
            self.tally.jobs += run.jobs.len() as u32;
        }
        assert!(self.trainers.is_empty(), "a trainer outlives its run");
    }

    fn say(&self, what: impl FnOnce() -> String) {
        if self.tells {
            println!("{:5} {}", self.tick, what());
        }
    }

    fn goes_wrong(&mut self, n: u64) -> bool {
        self.tick < CALM_FROM && self.chance.one_in(n)
    }

    fn has_settled(&self, at: usize) -> bool {
        let run = &self.runs[at].open;
        // Its parent has ended without what it needs.
        let waits = run.reason.contains("of pre/a, which");
        run.state.has_ended() || run.state == RunState::Queued && waits
    }

    fn is_over(&self) -> bool {
        self.tick > CALM_FROM
            && self.trainers.is_empty()
            && (0..self.runs.len())
                .all(|at| self.has_settled(at) && self.runs[at].jobs.iter().all(|job| !job.open))
    }

    fn pass_time(&mut self) {
        self.now += TICK;
        if self.goes_wrong(150) {
            let jump = self.chance.below(60) as i64 - 30;
            self.now += chrono::TimeDelta::seconds(jump);
            self.say(|| format!("the clock jumps by {jump} s"));
        }
    }

    fn model(&mut self, run_id: i32) -> &mut RunModel {
        &mut self.runs[run_id as usize - 1]
    }

    fn set_state(&mut self, run_id: i32, state: RunState, reason: &str) {
        self.say(|| format!("run {run_id} is {state:?}: {reason}"));
        let run = &mut self.model(run_id).open;
        let (_, may) = TRANSITIONS
            .iter()
            .find(|(from, _)| *from == run.state)
            .unwrap_or_else(|| panic!("run {run_id} leaves {:?}", run.state));
        assert!(may.contains(&state), "{:?} to {state:?}", run.state);
        run.state = state;
        reason.clone_into(&mut run.reason);
    }

    /// People cancel and retry.
    fn people(&mut self) {
        if self.goes_wrong(150) {
            let at = self.chance.below(6) as usize;
            self.say(|| format!("run {} is cancelled", at + 1));
            self.runs[at].open.cancel_requested |= !self.runs[at].open.state.has_ended();
        }
        for run_id in 1..=6 {
            let run = &self.model(run_id).open;
            let again = matches!(run.state, RunState::Failed | RunState::Cancelled);
            if again && self.goes_wrong(40) {
                self.set_state(run_id, RunState::Queued, "");
                let now = self.now;
                let run = &mut self.model(run_id).open;
                run.cancel_requested = false;
                run.barren_attempts = 0;
                run.not_before = now;
            }
        }
    }

    /// What engines do by themselves.
    fn engines(&mut self) {
        for at in 0..2 {
            if self.engines[at].is_cluster && self.goes_wrong(60) {
                self.engines[at].silent_until = self.tick + 15;
                self.say(|| "the cluster falls silent".to_owned());
            }
            if self.engines[at].is_cluster && self.goes_wrong(80) {
                let everything = self.chance.one_in(4);
                self.say(|| format!("the cluster forgets everything: {everything}"));
                self.engines[at].forget(everything);
            }
            let started = self.engines[at].start(&mut self.chance, &mut self.next_pid);
            for entry in started {
                let State::Running { pid } = entry.state else {
                    unreachable!("it was started")
                };
                self.say(|| format!("run {}: process {pid} starts", entry.run_id));
                let same = |t: &&Trainer| t.run_id == entry.run_id;
                self.tally.doubles += u32::from(self.trainers.values().any(|t| same(&t)));
                let trainer = Trainer {
                    engine: at,
                    entry: entry.id,
                    run_id: entry.run_id,
                    request_id: entry.request_id,
                    doing: Doing::Starting,
                    hangs_until: 0,
                };
                self.trainers.insert(pid, trainer);
            }
        }
    }

    fn exit(&mut self, pid: u32, how: &str, requeue: bool) {
        let trainer = self.trainers.remove(&pid).expect("it lived");
        self.say(|| format!("run {}: process {pid} {how}", trainer.run_id));
        let engine = &mut self.engines[trainer.engine];
        let requeue = requeue && engine.is_cluster;
        engine.process_ended(trainer.entry, how, requeue);
    }

    /// What trainers do in one tick.
    fn train(&mut self) {
        for pid in self.trainers.keys().copied().collect::<Vec<_>>() {
            let trainer = &self.trainers[&pid];
            let (run_id, doing) = (trainer.run_id, trainer.doing);
            let is_cluster = self.engines[trainer.engine].is_cluster;
            let (engine, entry) = (trainer.engine, trainer.entry);
            let stop = self.engines[engine]
                .entry_mut(entry)
                .is_some_and(|e| e.stop);
            let hangs = self.tick < trainer.hangs_until
                // Nobody can end a process that its engine has lost: it comes back at last.
                && (self.tick < CALM_FROM || self.engines[engine].entry_mut(entry).is_some());
            if self.goes_wrong(80) {
                // A node dies; its job starts again, or is lost.
                let requeue = self.chance.one_in(2);
                self.exit(pid, "was ended by SIGKILL", requeue);
                continue;
            }
            let preempted = is_cluster && self.goes_wrong(80);
            if (stop || preempted) && !hangs {
                if let Doing::Training { attempt, .. } = doing {
                    self.end_attempt(run_id, attempt, RunState::Queued);
                }
                let requeue = preempted && !self.chance.one_in(4);
                self.exit(pid, "ended with exit code 85", requeue);
                continue;
            }
            match doing {
                _ if hangs => {}
                _ if self.goes_wrong(80) => {
                    // Some for ever, as far as anybody can wait.
                    let for_ever = self.chance.one_in(3);
                    let nap = self.chance.below(25) as u32;
                    let trainer = self.trainers.get_mut(&pid).expect("it lives");
                    trainer.hangs_until = match for_ever {
                        true => u32::MAX,
                        false => self.tick + nap,
                    };
                }
                // Slow to come up, now and then.
                Doing::Starting if self.chance.one_in(2) => {}
                Doing::Starting => self.begin(pid),
                Doing::Training { attempt, step } => self.step(pid, attempt, step),
            }
        }
    }

    fn begin(&mut self, pid: u32) {
        let (now, lease) = (self.now, self.limits.lease);
        let trainer = &self.trainers[&pid];
        let (run_id, request_id) = (trainer.run_id, trainer.request_id.clone());
        let run = self.model(run_id);
        let job = run
            .jobs
            .iter()
            .find(|j| j.open && j.job.request_id == request_id);
        let job = job.map(|j| j.job.job);
        if job.is_none() || run.open.state.has_ended() || run.open.cancel_requested {
            self.tally.begun_refused += 1;
            return self.exit(pid, "ended with exit code 1", false);
        }
        if let Some(open) = run.attempts.iter().find(|a| a.seen.open) {
            let open = open.seen.attempt;
            self.close(run_id, open, "superseded");
        }
        let run = self.model(run_id);
        let attempt = run.attempts.len() as u32 + 1;
        run.attempts.push(AttemptModel {
            seen: LastAttempt {
                attempt,
                job,
                open: true,
                offline: false,
                lease_until: now + lease,
                reason: String::new(),
                progressed: false,
            },
            pid,
            ended_at: None,
        });
        let step = run.durable;
        if run.open.state != RunState::Running {
            self.set_state(run_id, RunState::Running, "");
        }
        // The answer got lost, and it asks again.
        if self.goes_wrong(20) {
            return;
        }
        let trainer = self.trainers.get_mut(&pid).expect("it lives");
        trainer.doing = Doing::Training { attempt, step };
    }

    fn step(&mut self, pid: u32, attempt: u32, step: u32) {
        let run_id = self.trainers[&pid].run_id;
        let heard = !self.goes_wrong(4);
        let (now, lease) = (self.now, self.limits.lease);
        let newest = self.model(run_id).attempts.len() as u32;
        self.tally.stale += u32::from(newest != attempt);
        let run = self.model(run_id);
        let current = run.attempts.last_mut().expect("it began one");
        if !current.seen.open || current.seen.attempt != attempt {
            return self.exit(pid, "ended with exit code 3", false);
        }
        assert_eq!(current.pid, pid, "a number was given to two processes");
        if heard {
            current.seen.lease_until = now + lease;
        }
        if step == N_STEPS {
            self.end_attempt(run_id, attempt, RunState::Delivering);
            self.model(run_id).open.undelivered_since_step = None;
            return self.exit(pid, "ended with exit code 0", false);
        }
        run.durable = run.durable.max(step + 1);
        run.lineage.truncate(step as usize);
        run.lineage.push(attempt);
        current.seen.progressed = run.durable > run.furthest;
        let trainer = self.trainers.get_mut(&pid).expect("it lives");
        trainer.doing = Doing::Training {
            attempt,
            step: step + 1,
        };
    }

    fn end_attempt(&mut self, run_id: i32, attempt: u32, state: RunState) {
        if !self.close(run_id, attempt, "") {
            return;
        }
        let cancelled = self.model(run_id).open.cancel_requested;
        let state = match state {
            RunState::Queued if cancelled => RunState::Cancelled,
            state => state,
        };
        self.set_state(run_id, state, "");
        let now = self.now;
        self.model(run_id).open.not_before = now;
    }

    /// Whether it was open.
    fn close(&mut self, run_id: i32, attempt: u32, reason: &str) -> bool {
        let now = self.now;
        let run = self.model(run_id);
        let Some(last) = run.attempts.last_mut() else {
            return false;
        };
        if !last.seen.open || last.seen.attempt != attempt {
            return false;
        }
        last.seen.open = false;
        reason.clone_into(&mut last.seen.reason);
        last.ended_at = Some(now);
        if run.durable > run.furthest {
            run.open.barren_attempts = 0;
        }
        run.furthest = run.furthest.max(run.durable);
        true
    }

    /// What an orchestrator's executors say to it.
    fn look(&mut self, who: usize) {
        for at in 0..2 {
            let late = self.goes_wrong(3);
            let engine = &self.engines[at];
            let silent = self.tick < engine.silent_until;
            if late {
                continue;
            }
            for (run_id, number) in self.orchestrators[who].listed.clone() {
                let run = &self.runs[run_id as usize - 1];
                let job = &run.jobs[number as usize - 1].job;
                if job.executor != engine.name {
                    continue;
                }
                let seen = match engine.of_request(&job.request_id) {
                    _ if silent => {
                        let problem = Some("does not answer".to_owned());
                        (Sight::Unseen { problem }, None)
                    }
                    None => (Sight::Unknown { problem: None }, None),
                    Some(entry) => {
                        let sight = match &entry.state {
                            State::Queued => waiting("Priority"),
                            State::Running { .. } => Sight::Alive,
                            State::Ended { how } => ended(how),
                        };
                        (sight, Some(entry.id.to_string()))
                    }
                };
                let view = &mut self.orchestrators[who].view;
                let refused = view.get(&(run_id, number)).is_some_and(|(sight, id)| {
                    matches!(sight, Sight::Ended { .. }) && id.is_none()
                });
                if !refused {
                    view.insert((run_id, number), seen);
                }
            }
        }
    }

    fn open_runs(&self) -> (Vec<OpenRun>, BTreeMap<i32, Job>) {
        let runs = self.runs.iter().filter(|run| !run.open.state.has_ended());
        let open = |run: &RunModel| OpenRun {
            last_attempt: run.attempts.last().map(|a| a.seen.clone()),
            ..run.open.clone()
        };
        let since = |at: DateTime<Utc>| (self.now - at).to_std().unwrap_or_default();
        let jobs = self.runs.iter().flat_map(|run| {
            run.jobs.iter().filter(|j| j.open).map(move |j| {
                let own = |a: &&AttemptModel| a.seen.job == Some(j.job.job);
                let ended = run.attempts.iter().filter(own).filter_map(|a| a.ended_at);
                let idle_from = j.alive_at.map(|alive| ended.fold(alive, DateTime::max));
                let job = Job {
                    asked_for: since(j.asked_at),
                    alive_for: j.alive_at.map(since),
                    stopping_for: j.stop_asked_at.map(since),
                    killing_for: j.kill_asked_at.map(since),
                    began: run.attempts.iter().any(|a| own(&a)),
                    idle_for: idle_from.map_or(Duration::ZERO, since),
                    ..j.job.clone()
                };
                (job.run_id, job)
            })
        });
        (runs.map(open).collect(), jobs.collect())
    }

    fn leads(&self, number: i64) -> bool {
        self.leader.0 == number && self.leader.1 > self.now
    }

    /// One look of an orchestrator, and what it does.
    fn orchestrate(&mut self, who: usize) {
        if self.goes_wrong(40) {
            self.say(|| format!("orchestrator {who} crashes"));
            self.orchestrators[who] = Orchestrator {
                away_until: self.tick + self.chance.below(20) as u32,
                ..Orchestrator::default()
            };
        }
        // It slept over what it had decided.
        if let Some((number, actions)) = self.orchestrators[who].held.take() {
            self.say(|| format!("orchestrator {who} does what it decided before"));
            self.apply_all(who, number, actions);
        }
        if self.tick < self.orchestrators[who].away_until {
            return;
        }
        let Some(number) = self.take_lead(who) else {
            return;
        };
        self.settle_parents();
        let (runs, jobs) = self.open_runs();
        let view = &self.orchestrators[who].view;
        let sights: BTreeMap<i32, Sight> = (jobs.values())
            .filter_map(|job| Some((job.run_id, view.get(&(job.run_id, job.job))?.0.clone())))
            .collect();
        for job in jobs.values() {
            let seen = self.orchestrators[who].view.get(&(job.run_id, job.job));
            let seen = seen.cloned();
            if let Some((sight, Some(id))) = seen {
                let now = self.now;
                let model = &mut self.model(job.run_id).jobs[job.job as usize - 1];
                model.job.external_id = Some(id);
                match sight {
                    Sight::Alive => model.alive_at = model.alive_at.or(Some(now)),
                    Sight::Waiting { .. } => model.alive_at = None,
                    _ => {}
                }
            }
        }
        self.orchestrators[who].listed = jobs.values().map(|j| (j.run_id, j.job)).collect();
        let observed = Observed {
            now: self.now,
            leases_from: self.leases_from,
            runs: &runs,
            jobs: &jobs,
            sights: &sights,
            site: &self.site,
        };
        let actions = plan(&observed, &self.limits);
        if self.goes_wrong(20) {
            let nap = self.chance.below(12) as u32;
            self.orchestrators[who].away_until = self.tick + nap;
            self.orchestrators[who].held = Some((number, actions));
            return;
        }
        self.apply_all(who, number, actions);
    }

    fn take_lead(&mut self, who: usize) -> Option<i64> {
        let (number, until) = self.leader;
        let held = self.orchestrators[who].number == Some(number);
        if !held && until > self.now {
            return None;
        }
        if !held {
            self.leader.0 += 1;
            self.tally.takeovers += u32::from(number > 0);
            self.say(|| format!("orchestrator {who} leads"));
            // What it remembers from an earlier lead is worth nothing.
            self.orchestrators[who].view.clear();
            self.orchestrators[who].listed.clear();
        }
        if !held || until <= self.now {
            // It cannot know who was heard meanwhile.
            self.leases_from = self.now + self.limits.lease;
        }
        self.leader.1 = self.now + self.limits.lead;
        self.orchestrators[who].number = Some(self.leader.0);
        Some(self.leader.0)
    }

    fn settle_parents(&mut self) {
        let first = self.runs[0].open.clone();
        let parent = self.runs[2].open.parent.as_mut().expect("it has one");
        parent.state = first.state;
        parent.reason = first.reason;
        parent.ready = first.state == RunState::Complete;
    }

    fn apply_all(&mut self, who: usize, number: i64, actions: Vec<Action>) {
        for action in actions {
            if !self.leads(number) {
                self.tally.not_leading += 1;
                self.orchestrators[who].number = None;
                return;
            }
            self.say(|| format!("orchestrator {who}: {action:?}"));
            self.apply(who, action);
            if self.goes_wrong(200) {
                self.say(|| format!("orchestrator {who} crashes at work"));
                self.orchestrators[who] = Orchestrator::default();
                return;
            }
        }
    }

    /// The open job of a run, with the engine that it is for.
    fn open_job(&mut self, run_id: i32) -> Option<&mut JobModel> {
        self.model(run_id).jobs.iter_mut().find(|job| job.open)
    }

    fn apply(&mut self, who: usize, action: Action) {
        let now = self.now;
        match action {
            Action::Start {
                run_id,
                executor,
                slot,
            } => {
                let request_id = format!("request {}", self.next_request);
                self.next_request += 1;
                let run = self.model(run_id);
                if run.open.state.has_ended() || run.jobs.iter().any(|job| job.open) {
                    return;
                }
                run.jobs.push(JobModel {
                    job: Job {
                        job: run.jobs.len() as u32 + 1,
                        executor,
                        slot,
                        request_id,
                        external_id: None,
                        n_asked: 1,
                        ..job(run_id)
                    },
                    asked_at: now,
                    alive_at: None,
                    stop_asked_at: None,
                    kill_asked_at: None,
                    open: true,
                });
                self.submit(who, run_id);
            }
            Action::AskAgain { run_id } => {
                let Some(job) = self.open_job(run_id) else {
                    return;
                };
                job.asked_at = now;
                job.job.n_asked += 1;
                self.tally.asked_again += 1;
                self.submit(who, run_id);
            }
            Action::Stop { run_id } | Action::Kill { run_id } => {
                let kill = matches!(action, Action::Kill { .. });
                let Some(job) = self.open_job(run_id) else {
                    return;
                };
                job.stop_asked_at.get_or_insert(now);
                if kill {
                    job.kill_asked_at = Some(now);
                }
                let request_id = job.job.request_id.clone();
                self.tally.killed += u32::from(kill);
                self.signal(&request_id, kill);
            }
            Action::End { run_id, how } => {
                if let Some(job) = self.open_job(run_id) {
                    job.open = false;
                }
                self.say(|| format!("run {run_id}: its job {how}"));
            }
            Action::Lose {
                run_id,
                lost,
                reason,
                next,
            } => self.lose(run_id, &lost, &reason, &next),
            Action::FinishCancelling { run_id } => {
                let run = &self.model(run_id).open;
                let may = matches!(run.state, RunState::Queued | RunState::Delivering);
                if run.cancel_requested && may {
                    self.set_state(run_id, RunState::Cancelled, "cancelled");
                }
            }
            Action::Complete { run_id } => {
                let run = &self.model(run_id).open;
                if run.state == RunState::Delivering && run.undelivered_since_step.is_none() {
                    self.set_state(run_id, RunState::Complete, "");
                }
            }
            Action::Explain {
                run_id,
                state,
                reason,
            } => {
                let run = &mut self.model(run_id).open;
                if run.state == state {
                    run.reason = reason;
                }
            }
        }
    }

    fn submit(&mut self, who: usize, run_id: i32) {
        // It stops between its note and its word.
        if self.goes_wrong(30) {
            self.orchestrators[who] = Orchestrator::default();
            return;
        }
        let one_of = if self.is_rough { 5 } else { 40 };
        let wrong = (self.tick < CALM_FROM).then(|| self.chance.below(one_of));
        let job = self.open_job(run_id).expect("it was just noted");
        let (number, request_id) = (job.job.job, job.job.request_id.clone());
        let at = usize::from(job.job.executor == "cluster");
        let answer = match self.tick < self.engines[at].silent_until {
            true => Answer::Lost,
            false => self.engines[at].submit(run_id, &request_id, wrong),
        };
        let seen = match answer {
            Answer::Started(id) => (Sight::Unseen { problem: None }, Some(id.to_string())),
            Answer::Refused => (ended("could not be started"), None),
            Answer::Lost => (Sight::Unseen { problem: None }, None),
        };
        self.orchestrators[who].view.insert((run_id, number), seen);
    }

    /// What an engine does to everything of a request.
    fn signal(&mut self, request_id: &str, kill: bool) {
        for at in 0..2 {
            if self.tick < self.engines[at].silent_until {
                continue;
            }
            let of_request: Vec<u32> = (self.engines[at].entries.iter())
                .filter(|entry| entry.request_id == request_id)
                .map(|entry| entry.id)
                .collect();
            for id in of_request {
                let Some(entry) = self.engines[at].entry_mut(id) else {
                    continue;
                };
                entry.stop = true;
                match entry.state {
                    State::Queued => {
                        entry.state = State::Ended {
                            how: "was cancelled".to_owned(),
                        };
                    }
                    State::Running { pid } if kill => self.exit(pid, "was ended by SIGKILL", false),
                    State::Running { .. } | State::Ended { .. } => {}
                }
            }
        }
    }

    fn lose(&mut self, run_id: i32, lost: &Lost, reason: &str, next: &Next) {
        match lost {
            Lost::Attempt(attempt) => {
                if !self.close(run_id, *attempt, reason) {
                    return;
                }
            }
            Lost::Job { job, .. } => {
                let model = &mut self.model(run_id).jobs[*job as usize - 1];
                if !std::mem::take(&mut model.open) {
                    return;
                }
                if self
                    .model(run_id)
                    .attempts
                    .last()
                    .is_some_and(|a| a.seen.open)
                {
                    return;
                }
            }
        }
        let state = self.model(run_id).open.state;
        if state.has_ended() {
            return;
        }
        match *next {
            Next::Fail => {
                self.tally.given_up += 1;
                self.set_state(run_id, RunState::Failed, reason);
            }
            Next::Retry {
                barren_attempts,
                after,
            } => {
                assert!(barren_attempts < 3, "retries without progress are bounded");
                if state != RunState::Queued {
                    self.set_state(run_id, RunState::Queued, reason);
                }
                let now = self.now;
                let run = &mut self.model(run_id).open;
                reason.clone_into(&mut run.reason);
                run.barren_attempts = barren_attempts;
                run.not_before = now + after;
            }
        }
    }

    fn check(&self) {
        for run in &self.runs {
            let run_id = run.open.run_id;
            let n_jobs = run.jobs.iter().filter(|job| job.open).count();
            assert!(n_jobs <= 1, "run {run_id} has {n_jobs} open jobs");
            let open = run.attempts.iter().filter(|a| a.seen.open);
            assert_eq!(
                open.count(),
                usize::from(run.open.state == RunState::Running),
                "run {run_id} is {:?}",
                run.open.state
            );
            // Whatever else lives, one process of a run may hold its open attempt.
            let holds = |t: &&Trainer| {
                let last = run.attempts.last().map(|a| (a.seen.open, a.seen.attempt));
                t.run_id == run_id
                    && matches!(t.doing, Doing::Training { attempt, .. }
                                if last == Some((true, attempt)))
            };
            assert!(self.trainers.values().filter(holds).count() <= 1);
        }
        let on_machine = self.trainers.values().filter(|t| t.engine == 0);
        let n = on_machine.count();
        assert!(n <= SLOTS as usize, "{n} trainers in {SLOTS} slots");
    }
}
