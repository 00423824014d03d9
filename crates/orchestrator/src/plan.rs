//! What to do next, decided from what is seen: no clock, no database, no process in here.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use imprint_store::runs::{LastAttempt, Next, OpenRun, RunState};

use crate::Limits;

/// Everything that a decision rests on.
pub(crate) struct Observed<'a> {
    /// By the database's clock, like every other moment in here.
    pub(crate) now: DateTime<Utc>,
    /// Leases are judged from then on: before, heartbeats may have had nowhere to go.
    pub(crate) leases_from: DateTime<Utc>,
    /// The machine on which `processes` are.
    pub(crate) host: &'a str,
    /// Runs that have not ended, in the order in which they were asked for.
    pub(crate) runs: &'a [OpenRun],
    /// Trainer processes of this machine by run.
    pub(crate) processes: &'a BTreeMap<i32, Process>,
}

/// A trainer process.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// How long ago it was started, or found.
    pub(crate) age: Duration,
    /// How it ended, in words that follow "the trainer"; `None` while it lives.
    pub(crate) exit: Option<String>,
    /// How long ago it was first asked to stop.
    pub(crate) stopping_for: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// Start a trainer process.
    Start {
        run_id: i32,
    },
    /// Ask the trainer process to save and end.
    Stop {
        run_id: i32,
    },
    /// End the trainer process at once.
    Kill {
        run_id: i32,
    },
    /// Stop looking at a process that has ended.
    Forget {
        run_id: i32,
    },
    /// Write off an attempt, or a process that never began one.
    Lose {
        run_id: i32,
        attempt: Option<u32>,
        reason: String,
        next: Next,
    },
    FinishCancelling {
        run_id: i32,
    },
    Complete {
        run_id: i32,
    },
    /// Say why a run waits.
    Explain {
        run_id: i32,
        state: RunState,
        reason: String,
    },
}

/// What to do now, in this order.
pub(crate) fn plan(observed: &Observed, slots: usize, limits: &Limits) -> Vec<Action> {
    let mut plan = Plan {
        observed,
        limits,
        slots,
        n_busy: observed
            .processes
            .values()
            .filter(|p| p.exit.is_none())
            .count(),
        actions: Vec::new(),
    };
    for run in observed.runs {
        match run.state {
            RunState::Queued => plan.queued(run),
            RunState::Running => plan.running(run),
            RunState::Delivering => plan.delivering(run),
            RunState::Complete | RunState::Failed | RunState::Cancelled => {}
        }
    }
    for (&run_id, process) in observed.processes {
        if process.exit.is_some() {
            plan.actions.push(Action::Forget { run_id });
        } else if !observed.runs.iter().any(|r| r.run_id == run_id) {
            // Its run has ended: it is about to end too, or it hangs and holds a slot.
            plan.stop(run_id, process);
        }
    }
    plan.actions
}

struct Plan<'a> {
    observed: &'a Observed<'a>,
    limits: &'a Limits,
    slots: usize,
    n_busy: usize,
    actions: Vec<Action>,
}

impl<'a> Plan<'a> {
    fn queued(&mut self, run: &OpenRun) {
        let run_id = run.run_id;
        let process = self.observed.processes.get(&run_id);
        let began = process
            .zip(run.last_attempt.as_ref())
            .is_some_and(|(p, a)| self.is_of(p, a));
        match process {
            // Cancelled, or it has ended its attempt and is on its way out.
            Some(p) if p.exit.is_none() && (run.cancel_requested || began) => self.stop(run_id, p),
            Some(p) if p.exit.is_none() && p.age >= self.limits.begin_within => {
                self.actions.push(Action::Kill { run_id });
            }
            Some(p) if p.exit.is_none() => self.explain(run, "starting".to_owned()),
            Some(p) if !began && !run.cancel_requested => {
                let exit = p.exit.as_deref().unwrap_or("ended");
                self.lose(run, None, format!("the trainer {exit}"));
            }
            // Another look decides, with the process gone.
            Some(_) => {}
            None if run.cancel_requested => self.actions.push(Action::FinishCancelling { run_id }),
            None => self.start(run, ""),
        }
    }

    /// Starts a trainer; where something is in the way, says so after `why`.
    fn start(&mut self, run: &OpenRun, why: &str) {
        match self.obstacle(run) {
            Some(obstacle) => self.explain(run, format!("{why}{obstacle}")),
            None => {
                self.n_busy += 1;
                self.actions.push(Action::Start { run_id: run.run_id });
            }
        }
    }

