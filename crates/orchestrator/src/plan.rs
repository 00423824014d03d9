//! What to do next, decided from what is seen: no clock, no database, no process in here.

mod queue;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use imprint_store::runs::{Job, LastAttempt, Lost, Next, OpenRun, RunState};

use self::queue::Candidate;
use crate::Limits;

/// Everything that a decision rests on.
pub(crate) struct Observed<'a> {
    /// By the database's clock, like every other moment in here.
    pub(crate) now: DateTime<Utc>,
    /// Leases are judged from then on: before, heartbeats may have had nowhere to go.
    pub(crate) leases_from: DateTime<Utc>,
    /// Runs that have not ended, in the order in which they were asked for.
    pub(crate) runs: &'a [OpenRun],
    /// Open jobs by run; also of runs that have ended.
    pub(crate) jobs: &'a BTreeMap<i32, Job>,
    /// What is known of each of them.
    pub(crate) sights: &'a BTreeMap<i32, Sight>,
    pub(crate) site: &'a Rooms,
}

/// What is known of an open job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sight {
    /// Nothing yet; or its executor does not answer, and why.
    Unseen {
        problem: Option<String>,
    },
    /// Its executor has been asked and does not know it: what it said when it should start it.
    Unknown {
        problem: Option<String>,
    },
    /// In the executor's queue: why, in its words.
    Waiting {
        reason: String,
    },
    Alive,
    /// For good, in words that follow "the trainer".
    Ended {
        how: String,
    },
}

/// The executors that there are, and how much each takes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rooms {
    pub(crate) executors: BTreeMap<String, Room>,
    /// The executor of runs that name none.
    pub(crate) default: Option<String>,
    /// Open jobs of one experiment at the same time.
    pub(crate) jobs_per_experiment: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// So many places, each with a number.
    Slots(u32),
    /// So many jobs in a queue of its own, running ones included.
    Queue(u32),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// Have a job started.
    Start {
        run_id: i32,
        executor: String,
        slot: Option<u32>,
    },
    /// Ask once more for the same job: nobody knows it.
    AskAgain {
        run_id: i32,
    },
    /// Ask the job's process to save and end.
    Stop {
        run_id: i32,
    },
    /// End the job at once.
    Kill {
        run_id: i32,
    },
    /// Stop looking at a job that has ended, in words that follow "the trainer".
    End {
        run_id: i32,
        how: String,
    },
    /// Write off an attempt, or a job that never began one.
    Lose {
        run_id: i32,
        lost: Lost,
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
pub(crate) fn plan(observed: &Observed, limits: &Limits) -> Vec<Action> {
    let mut plan = Plan {
        observed,
        limits,
        candidates: Vec::new(),
        actions: Vec::new(),
    };
    let open: BTreeSet<i32> = observed.runs.iter().map(|run| run.run_id).collect();
    for run in observed.runs {
        match run.state {
            RunState::Queued => plan.queued(run),
            RunState::Running => plan.running(run),
            RunState::Delivering => plan.delivering(run),
            RunState::Complete | RunState::Failed | RunState::Cancelled => {}
        }
    }
    for job in observed.jobs.values() {
        if !open.contains(&job.run_id) {
            plan.left_over(job);
        }
    }
    plan.start_candidates();
    plan.actions
}

struct Plan<'a> {
    observed: &'a Observed<'a>,
    limits: &'a Limits,
    candidates: Vec<Candidate<'a>>,
    actions: Vec<Action>,
}

impl<'a> Plan<'a> {
    fn job_of(&self, run_id: i32) -> Option<(&'a Job, Sight)> {
        let job = self.observed.jobs.get(&run_id)?;
        Some((job, self.sight(job)))
    }

    fn sight(&self, job: &Job) -> Sight {
        let sight = self.observed.sights.get(&job.run_id).cloned();
        sight.unwrap_or(Sight::Unseen { problem: None })
    }

    /// Why nobody can look at a job.
    fn gone(&self, job: &Job) -> Option<String> {
        let name = &job.executor;
        let is_there = self.observed.site.executors.contains_key(name);
        (!is_there).then(|| format!("is on `{name}`, which the site file does not have any more"))
    }

