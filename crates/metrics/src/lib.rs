//! The metrics service: takes readings in, makes them durable, answers for them.
//!
//! It keeps nothing of its own: what a trainer may forget is what the database has committed.

mod queries;
mod series;
mod service;
mod status;

use std::convert::Infallible;
use std::num::NonZeroU16;
use std::time::Duration;

use imprint_access::Door;
use imprint_proto::pb::metrics_server::MetricsServer;
use imprint_store::{Store, derived};
use imprint_telemetry::{Vitals, one_line};
use tokio_util::sync::CancellationToken;

use self::series::Series;
use self::service::Metrics;

/// The name of the service in health checks and reflection.
const METRICS: &str = "imprint.v1.Metrics";

/// Steps that one transaction takes at most, unless it is told otherwise.
pub const STEPS_PER_COMMIT: NonZeroU16 = NonZeroU16::new(16).unwrap();

/// How much a stream may do at once, and how long it may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Steps that one transaction takes at most: it takes what has come, and waits for none.
    pub steps_per_commit: NonZeroU16,
    /// How long an opened stream may take to say for which attempt it is; then it is refused.
    pub open_within: Duration,
    /// How long open streams may go on committing what they have received after a shutdown; what
    /// is not acknowledged by then is delivered again.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            steps_per_commit: STEPS_PER_COMMIT,
            open_within: Duration::from_secs(10),
            drain: Duration::from_secs(10),
        }
    }
}

/// What one stream may have sent and the database has not taken yet: a full batch of 16 readings of
/// 2,500 probes. Beyond it the trainer waits in its spool, and nothing is lost.
const STREAM_WINDOW_BYTES: u32 = 512 << 10;

/// The same over all streams of a connection; each trainer has a connection of its own.
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;

/// A reading of 5,000 probes in one piece.
const MAX_FRAME_BYTES: u32 = 64 << 10;

/// After a failure; meanwhile queries answer from the readings.
const CHUNKS_AGAIN_AFTER: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Standing(#[from] imprint_telemetry::Error),
    #[error("the door of the metrics service")]
    Door {
        #[source]
        source: imprint_access::Error,
    },
    #[error("serve metrics")]
    Serve {
        #[source]
        source: tonic::transport::Error,
    },
}

/// Serves behind a door until `shutdown`, then finishes what it has received, for as long as
/// `limits` allow.
///
/// How it fares is shown in `vitals`.
///
/// # Errors
/// When the door cannot be opened, or the server cannot go on.
pub async fn serve(
    door: impl Into<Door>,
    store: Store,
    vitals: &Vitals,
    limits: Limits,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let descriptors = imprint_proto::FILE_DESCRIPTOR_SET;
    let (standing, beside) =
        imprint_telemetry::standing("metrics", &[METRICS], descriptors, vitals).await?;
    let series = vitals.register(Series::new);
    let metrics = Metrics::new(store.clone(), series, limits, shutdown.clone());
    let metrics =
        MetricsServer::new(metrics).max_decoding_message_size(imprint_proto::MAX_MESSAGE_BYTES);
    let opened = door.into().open();
    let (server, incoming) = opened.map_err(|source| Error::Door { source })?;
    let server = server
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(MAX_FRAME_BYTES)
        .add_routes(beside)
        .add_service(metrics)
        .serve_with_incoming_shutdown(incoming, shutdown.clone().cancelled_owned());
    let drained = async {
        shutdown.cancelled().await;
        tokio::time::sleep(limits.drain).await;
    };
    tokio::select! {
        served = server => served.map_err(|source| Error::Serve { source }),
        never = standing.watch(|| store.ready()) => match never {},
        never = keep_chunks(&store) => match never {},
        () = drained => {
            let after = limits.drain;
            tracing::warn!("connections were still open {after:?} after the shutdown");
            Ok(())
        }
    }
}

/// Makes chunks of the readings that streams store; readings are not held up by it.
async fn keep_chunks(store: &Store) -> Infallible {
    let mut told = String::new();
    loop {
        let Err(error) = derived::keep_up(store).await;
        // It is said once, however long it lasts.
        let error = one_line(&error);
        if error != told {
            tracing::warn!(error, "chunks wait to be made");
            told = error;
        }
        tokio::time::sleep(CHUNKS_AGAIN_AFTER).await;
    }
}
