//! The loop that brings about what was asked for: observe, plan, apply.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use imprint_store::runs::{Job, Leader, Lost, OpenRuns, RunState, Sighting};
use imprint_store::{Error, Store};
use imprint_telemetry::one_line;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use uuid::Uuid;

use crate::Limits;
use crate::desk::{Desk, View};
use crate::lead::Lead;
use crate::plan::{Action, Observed, Rooms, Sight, plan};
use crate::series::{Look, Series};

/// How long nothing may happen before the scheduler looks again by itself.
const TICK: Duration = Duration::from_millis(200);

/// A look that takes long is followed by a pause of so many times that: scheduling takes a tenth of
/// a processor at most, however many runs there are.
const PAUSE_FACTOR: u32 = 9;

/// No pause is longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A look that takes longer hangs: the connection that it waits for is given up.
const LOOK_WITHIN: Duration = Duration::from_secs(60);

/// What a look in progress has when the orchestrator ends.
const LAST_LOOK_WITHIN: Duration = Duration::from_secs(3);

/// So many ticks without a look may still be a busy machine.
const AWAY_TICKS: u32 = 5;

pub(crate) struct Scheduler {
    pub(crate) store: Store,
    /// By the names of the executors.
    pub(crate) desks: BTreeMap<String, Desk>,
    pub(crate) rooms: Rooms,
    pub(crate) lead: Lead,
    pub(crate) limits: Limits,
    pub(crate) series: Series,
    pub(crate) wake: Arc<Notify>,
}

impl Scheduler {
    /// Works until `stopping` turns true, then stops its trainers.
    pub(crate) async fn run(self, mut stopping: watch::Receiver<bool>) {
        let mut leases = Leases::new(self.limits.lease);
        let mut is_down = false;
        loop {
            let began = Instant::now();
            let mut must_end = stopping.clone();
            let ended = async {
                // An error says that whoever would stop it is gone: it ends as well.
                let _ = must_end.wait_for(|&stopping| stopping).await;
                tokio::time::sleep(LAST_LOOK_WITHIN).await;
            };
            let looked = tokio::select! {
                looked = tokio::time::timeout(LOOK_WITHIN, self.tick(&mut leases)) => looked,
                () = ended => break,
            };
            let (acted, problem) = match looked {
                Ok(Ok(acted)) => (acted, None),
                // Whoever leads now goes on.
                Ok(Err(Error::NotLeading)) => (false, None),
                Ok(Err(e)) => (false, Some(one_line(&e))),
                Err(_) => (false, Some("the database does not answer".to_owned())),
            };
            // Said once: trainers go on, and so does this loop.
            if let Some(problem) = &problem
                && !is_down
            {
                tracing::warn!("scheduling waits: {problem}");
            }
            is_down = problem.is_some();
            let pause = (began.elapsed() * PAUSE_FACTOR).min(LONGEST_PAUSE);
            tokio::select! {
                () = tokio::time::sleep(TICK), if !acted => {}
                () = self.wake.notified(), if !acted => {}
                () = std::future::ready(()), if acted => {}
                _ = stopping.wait_for(|&stopping| stopping) => break,
            }
            tokio::select! {
                () = tokio::time::sleep_until(began + pause) => {}
                _ = stopping.wait_for(|&stopping| stopping) => break,
            }
        }
        // All at once, and still in the lead: another one would start them anew while they save.
        let grace = self.limits.stop_grace;
        let shut_down: Vec<_> = (self.desks.values())
            .map(|desk| desk.shut_down(grace))
            .collect();
        for shut_down in shut_down {
            // Gone: there is nothing left to wait for.
            let _ = shut_down.await;
        }
        self.lead.resign().await;
    }

    /// One look, and what follows from it; whether anything was done, so that more may follow.
    async fn tick(&self, leases: &mut Leases) -> Result<bool, Error> {
        let Some(leader) = self.lead.held() else {
            self.desks.values().for_each(Desk::rest);
            return Ok(false);
        };
        // Executors first: what a trainer did before it ended is then in the database.
        let views: BTreeMap<&str, Arc<View>> = (self.desks.iter())
            .map(|(name, desk)| (name.as_str(), desk.view()))
            .collect();
        let reading = Instant::now();
        let OpenRuns { now, runs, jobs } = self.store.open_runs().await?;
        let read = reading.elapsed();
        for (name, desk) in &self.desks {
            let of_desk = jobs.values().filter(|job| job.executor == *name);
            desk.list(leader, of_desk.cloned().collect());
        }
        let sights: BTreeMap<i32, Sight> = (jobs.values())
            .map(|job| (job.run_id, sight(leader, job, &views)))
            .collect();
        self.note_sightings(leader, &jobs, &views, &sights).await?;
        let observed = Observed {
            now,
            leases_from: leases.judged_from(now),
            runs: &runs,
            jobs: &jobs,
            sights: &sights,
            site: &self.rooms,
        };
        let planning = Instant::now();
        let actions = plan(&observed, &self.limits);
        let (plan, acting) = (planning.elapsed(), Instant::now());
        let mut waiting: Vec<(i32, RunState, String)> = Vec::new();
        let mut acted = false;
        for action in actions {
            acted |= !matches!(action, Action::Explain { .. });
            self.apply(leader, action, &jobs, &mut waiting).await?;
        }
        if !waiting.is_empty() {
            self.store.explain_waiting(leader, &waiting).await?;
        }
        let act = acting.elapsed();
        self.series.looked(&Look { read, plan, act });
        Ok(acted)
    }

