//! The series that this service shows: `docs/observability.md` explains each.

use std::time::Duration;

use imprint_proto::pb;
use imprint_proto::pb::ingest_request::Message as Request;
use imprint_proto::status::is_unreadable;
use imprint_store::ingest::{Cursors, Message};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use prost::Message as _;
use tonic::{Code, Status};

/// What is counted; all clones count together.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    received_bytes: Counter,
    values: Counter,
    readings: Counter,
    updates: Counter,
    /// Messages taken off the streams that no commit has answered for yet.
    queue_depth: Gauge,
    /// Readings among them.
    unacknowledged: Gauge,
    open_streams: Gauge,
    commit_duration: Histogram,
    commit_messages: Histogram,
    refusals: Family<OfReason, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfReason {
    /// One of those that [`Series::refused`] lists.
    reason: &'static str,
}

/// Messages that no commit has answered for yet; dropping it says that one has, or never will.
#[derive(Debug)]
pub(crate) struct Pending {
    series: Series,
    n_messages: i64,
    n_readings: i64,
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.series.queue_depth.dec_by(self.n_messages);
        self.series.unacknowledged.dec_by(self.n_readings);
    }
}

/// An open stream; dropping it says that it has ended.
#[derive(Debug)]
pub(crate) struct Open(Gauge);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Series {
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let series = Self {
            received_bytes: Counter::default(),
            values: Counter::default(),
            readings: Counter::default(),
            updates: Counter::default(),
            queue_depth: Gauge::default(),
            unacknowledged: Gauge::default(),
            open_streams: Gauge::default(),
            // Half a millisecond to 16 seconds.
            commit_duration: Histogram::new(exponential_buckets(0.0005, 2.0, 16)),
            commit_messages: Histogram::new(exponential_buckets(1.0, 2.0, 8)),
            refusals: Family::default(),
        };
        registry.register_with_unit(
            "ingest",
            "Bytes of the messages received, replays included",
            Unit::Bytes,
            series.received_bytes.clone(),
        );
        registry.register(
            "ingest_values",
            "Log-probabilities committed: probes × 3 spans of each reading",
            series.values.clone(),
        );
        registry.register(
            "ingest_readings",
            "Readings committed, each once",
            series.readings.clone(),
        );
        registry.register(
            "ingest_updates",
            "Update statistics committed, each once",
            series.updates.clone(),
        );
        registry.register(
            "ingest_queue_depth_messages",
            "Messages received that no commit has answered for yet",
            series.queue_depth.clone(),
        );
        registry.register(
            "unacknowledged_steps",
            "Readings received and not yet acknowledged",
            series.unacknowledged.clone(),
        );
        registry.register(
            "ingest_open_streams",
            "Trainers whose stream is open",
            series.open_streams.clone(),
        );
        registry.register_with_unit(
            "commit_duration",
            "From the first statement of a transaction until it is on the disk",
            Unit::Seconds,
            series.commit_duration.clone(),
        );
        registry.register(
            "commit_messages",
            "Messages that one transaction took, replays included",
            series.commit_messages.clone(),
        );
        registry.register(
            "ingest_refusals",
            "Streams that this service ended, by the reason why",
            series.refusals.clone(),
        );
        series
    }

    pub(crate) fn opened(&self) -> Open {
        self.open_streams.inc();
        Open(self.open_streams.clone())
    }

    /// Messages as they are received, to be dropped when they are answered for.
    pub(crate) fn pending(&self) -> Pending {
        Pending {
            series: self.clone(),
            n_messages: 0,
            n_readings: 0,
        }
    }

    /// Counts what a commit has moved the cursors past, of the messages that it was given.
    pub(crate) fn committed(&self, took: Duration, batch: &[Message], from: Cursors, to: Cursors) {
        self.commit_duration.observe(took.as_secs_f64());
        self.commit_messages.observe(batch.len() as f64);
        for message in batch {
            match message {
                Message::Reading(r) if (from.next_reading..to.next_reading).contains(&r.index) => {
                    let spans = [&r.first_sum_nats, &r.target_sum_nats, &r.full_sum_nats];
                    self.readings.inc();
                    self.values
                        .inc_by(spans.map(|values| values.len() as u64).iter().sum());
                }
                Message::Update(u) if (from.next_update..to.next_update).contains(&u.step) => {
                    self.updates.inc();
                }
                _ => {}
            }
        }
    }

    /// Counts a stream that ended with an error other than a lost connection.
    pub(crate) fn refused(&self, status: &Status) {
        let reason = match status.code() {
            Code::Cancelled | Code::Unknown => return,
            _ if is_unreadable(status) => "unreadable",
            Code::Aborted => "stale_attempt",
            Code::OutOfRange => "gap",
            Code::InvalidArgument | Code::FailedPrecondition => "invalid",
            Code::NotFound => "unknown_run",
            Code::Unauthenticated | Code::PermissionDenied => "not_permitted",
            Code::Unavailable => "unavailable",
            _ => "internal",
        };
        self.refusals.get_or_create(&OfReason { reason }).inc();
    }
}

impl Pending {
    pub(crate) fn received(&mut self, message: &pb::IngestRequest) {
        self.series
            .received_bytes
            .inc_by(message.encoded_len() as u64);
        self.series.queue_depth.inc();
        self.n_messages += 1;
        if matches!(message.message, Some(Request::Reading(_))) {
            self.series.unacknowledged.inc();
            self.n_readings += 1;
        }
    }
}