    fn queued(&mut self, run: &'a OpenRun) {
        match self.job_of(run.run_id) {
            None if run.cancel_requested => {
                self.push(Action::FinishCancelling { run_id: run.run_id });
            }
            None => self.candidate(run, ""),
            Some((job, sight)) => self.between_attempts(run, job, sight, ""),
        }
    }

    fn delivering(&mut self, run: &'a OpenRun) {
        let run_id = run.run_id;
        let job = self.job_of(run_id);
        match run.undelivered_since_step {
            None => self.push(Action::Complete { run_id }),
            Some(_) if run.cancel_requested => self.push(Action::FinishCancelling { run_id }),
            Some(step) => {
                let why = format!("undelivered since step {step}; ");
                match job {
                    // A short job: it resumes at the last state and delivers what the spool holds.
                    None => self.candidate(run, &why),
                    Some((job, sight)) => self.between_attempts(run, job, sight, &why),
                }
            }
        }
    }

    /// A job of which no attempt is open: it has not begun one, or has ended it.
    fn between_attempts(&mut self, run: &OpenRun, job: &Job, sight: Sight, why: &str) {
        let run_id = run.run_id;
        if let Some(gone) = self.gone(job) {
            // What becomes of it there can begin nothing any more.
            return match run.cancel_requested {
                true => self.push(Action::End { run_id, how: gone }),
                false => self.explain(
                    run,
                    format!("{why}its job {gone}: put it back, or cancel the run and retry it"),
                ),
            };
        }
        match sight {
            Sight::Ended { how } if job.began || run.cancel_requested => {
                self.push(Action::End { run_id, how });
            }
            Sight::Ended { how } => self.lose_job(run, job, how),
            Sight::Unknown { problem } if job.external_id.is_none() && !run.cancel_requested => {
                if job.asked_for >= self.limits.ask_again(job.n_asked) {
                    self.push(Action::AskAgain { run_id });
                } else {
                    let problem = problem.as_deref().unwrap_or("starting");
                    self.explain(run, format!("{why}{problem}"));
                }
            }
            // Asked for it may still be on its way.
            Sight::Unknown { .. } if job.asked_for < self.limits.ask_again_after => {}
            Sight::Unknown { .. } => {
                let how = unknown(job);
                let sight = Sight::Ended { how };
                self.between_attempts(run, job, sight, why);
            }
            Sight::Waiting { .. } | Sight::Alive if run.cancel_requested => self.stop(job),
            Sight::Waiting { reason } => self.explain(run, format!("{why}{reason}")),
            // It hangs before its first word, or after its last; unless nobody was there to hear it.
            Sight::Alive
                if job.idle_for >= self.limits.begin_within
                    && self.observed.leases_from <= self.observed.now =>
            {
                self.kill(job);
            }
            Sight::Alive | Sight::Unseen { problem: None } => {
                self.explain(run, format!("{why}starting"));
            }
            Sight::Unseen {
                problem: Some(problem),
            } => self.explain(run, format!("{why}{problem}")),
        }
    }

    fn running(&mut self, run: &'a OpenRun) {
        let run_id = run.run_id;
        let Some(attempt) = run.last_attempt.as_ref().filter(|a| a.open) else {
            return;
        };
        let job = self.job_of(run_id);
        let own = job.as_ref().filter(|(job, _)| attempt.job == Some(job.job));
        if let Some((_, Sight::Ended { how })) = own {
            return self.lose_attempt(run, attempt, format!("the trainer {how}"));
        }
        // Nobody can tell it to stop; what it still measures is refused.
        if run.cancel_requested && attempt.offline {
            return self.lose_attempt(run, attempt, "cancelled while offline".to_owned());
        }
        let is_over = attempt.lease_until < self.observed.now
            && self.observed.leases_from <= self.observed.now;
        if is_over && attempt.offline {
            return self.overdue(run);
        }
        if is_over {
            if let Some((job, Sight::Alive)) = own {
                self.kill(job);
            }
            let silent = "the trainer sent no heartbeat before its lease ran out".to_owned();
            return self.lose_attempt(run, attempt, silent);
        }
        let is_own = own.is_some();
        match job {
            Some((job, _)) if is_own && run.cancel_requested => self.stop(job),
            // Somebody took the run over by hand.
            Some((_, Sight::Ended { how })) if !is_own => self.push(Action::End { run_id, how }),
            Some((job, Sight::Waiting { .. })) if !is_own => self.stop(job),
            _ => {}
        }
    }

