//! An experiment as somebody watches it: all runs once, then those that changed.

use std::collections::BTreeMap;
use std::time::Duration;

use imprint_proto::pb;
use imprint_proto::status::unavailable;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::Status;

use super::people::{Picture, RUNS_AT_ONCE, to_run};
use super::{Service, left};

/// How often a watched experiment is looked at.
const WATCH_EVERY: Duration = Duration::from_millis(300);

/// A look at thousands of runs takes long: no more of the time than one part in so many.
const LOOK_SHARE: u32 = 10;

/// However long a look took: the machine may have been asleep meanwhile.
const WATCH_AT_LEAST_EVERY: Duration = Duration::from_secs(5);

type Messages = mpsc::Sender<Result<pb::WatchExperimentResponse, Status>>;

impl Service {
    /// Sends the experiment's runs, then those that changed, until all have ended.
    pub(super) async fn watch(mut self, mut picture: Picture, to: Messages) {
        let mut sent: BTreeMap<i32, pb::Run> = BTreeMap::new();
        let mut look_took = Duration::ZERO;
        loop {
            let runs = picture.runs.iter().map(to_run);
            let changed: Vec<pb::Run> = runs
                .filter(|run| sent.get(&run.run_id) != Some(run))
                .collect();
            let summary = picture.summary();
            for runs in changed.chunks(RUNS_AT_ONCE) {
                let experiment = pb::Experiment {
                    name: picture.name.clone(),
                    runs: runs.to_vec(),
                    summary: Some(summary.clone()),
                };
                let message = pb::WatchExperimentResponse {
                    experiment: Some(experiment),
                };
                if to.send(Ok(message)).await.is_err() {
                    return;
                }
            }
            sent.extend(changed.into_iter().map(|run| (run.run_id, run)));
            if picture.runs.iter().all(|run| run.state.has_ended()) {
                return;
            }
            let pause = (LOOK_SHARE * look_took).clamp(WATCH_EVERY, WATCH_AT_LEAST_EVERY);
            let stopped = tokio::select! {
                () = tokio::time::sleep(pause) => false,
                () = to.closed() => return,
                _ = self.stopping.wait_for(|&stopping| stopping) => true,
            };
            let began = Instant::now();
            let looked = match stopped {
                true => Err(unavailable(
                    "SHUTTING_DOWN",
                    "the orchestrator is shutting down",
                )),
                false => self.look_again(&mut picture).await,
            };
            look_took = began.elapsed();
            if let Err(status) = looked {
                // Nobody may be listening any more.
                let _ = to.send(Err(status)).await;
                return;
            }
        }
    }
}

impl Picture {
    /// How many runs are in which state, and how long they still take.
    pub(super) fn summary(&self) -> pb::ExperimentSummary {
        let mut runs_by_state = std::collections::HashMap::new();
        for run in &self.runs {
            *runs_by_state
                .entry(run.state.as_str().to_owned())
                .or_default() += 1;
        }
        pb::ExperimentSummary {
            name: self.name.clone(),
            runs_by_state,
            created_unix_ms: self.created_at.timestamp_millis(),
            seconds_left: left::of_all(&self.runs),
        }
    }
}
