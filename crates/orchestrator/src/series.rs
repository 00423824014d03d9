//! The series that this role shows: `docs/observability.md` explains each.

use std::convert::Infallible;
use std::time::Duration;

use imprint_store::Store;
use imprint_store::runs::RunState;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
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
    look_duration: Durations,
    submission_duration: Durations,
}

/// Durations of something's parts.
type Durations = Family<OfPart, Histogram, fn() -> Histogram>;

/// Half a millisecond to 16 seconds.
fn durations() -> Durations {
    Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.0005, 2.0, 16)))
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

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPart {
    /// One of those that [`Series::looked`] and [`Series::submitted`] list.
    part: &'static str,
}

/// How long a look took that the scheduler had.
pub(crate) struct Look {
    /// Of the database.
    pub(crate) read: Duration,
    pub(crate) plan: Duration,
    pub(crate) act: Duration,
}

impl Series {
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let series = Self {
            runs: Family::default(),
            undelivered: Gauge::default(),
            oldest_heartbeat: Gauge::default(),
            begun: Counter::default(),
            ended: Family::default(),
            look_duration: durations(),
            submission_duration: durations(),
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
        registry.register_with_unit(
            "look_duration",
            "A look at all open runs: reading them, planning, acting on the plan",
            Unit::Seconds,
            series.look_duration.clone(),
        );
        registry.register_with_unit(
            "submission_duration",
            "Taking an experiment in: validating it, storing its runs",
            Unit::Seconds,
            series.submission_duration.clone(),
        );
        series
    }

    pub(crate) fn attempt_began(&self) {
        self.begun.inc();
    }

    pub(crate) fn attempt_ended(&self, outcome: &'static str) {
        self.ended.get_or_create(&OfOutcome { outcome }).inc();
    }

    pub(crate) fn looked(&self, look: &Look) {
        let parts = [("read", look.read), ("plan", look.plan), ("act", look.act)];
        observe(&self.look_duration, parts);
    }

    /// Counts an experiment that was stored, not a dry run.
    pub(crate) fn submitted(&self, validated_in: Duration, stored_in: Duration) {
        let parts = [("validate", validated_in), ("store", stored_in)];
        observe(&self.submission_duration, parts);
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

fn observe<const N: usize>(durations: &Durations, parts: [(&'static str, Duration); N]) {
    for (part, took) in parts {
        let of_part = durations.get_or_create(&OfPart { part });
        of_part.observe(took.as_secs_f64());
    }
}
