//! The series that this role shows: `docs/observability.md` explains each.

use std::convert::Infallible;
use std::time::Duration;

use imprint_store::Store;
use imprint_store::runs::RunState;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// How old what the database counts may be.
const INTERVAL: Duration = Duration::from_secs(5);

/// What is counted; all clones count together.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    runs: Family<OfState, Gauge>,
    undelivered: Gauge,
    oldest_heartbeat: Gauge<f64, std::sync::atomic::AtomicU64>,
    begun: Counter,
    ended: Family<OfOutcome, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfState {
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfOutcome {
    /// One that the column `attempt.outcome` may have.
    outcome: &'static str,
}

impl Series {
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let series = Self {
            runs: Family::default(),
            undelivered: Gauge::default(),
            oldest_heartbeat: Gauge::default(),
            begun: Counter::default(),
            ended: Family::default(),
        };
        registry.register("runs", "Runs by state", series.runs.clone());
        registry.register(
            "undelivered_steps",
            "Steps whose readings wait in the spools of open attempts, by their last heartbeats",
            series.undelivered.clone(),
        );
        registry.register_with_unit(
            "oldest_heartbeat",
            "Since the last heartbeat of the open attempt that has been silent for longest",
            Unit::Seconds,
            series.oldest_heartbeat.clone(),
        );
        registry.register("attempts_begun", "Attempts begun", series.begun.clone());
        registry.register(
            "attempts_ended",
            "Attempts ended, by outcome",
            series.ended.clone(),
        );
        series
    }

    pub(crate) fn attempt_began(&self) {
        self.begun.inc();
    }

    pub(crate) fn attempt_ended(&self, outcome: &'static str) {
        self.ended.get_or_create(&OfOutcome { outcome }).inc();
    }

    /// Keeps what the database counts up to date; while it is away, the last counts stand.
    pub(crate) async fn watch(&self, store: &Store) -> Infallible {
        loop {
            if let Ok(overview) = store.overview().await {
                for state in RunState::ALL {
                    let n = overview.n_runs_by_state.get(&state).copied().unwrap_or(0);
                    let of_state = OfState {
                        state: state.as_str(),
                    };
                    self.runs.get_or_create(&of_state).set(n.into());
                }
                self.undelivered.set(overview.undelivered_steps);
                self.oldest_heartbeat
                    .set(overview.oldest_heartbeat.as_secs_f64());
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }
}
