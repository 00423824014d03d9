//! Which of the runs that could start do: priority first, then a fair turn for every experiment.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use imprint_store::runs::{OpenRun, RunState};

use super::{Action, Plan, Room, left};

/// A run that could start now if there is room.
pub(super) struct Candidate<'a> {
    run: &'a OpenRun,
    /// Stands before what it waits for.
    why: String,
}

/// What is taken of an executor.
#[derive(Default)]
struct Taken {
    n_jobs: u32,
    slots: BTreeSet<u32>,
}

impl<'a> Plan<'a> {
    /// Lets a run start when it is its turn; where something is in the way, says so after `why`.
    pub(super) fn candidate(&mut self, run: &'a OpenRun, why: &str) {
        match self.obstacle(run, why) {
            Some(obstacle) => self.explain(run, format!("{why}{obstacle}")),
            None => self.candidates.push(Candidate {
                run,
                why: why.to_owned(),
            }),
        }
    }

    /// Why a run cannot start now, with as much room as there may be.
    ///
    /// `why` stands before the reason that was said.
    fn obstacle(&self, run: &OpenRun, why: &str) -> Option<String> {
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
        let left = left(run.not_before, self.observed.now)?;
        let seconds = left.as_millis().div_ceil(1000);
        let why = match &run.last_attempt {
            _ if run.barren_attempts > 0 && !run.reason.is_empty() => {
                format!(
                    ": {}",
                    cause(run.reason.strip_prefix(why).unwrap_or(&run.reason))
                )
            }
            Some(last) if !last.reason.is_empty() => format!(": {}", last.reason),
            _ => String::new(),
        };
        Some(format!("next attempt in {seconds} s{why}"))
    }

    /// Fills the executors: the highest priority first, and among equals the experiment that has the
    /// fewest open jobs.
    pub(super) fn start_candidates(&mut self) {
        let mut taken: BTreeMap<&str, Taken> = BTreeMap::new();
        for job in self.observed.jobs.values() {
            let taken = taken.entry(&job.executor).or_default();
            taken.n_jobs += 1;
            taken.slots.extend(job.slot);
        }
        let mut n_of_experiment: BTreeMap<i32, usize> = BTreeMap::new();
        for run in self.observed.runs {
            if self.observed.jobs.contains_key(&run.run_id) {
                *n_of_experiment.entry(run.experiment_id).or_default() += 1;
            }
        }
        let mut queues: BTreeMap<Reverse<i32>, BTreeMap<i32, VecDeque<Candidate>>> =
            BTreeMap::new();
        for candidate in std::mem::take(&mut self.candidates) {
            let of_priority = queues.entry(Reverse(candidate.run.priority)).or_default();
            let queue = of_priority.entry(candidate.run.experiment_id).or_default();
            queue.push_back(candidate);
        }
        for mut of_priority in queues.into_values() {
            let n_open = |id: &i32, n: &BTreeMap<i32, usize>| n.get(id).copied().unwrap_or(0);
            let mut turns: BTreeSet<(usize, i32)> = of_priority
                .keys()
                .map(|id| (n_open(id, &n_of_experiment), *id))
                .collect();
            while let Some((_, experiment)) = turns.pop_first() {
                let queue = of_priority.get_mut(&experiment);
                let Some(candidate) = queue.and_then(VecDeque::pop_front) else {
                    continue;
                };
                let n = n_of_experiment.entry(experiment).or_default();
                match self.room_for(candidate.run, *n, &taken) {
                    Ok((executor, slot)) => {
                        let taken = taken.entry(executor).or_default();
                        taken.n_jobs += 1;
                        taken.slots.extend(slot);
                        *n += 1;
                        self.push(Action::Start {
                            run_id: candidate.run.run_id,
                            executor: executor.to_owned(),
                            slot,
                        });
                    }
                    Err(why) => self.explain(candidate.run, format!("{}{why}", candidate.why)),
                }
                turns.insert((*n, experiment));
            }
        }
    }

    /// The executor that takes a run now, and the slot; or why none does.
    fn room_for(
        &self,
        run: &OpenRun,
        n_of_experiment: usize,
        taken: &BTreeMap<&str, Taken>,
    ) -> Result<(&'a str, Option<u32>), String> {
        let site = self.observed.site;
        if let Some(limit) = site.jobs_per_experiment
            && n_of_experiment >= limit
        {
            return Err(format!(
                "waits for its experiment's turn ({n_of_experiment} of {limit} runs going on)"
            ));
        }
        let Some(name) = run.executor.as_ref().or(site.default.as_ref()) else {
            return Err(
                "names no executor, and the site file has no `default`: give it one".to_owned(),
            );
        };
        let Some((name, room)) = site.executors.get_key_value(name) else {
            return Err(format!("the site file has no executor `{name}` any more"));
        };
        let none = Taken::default();
        let taken = taken.get(name.as_str()).unwrap_or(&none);
        match *room {
            Room::Slots(n) => match (0..n).find(|slot| !taken.slots.contains(slot)) {
                Some(slot) => Ok((name, Some(slot))),
                None => Err(format!(
                    "waits for a free slot ({} of {n} busy on {name})",
                    taken.slots.len()
                )),
            },
            Room::Queue(n) if taken.n_jobs < n => Ok((name, None)),
            Room::Queue(n) => Err(format!(
                "waits for room on {name} ({} of {n} jobs there)",
                taken.n_jobs
            )),
        }
    }
}

/// A reason without the pause that stood before it.
fn cause(reason: &str) -> &str {
    match reason.strip_prefix("next attempt in ") {
        Some(rest) => rest.split_once(": ").map_or("", |(_, cause)| cause),
        None => reason,
    }
}