    /// Why a run cannot start now.
    fn obstacle(&self, run: &OpenRun) -> Option<String> {
        if let Some(parent) = run.parent.as_ref().filter(|p| !p.ready) {
            let waits = format!("waits for step {} of {}", parent.step, parent.label);
            return Some(match parent.state {
                RunState::Failed if !parent.reason.is_empty() => {
                    format!("{waits}, which failed: {}", parent.reason)
                }
                RunState::Failed | RunState::Cancelled => {
                    format!("{waits}, which is {}", parent.state.as_str())
                }
                RunState::Complete => format!("{waits}, which is complete and did not keep it"),
                RunState::Queued | RunState::Running | RunState::Delivering => waits,
            });
        }
        if let Ok(left) = (run.not_before - self.observed.now).to_std()
            && !left.is_zero()
        {
            let seconds = left.as_millis().div_ceil(1000);
            let why = match &run.last_attempt {
                Some(last) if !last.reason.is_empty() => format!(": {}", last.reason),
                _ => String::new(),
            };
            return Some(format!("next attempt in {seconds} s{why}"));
        }
        (self.n_busy >= self.slots).then(|| {
            format!(
                "waits for a free slot ({} of {} busy)",
                self.n_busy, self.slots
            )
        })
    }

    fn running(&mut self, run: &OpenRun) {
        let Some(attempt) = run.last_attempt.as_ref().filter(|a| a.open) else {
            return;
        };
        let process = self.observed.processes.get(&run.run_id);
        let own = process.filter(|p| self.is_of(p, attempt));
        if let Some(exit) = own.and_then(|p| p.exit.as_deref()) {
            return self.lose(run, Some(attempt), format!("the trainer {exit}"));
        }
        // Nobody can tell it to stop; what it still measures is refused.
        if run.cancel_requested && attempt.offline {
            return self.lose(run, Some(attempt), "cancelled while offline".to_owned());
        }
        let now = self.observed.now;
        if attempt.lease_until < now && self.observed.leases_from <= now {
            if attempt.offline {
                return self.overdue(run, attempt);
            }
            if own.is_some() {
                self.actions.push(Action::Kill { run_id: run.run_id });
            }
            let silent = "the trainer sent no heartbeat before its lease ran out".to_owned();
            return self.lose(run, Some(attempt), silent);
        }
        if let Some(process) = own.filter(|_| run.cancel_requested) {
            self.stop(run.run_id, process);
        }
    }

    /// An attempt whose time offline is over: its spool can be imported until another attempt begins,
    /// which ends it.
    fn overdue(&mut self, run: &OpenRun, attempt: &LastAttempt) {
        let run_id = run.run_id;
        match self.observed.processes.get(&run_id) {
            None => self.start(run, "its time offline is over, import its spool; "),
            // It began nothing, so there is no other attempt to write off.
            Some(Process {
                exit: Some(exit), ..
            }) => self.lose(run, Some(attempt), format!("the trainer {exit}")),
            Some(process) if process.age >= self.limits.begin_within => {
                self.actions.push(Action::Kill { run_id });
            }
            Some(_) => self.explain(run, "starting".to_owned()),
        }
    }

    fn delivering(&mut self, run: &OpenRun) {
        let run_id = run.run_id;
        match run.undelivered_since_step {
            None => self.actions.push(Action::Complete { run_id }),
            Some(_) if run.cancel_requested => {
                self.actions.push(Action::FinishCancelling { run_id });
            }
            Some(_) if let Some(process) = self.observed.processes.get(&run_id) => {
                let began = run
                    .last_attempt
                    .as_ref()
                    .is_some_and(|a| self.is_of(process, a));
                match process.exit.as_deref() {
                    Some(exit) if !began => {
                        self.lose(run, None, format!("the trainer {exit}"));
                    }
                    Some(_) => {}
                    // Its attempt has ended: it is about to end too, or it hangs.
                    None if began => self.stop(run_id, process),
                    None if process.age >= self.limits.begin_within => {
                        self.actions.push(Action::Kill { run_id });
                    }
                    None => {}
                }
            }
            // A short job: it resumes at the last state and delivers what the spool holds.
            Some(step) => self.start(run, &format!("undelivered since step {step}; ")),
        }
    }

    fn is_of(&self, process: &Process, attempt: &LastAttempt) -> bool {
        process.pid == attempt.pid && self.observed.host == attempt.host
    }

    fn stop(&mut self, run_id: i32, process: &Process) {
        match process.stopping_for {
            None => self.actions.push(Action::Stop { run_id }),
            Some(time) if time >= self.limits.stop_grace => {
                self.actions.push(Action::Kill { run_id });
            }
            Some(_) => {}
        }
    }

    fn lose(&mut self, run: &OpenRun, attempt: Option<&LastAttempt>, reason: String) {
        let n_barren = match attempt {
            Some(attempt) if attempt.progressed => 0,
            _ => run.barren_attempts + 1,
        };
        let (reason, next) = if n_barren >= self.limits.max_barren_attempts {
            let reason =
                format!("{n_barren} attempts in a row got no further; in the last {reason}");
            (reason, Next::Fail)
        } else {
            let next = Next::Retry {
                barren_attempts: n_barren,
                after: self.limits.back_off(n_barren),
            };
            (reason, next)
        };
        self.actions.push(Action::Lose {
            run_id: run.run_id,
            attempt: attempt.map(|a| a.attempt),
            reason,
            next,
        });
    }

    fn explain(&mut self, run: &OpenRun, reason: String) {
        if run.reason != reason {
            self.actions.push(Action::Explain {
                run_id: run.run_id,
                state: run.state,
                reason,
            });
        }
    }
}

#[cfg(test)]
mod tests;