    /// Notes what executors call jobs, and which have come to life.
    async fn note_sightings(
        &self,
        leader: Leader,
        jobs: &BTreeMap<i32, Job>,
        views: &BTreeMap<&str, Arc<View>>,
        sights: &BTreeMap<i32, Sight>,
    ) -> Result<(), Error> {
        let new = jobs.values().filter_map(|job| {
            let external_id = views.get(job.executor.as_str())?.external_id(leader, job)?;
            let was_alive = job.alive_for.is_some();
            let alive = match sights.get(&job.run_id)? {
                Sight::Alive => true,
                Sight::Waiting { .. } => false,
                Sight::Unseen { .. } | Sight::Unknown { .. } | Sight::Ended { .. } => was_alive,
            };
            let is_known = job.external_id.as_deref() == Some(external_id) && alive == was_alive;
            (!is_known).then(|| Sighting {
                run_id: job.run_id,
                job: job.job,
                external_id: external_id.to_owned(),
                alive,
            })
        });
        let new: Vec<Sighting> = new.collect();
        match new.is_empty() {
            true => Ok(()),
            false => self.store.note_sightings(leader, &new).await,
        }
    }

    /// Does one thing; what only has to be said is added to `waiting`, to be said at once.
    async fn apply(
        &self,
        leader: Leader,
        action: Action,
        jobs: &BTreeMap<i32, Job>,
        waiting: &mut Vec<(i32, RunState, String)>,
    ) -> Result<(), Error> {
        let store = &self.store;
        match action {
            Action::Start {
                run_id,
                executor,
                slot,
            } => {
                let request_id = Uuid::new_v4().to_string();
                let opened = store.open_job(leader, run_id, &executor, slot, &request_id);
                if let (Some(job), Some(desk)) = (opened.await?, self.desks.get(&executor)) {
                    desk.submit(leader, job);
                }
            }
            Action::AskAgain { run_id } => {
                let job = &jobs[&run_id];
                store.ask_again(leader, run_id, job.job).await?;
                if let Some(desk) = self.desks.get(&job.executor) {
                    desk.submit(leader, job.clone());
                }
            }
            Action::Stop { run_id } => {
                let job = &jobs[&run_id];
                store.stop_job(leader, run_id, job.job).await?;
                if let Some(desk) = self.desks.get(&job.executor) {
                    desk.stop(leader, job.clone());
                }
            }
            Action::Kill { run_id } => {
                let job = &jobs[&run_id];
                store.kill_job(leader, run_id, job.job).await?;
                if let Some(desk) = self.desks.get(&job.executor) {
                    desk.kill(leader, job.clone());
                }
            }
            Action::End { run_id, how } => {
                store
                    .end_job(leader, run_id, jobs[&run_id].job, &how)
                    .await?;
            }
            Action::Lose {
                run_id,
                lost,
                reason,
                next,
            } => {
                tracing::warn!(run_id, "{reason}");
                if matches!(lost, Lost::Attempt(_)) {
                    self.series.attempt_ended("lost");
                }
                store
                    .lose_attempt(leader, run_id, &lost, &reason, &next)
                    .await?;
            }
            Action::FinishCancelling { run_id } => store.finish_cancelling(leader, run_id).await?,
            Action::Complete { run_id } => store.complete_run(leader, run_id).await?,
            Action::Explain {
                run_id,
                state,
                reason,
            } => waiting.push((run_id, state, reason)),
        }
        Ok(())
    }
}

/// What is known of a job.
fn sight(leader: Leader, job: &Job, views: &BTreeMap<&str, Arc<View>>) -> Sight {
    match views.get(job.executor.as_str()) {
        Some(view) => view.sight(leader, job),
        None => Sight::Unseen { problem: None },
    }
}

/// From when on leases are judged.
///
/// While the orchestrator or the database was away, or the machine asleep, no heartbeat could renew
/// a lease: trainers get a whole lease's time after that before their silence counts.
struct Leases {
    lease: Duration,
    last_look: Option<DateTime<Utc>>,
    from: DateTime<Utc>,
}

impl Leases {
    fn new(lease: Duration) -> Self {
        Self {
            lease,
            last_look: None,
            from: DateTime::<Utc>::MIN_UTC,
        }
    }

    fn judged_from(&mut self, now: DateTime<Utc>) -> DateTime<Utc> {
        let long = (self.lease / 2).max(AWAY_TICKS * TICK);
        let was_away = match self.last_look {
            None => true,
            Some(last) => (now - last).to_std().is_ok_and(|gap| gap > long),
        };
        if was_away {
            self.from = now + self.lease;
        }
        self.last_look = Some(now);
        self.from
    }
}
