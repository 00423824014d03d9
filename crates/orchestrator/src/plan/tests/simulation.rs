//! Random histories under a clock of their own: trainers that crash, hang and lose messages.
//!
//! The database is a model of the store's transitions, the rest of a run's life is the real `plan`.

use super::*;

/// One tick of the clock, and of a trainer: a step, a heartbeat.
const TICK: Duration = Duration::from_secs(1);
const N_STEPS: u32 = 30;
/// From this tick on nothing goes wrong any more.
const CALM_FROM: u32 = 400;
const LAST_TICK: u32 = 2_000;

/// A source of chance that a seed repeats (SplitMix64).
struct Chance(u64);

impl Chance {
    fn one_in(&mut self, n: u64) -> bool {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).is_multiple_of(n)
    }
}

#[derive(Clone, Copy)]
enum Trainer {
    Starting,
    Training {
        attempt: u32,
        step: u32,
    },
    /// Alive and silent.
    Hanging {
        attempt: Option<u32>,
    },
}

struct Simulation {
    chance: Chance,
    tick: u32,
    limits: Limits,
    runs: Vec<OpenRun>,
    /// By run: steps that are durable, and the furthest that an ended attempt came.
    durable: BTreeMap<i32, (u32, u32)>,
    processes: BTreeMap<i32, Process>,
    trainers: BTreeMap<i32, Trainer>,
    next_pid: u32,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let child = OpenRun {
            parent: parent(RunState::Queued, "", false),
            ..queued(3)
        };
        Self {
            chance: Chance(seed),
            tick: 0,
            limits: Limits {
                lease: Duration::from_secs(5),
                ..Limits::default()
            },
            runs: vec![queued(1), queued(2), child, queued(4)],
            durable: BTreeMap::new(),
            processes: BTreeMap::new(),
            trainers: BTreeMap::new(),
            next_pid: 1,
        }
    }

    fn now(&self) -> DateTime<Utc> {
        at(0) + TICK * self.tick
    }

    fn goes_wrong(&mut self, n: u64) -> bool {
        self.chance.one_in(n) && self.tick < CALM_FROM
    }

    fn run_mut(&mut self, run_id: i32) -> &mut OpenRun {
        self.runs.iter_mut().find(|r| r.run_id == run_id).unwrap()
    }

    fn is_current(&self, run_id: i32, attempt: u32) -> bool {
        let run = self.runs.iter().find(|r| r.run_id == run_id).unwrap();
        run.last_attempt
            .as_ref()
            .is_some_and(|a| a.open && a.attempt == attempt)
    }

    /// What trainers do by themselves in one tick.
    fn train(&mut self) {
        self.processes.values_mut().for_each(|p| p.age += TICK);
        for run_id in self.trainers.keys().copied().collect::<Vec<_>>() {
            if self.goes_wrong(60) {
                self.exit(run_id, "was ended by SIGSEGV");
                continue;
            }
            let trainer = self.trainers[&run_id];
            match trainer {
                Trainer::Starting if self.goes_wrong(20) => {
                    self.trainers
                        .insert(run_id, Trainer::Hanging { attempt: None });
                }
                // Slow to come up, now and then.
                Trainer::Starting if self.chance.one_in(2) => {}
                Trainer::Starting => self.begin(run_id),
                Trainer::Training { attempt, .. } if !self.is_current(run_id, attempt) => {
                    self.exit(run_id, "ended with exit code 3");
                }
                Trainer::Training { attempt, .. } if self.goes_wrong(60) => {
                    self.trainers.insert(
                        run_id,
                        Trainer::Hanging {
                            attempt: Some(attempt),
                        },
                    );
                }
                Trainer::Training { attempt, step } => self.step(run_id, attempt, step),
                Trainer::Hanging { .. } => {}
            }
        }
    }

    fn begin(&mut self, run_id: i32) {
        let (now, lease) = (self.now(), self.limits.lease);
        let pid = self.processes[&run_id].pid;
        let step = self.durable.get(&run_id).map_or(0, |d| d.0);
        let run = self.run_mut(run_id);
        let attempt = run.last_attempt.as_ref().map_or(1, |a| a.attempt + 1);
        run.state = RunState::Running;
        run.last_attempt = Some(LastAttempt {
            attempt,
            host: HOST.to_owned(),
            pid,
            open: true,
            offline: false,
            lease_until: now + lease,
            reason: String::new(),
            progressed: false,
        });
        self.trainers
            .insert(run_id, Trainer::Training { attempt, step });
    }

    fn step(&mut self, run_id: i32, attempt: u32, step: u32) {
        if step == N_STEPS {
            let run = self.run_mut(run_id);
            run.state = RunState::Delivering;
            run.undelivered_since_step = None;
            run.last_attempt.as_mut().unwrap().open = false;
            return self.exit(run_id, "ended with exit code 0");
        }
        self.trainers.insert(
            run_id,
            Trainer::Training {
                attempt,
                step: step + 1,
            },
        );
        let durable = self.durable.entry(run_id).or_default();
        durable.0 = durable.0.max(step + 1);
        let progressed = durable.0 > durable.1;
        let heard = !self.goes_wrong(4);
        let lease_until = self.now() + self.limits.lease;
        let last = self.run_mut(run_id).last_attempt.as_mut().unwrap();
        last.progressed = progressed;
        if heard {
            last.lease_until = lease_until;
        }
    }

    fn exit(&mut self, run_id: i32, how: &str) {
        self.trainers.remove(&run_id);
        self.processes.get_mut(&run_id).unwrap().exit = Some(how.to_owned());
    }

    /// What the scheduler does in one tick.
    fn schedule(&mut self) {
        let actions = {
            let open: Vec<OpenRun> = self
                .runs
                .iter()
                .filter(|r| !r.state.has_ended())
                .cloned()
                .collect();
            let observed = Observed {
                now: self.now(),
                leases_from: at(0),
                host: HOST,
                runs: &open,
                processes: &self.processes,
            };
            plan(&observed, SLOTS, &self.limits)
        };
        actions.into_iter().for_each(|action| self.apply(action));
        let first = self.runs[0].clone();
        let parent = self.run_mut(3).parent.as_mut().unwrap();
        parent.state = first.state;
        parent.reason = first.reason;
        parent.ready = first.state == RunState::Complete;
    }

    fn apply(&mut self, action: Action) {
        match action {
            Action::Start { run_id } => {
                let process = Process {
                    pid: self.next_pid,
                    age: Duration::ZERO,
                    exit: None,
                    stopping_for: None,
                };
                self.next_pid += 1;
                let before = self.processes.insert(run_id, process);
                assert_eq!(before, None, "run {run_id} has a process already");
                self.trainers.insert(run_id, Trainer::Starting);
            }
            Action::Stop { run_id } | Action::Kill { run_id } => {
                self.exit(run_id, "was ended by SIGKILL");
            }
            Action::Forget { run_id } => {
                let process = self.processes.remove(&run_id).unwrap();
                assert!(
                    process.exit.is_some(),
                    "a living process is never forgotten"
                );
            }
            Action::Lose {
                run_id,
                attempt,
                reason,
                next,
            } => self.lose(run_id, attempt, reason, &next),
            Action::Complete { run_id } => self.run_mut(run_id).state = RunState::Complete,
            Action::FinishCancelling { .. } => panic!("nobody cancelled"),
            Action::Explain { run_id, reason, .. } => self.run_mut(run_id).reason = reason,
        }
    }

    fn lose(&mut self, run_id: i32, attempt: Option<u32>, reason: String, next: &Next) {
        let now = self.now();
        let durable = self.durable.entry(run_id).or_default();
        durable.1 = durable.1.max(durable.0);
        let run = self.run_mut(run_id);
        if let Some(attempt) = attempt {
            let last = run.last_attempt.as_mut().unwrap();
            assert!(
                last.open && last.attempt == attempt,
                "only an open attempt is lost"
            );
            last.open = false;
        }
        run.reason = reason;
        match *next {
            Next::Fail => run.state = RunState::Failed,
            Next::Retry {
                barren_attempts,
                after,
            } => {
                assert!(barren_attempts < 3, "retries without progress are bounded");
                run.state = RunState::Queued;
                run.barren_attempts = barren_attempts;
                run.not_before = now + after;
            }
        }
    }

    fn check(&self) {
        let n_alive = self.processes.values().filter(|p| p.exit.is_none()).count();
        assert!(n_alive <= SLOTS, "{n_alive} trainers in {SLOTS} slots");
        for (run_id, trainer) in &self.trainers {
            // Whatever else lives, only one process of a run may hold its open attempt.
            if let Trainer::Training { attempt, .. }
            | Trainer::Hanging {
                attempt: Some(attempt),
            } = trainer
                && self.is_current(*run_id, *attempt)
            {
                let run = &self.runs[*run_id as usize - 1];
                let pid = run.last_attempt.as_ref().unwrap().pid;
                assert_eq!(self.processes[run_id].pid, pid);
            }
        }
    }
}

#[test]
fn every_run_ends_whatever_happens() {
    let mut n_failed = 0;
    for seed in 0..300 {
        let mut simulation = Simulation::new(seed);
        let has_settled =
            |run: &OpenRun| run.state.has_ended() || run.reason.contains("of pre/a, which failed");
        while simulation.tick < LAST_TICK && !simulation.runs.iter().all(has_settled) {
            simulation.train();
            simulation.schedule();
            simulation.check();
            simulation.tick += 1;
        }
        for run in &simulation.runs {
            assert!(has_settled(run), "seed {seed}: {run:?}");
            n_failed += u32::from(run.state == RunState::Failed);
        }
    }
    assert!(
        n_failed < 60,
        "{n_failed} of 1200 runs failed: retries hardly help"
    );
}