    /// An attempt whose time offline is over: its spool can be imported until another attempt begins,
    /// which ends it.
    fn overdue(&mut self, run: &'a OpenRun) {
        const WHY: &str = "its time offline is over, import its spool; ";
        match self.job_of(run.run_id) {
            None => self.candidate(run, WHY),
            Some((job, sight)) => self.between_attempts(run, job, sight, WHY),
        }
    }

    /// A job whose run has ended.
    fn left_over(&mut self, job: &Job) {
        let run_id = job.run_id;
        if let Some(how) = self.gone(job) {
            return self.push(Action::End { run_id, how });
        }
        match self.sight(job) {
            Sight::Ended { how } => self.push(Action::End { run_id, how }),
            Sight::Unknown { .. } if job.asked_for >= self.limits.ask_again_after => {
                self.push(Action::End {
                    run_id,
                    how: unknown(job),
                });
            }
            Sight::Waiting { .. } => self.stop(job),
            // Its process is about to end too, or it hangs and holds its place.
            Sight::Alive if job.idle_for >= self.limits.stop_grace => self.stop(job),
            Sight::Alive | Sight::Unknown { .. } | Sight::Unseen { .. } => {}
        }
    }

    fn push(&mut self, action: Action) {
        self.actions.push(action);
    }

    fn stop(&mut self, job: &Job) {
        match job.stopping_for {
            None => self.push(Action::Stop { run_id: job.run_id }),
            Some(time) if time >= self.limits.stop_grace => self.kill(job),
            Some(_) => {}
        }
    }

    fn kill(&mut self, job: &Job) {
        if job
            .killing_for
            .is_none_or(|time| time >= self.limits.stop_grace)
        {
            self.push(Action::Kill { run_id: job.run_id });
        }
    }

    fn lose_attempt(&mut self, run: &OpenRun, attempt: &LastAttempt, reason: String) {
        let n_barren = match attempt.progressed {
            true => 0,
            false => run.barren_attempts + 1,
        };
        self.lose(run, Lost::Attempt(attempt.attempt), n_barren, reason);
    }

    fn lose_job(&mut self, run: &OpenRun, job: &Job, how: String) {
        let reason = format!("the trainer {how}");
        let lost = Lost::Job {
            job: job.job,
            outcome: how,
        };
        self.lose(run, lost, run.barren_attempts + 1, reason);
    }

    fn lose(&mut self, run: &OpenRun, lost: Lost, n_barren: u32, reason: String) {
        let (reason, next) = if run.cancel_requested {
            // It does not fail any more: it ends as cancelled.
            let next = Next::Retry {
                barren_attempts: run.barren_attempts,
                after: Duration::ZERO,
            };
            (reason, next)
        } else if n_barren >= self.limits.max_barren_attempts {
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
        self.push(Action::Lose {
            run_id: run.run_id,
            lost,
            reason,
            next,
        });
    }

    fn explain(&mut self, run: &OpenRun, reason: String) {
        if run.reason != reason {
            self.push(Action::Explain {
                run_id: run.run_id,
                state: run.state,
                reason,
            });
        }
    }
}

fn unknown(job: &Job) -> String {
    match &job.external_id {
        Some(id) => format!("is gone: {} does not know {id} any more", job.executor),
        None => format!("never came to {}", job.executor),
    }
}

/// How long until a moment; `None` when it has come.
fn left(until: DateTime<Utc>, now: DateTime<Utc>) -> Option<Duration> {
    let left = (until - now).to_std().ok()?;
    (!left.is_zero()).then_some(left)
}

#[cfg(test)]
mod tests;
