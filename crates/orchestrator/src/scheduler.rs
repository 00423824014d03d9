//! The loop that brings about what was asked for: observe, plan, apply.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use imprint_store::runs::OpenRuns;
use imprint_store::{Error, Store};
use imprint_telemetry::one_line;
use tokio::sync::{Notify, watch};

use crate::Limits;
use crate::local::Local;
use crate::plan::{Action, Observed, plan};
use crate::series::Series;

/// How long nothing may happen before the scheduler looks again by itself.
const TICK: Duration = Duration::from_millis(200);

/// So many ticks without a look may still be a busy machine.
const AWAY_TICKS: u32 = 5;

pub(crate) struct Scheduler {
    pub(crate) store: Store,
    pub(crate) local: Local,
    pub(crate) host: String,
    pub(crate) slots: usize,
    pub(crate) limits: Limits,
    pub(crate) series: Series,
    pub(crate) wake: Arc<Notify>,
}

impl Scheduler {
    /// Works until `stopping` turns true, then stops its trainers.
    pub(crate) async fn run(mut self, mut stopping: watch::Receiver<bool>) {
        let mut leases = Leases::new(self.limits.lease);
        let mut is_down = false;
        loop {
            match self.tick(&mut leases).await {
                Ok(()) => is_down = false,
                // Said once: trainers go on, and so does this loop.
                Err(e) if !is_down => {
                    tracing::warn!("scheduling waits: {}", one_line(&e));
                    is_down = true;
                }
                Err(_) => {}
            }
            tokio::select! {
                () = tokio::time::sleep(TICK) => {}
                () = self.wake.notified() => {}
                _ = stopping.wait_for(|&stopping| stopping) => break,
            }
        }
        self.local.shut_down(self.limits.stop_grace).await;
    }

    async fn tick(&mut self, leases: &mut Leases) -> Result<(), Error> {
        // Processes first: what one did before it ended is then in the database.
        self.local.observe();
        let OpenRuns { now, runs } = self.store.open_runs().await?;
        for run in &runs {
            if let Some(attempt) = &run.last_attempt
                && attempt.open
                && attempt.host == self.host
            {
                self.local.adopt(run.run_id, attempt.pid);
            }
        }
        let processes = self.local.processes();
        let observed = Observed {
            now,
            leases_from: leases.judged_from(now),
            host: &self.host,
            runs: &runs,
            processes: &processes,
        };
        for action in plan(&observed, self.slots, &self.limits) {
            self.apply(action).await?;
        }
        Ok(())
    }

    async fn apply(&mut self, action: Action) -> Result<(), Error> {
        match action {
            Action::Start { run_id } => self.local.start(run_id),
            Action::Stop { run_id } => self.local.stop(run_id),
            Action::Kill { run_id } => self.local.kill(run_id),
            Action::Forget { run_id } => self.local.forget(run_id),
            Action::Lose {
                run_id,
                attempt,
                reason,
                next,
            } => {
                tracing::warn!(run_id, attempt, "{reason}");
                if attempt.is_some() {
                    self.series.attempt_ended("lost");
                }
                self.store
                    .lose_attempt(run_id, attempt, &reason, &next)
                    .await?;
            }
            Action::FinishCancelling { run_id } => self.store.finish_cancelling(run_id).await?,
            Action::Complete { run_id } => self.store.complete_run(run_id).await?,
            Action::Explain {
                run_id,
                state,
                reason,
            } => self.store.explain_waiting(run_id, state, &reason).await?,
        }
        Ok(())
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
