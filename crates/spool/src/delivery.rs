//! Delivery: sends a spool to the metrics service and learns what is durable.

use std::collections::VecDeque;
use std::error::Error as _;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use imprint_proto::Target;
use imprint_proto::pb::ingest_request::Message;
use imprint_proto::pb::{self, ingest_response, metrics_client::MetricsClient};
use imprint_telemetry::{follow, one_line, step_span, traceparent};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use tracing::Span;

use crate::{Cursors, Extent, Record, SpoolReader};

/// Messages in flight to the service before the reader of the spool waits.
const IN_FLIGHT: usize = 16;
/// Pauses between attempts to reach the service grow from the first to the second.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// An answer that does not come by then counts as a lost connection.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Why delivery ended before everything was delivered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("a later attempt has taken over this run: {0}")]
    Stale(String),
    #[error("the metrics service refuses the readings: {0}")]
    Rejected(String),
    #[error("what answers at {url} is no metrics service")]
    Elsewhere { url: String },
    /// As long as nobody changes the address or the files.
    #[error(transparent)]
    Unusable(imprint_proto::Error),
    #[error(transparent)]
    Spool(#[from] crate::Error),
}

/// What is delivered where.
pub struct Delivery {
    /// The metrics service; its token may be renewed meanwhile.
    pub metrics: Target,
    /// Claims the stream: the spool's own header, or that of an attempt which delivers for it.
    pub open: pb::Open,
    pub spool: PathBuf,
    pub extent: watch::Receiver<Extent>,
    /// What is durable; everything below.
    pub durable: watch::Sender<Cursors>,
}

enum Interruption {
    /// Worth another connection.
    Lost(String),
    Final(Error),
}

impl From<Status> for Interruption {
    fn from(status: Status) -> Self {
        match status.code() {
            Code::Aborted => Self::Final(Error::Stale(status.message().to_owned())),
            Code::InvalidArgument
            | Code::NotFound
            | Code::OutOfRange
            | Code::PermissionDenied
            | Code::FailedPrecondition => Self::Final(Error::Rejected(status.message().to_owned())),
            // A broken connection says why only in its cause.
            _ => Self::Lost(match status.source() {
                Some(cause) => one_line(cause),
                None => status.message().to_owned(),
            }),
        }
    }
}

impl From<imprint_proto::Error> for Interruption {
    fn from(e: imprint_proto::Error) -> Self {
        match e {
            imprint_proto::Error::Unreachable { source, .. } => Self::Lost(one_line(&source)),
            other => Self::Final(Error::Unusable(other)),
        }
    }
}

impl From<crate::Error> for Interruption {
    fn from(e: crate::Error) -> Self {
        Self::Final(e.into())
    }
}

impl Delivery {
    /// Delivers until the spool is closed and everything in it is durable.
    ///
    /// # Errors
    /// When a later attempt has the run, or the service will never take these readings.
    pub async fn run(self) -> Result<(), Error> {
        let mut pause = RETRY.0;
        let mut told = false;
        loop {
            let before = *self.durable.borrow();
            match self.connection().await {
                Ok(()) => return Ok(()),
                Err(Interruption::Final(e)) => return Err(e),
                Err(Interruption::Lost(cause)) => {
                    if *self.durable.borrow() != before {
                        (pause, told) = (RETRY.0, false);
                    }
                    if !told {
                        tracing::warn!(
                            "cannot deliver readings to {}: {cause}; training goes on, they are \
                             spooled",
                            self.metrics.url
                        );
                        told = true;
                    }
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY.1);
        }
    }

    async fn connection(&self) -> Result<(), Interruption> {
        let channel = imprint_proto::connect("metrics", self.metrics.clone()).await?;
        let mut client =
            MetricsClient::new(channel).max_decoding_message_size(imprint_proto::MAX_MESSAGE_BYTES);
        let (to_service, requests) = mpsc::channel(IN_FLIGHT);
        let request = |message| pb::IngestRequest {
            message: Some(message),
        };
        let _ = to_service
            .send(request(Message::Open(self.open.clone())))
            .await;
        let answered = client.ingest(ReceiverStream::new(requests));
        let late = |_| Status::deadline_exceeded("the metrics service does not answer");
        let answered = tokio::time::timeout(ANSWER_WITHIN, answered)
            .await
            .map_err(late)?;
        let mut answers = match answered {
            Err(status) if status.code() == Code::Unimplemented => {
                let url = self.metrics.url.clone();
                return Err(Interruption::Final(Error::Elsewhere { url }));
            }
            answered => answered?.into_inner(),
        };
        let first = tokio::time::timeout(ANSWER_WITHIN, answers.message())
            .await
            .map_err(late)??;
        let Some(ingest_response::Message::Opened(opened)) = first.and_then(|r| r.message) else {
            return Err(Status::internal("the stream was not opened").into());
        };
        let start = Cursors {
            reading: opened.next_reading,
            update: opened.next_update,
        };
        self.durable.send_replace(start);

        let traced = Traced::default();
        let mut sending = pin!(self.send_from(start, &to_service, &traced));
        let mut acknowledged = start;
        let mut end: Option<Cursors> = None;
        loop {
            if end.is_some_and(|e| acknowledged.reach(e)) {
                return Ok(());
            }
            tokio::select! {
                sent = &mut sending, if end.is_none() => end = Some(sent?),
                answer = answers.message() => match answer?.and_then(|r| r.message) {
                    Some(ingest_response::Message::Acknowledged(a)) => {
                        acknowledged = Cursors { reading: a.next_reading, update: a.next_update };
                        self.durable.send_replace(acknowledged);
                        traced.acknowledged(acknowledged);
                    }
                    _ => return Err(Status::unavailable("the service ended the stream").into()),
                },
            }
        }
    }

    /// Sends what is at or above `start`, following the writer until it closes the spool; returns
    /// where the stream then ends.
    async fn send_from(
        &self,
        start: Cursors,
        to_service: &mpsc::Sender<pb::IngestRequest>,
        traced: &Traced,
    ) -> Result<Cursors, Interruption> {
        let mut reader = SpoolReader::open(&self.spool)?;
        let mut extent = self.extent.clone();
        let mut next = start;
        loop {
            let written = *extent.borrow_and_update();
            while let Some(record) = reader.next(written)? {
                let message = match record {
                    Record::Reading(mut r) if r.index >= next.reading => {
                        next.reading = r.index + 1;
                        let until = Cursors {
                            reading: next.reading,
                            ..Cursors::default()
                        };
                        traced.sent("reading", r.step, until, &mut r.traceparent);
                        Message::Reading(r)
                    }
                    Record::Update(mut u) if u.step >= next.update => {
                        next.update = u.step + 1;
                        let until = Cursors {
                            update: next.update,
                            ..Cursors::default()
                        };
                        traced.sent("update", u.step, until, &mut u.traceparent);
                        Message::Update(u)
                    }
                    _ => continue,
                };
                let request = pb::IngestRequest {
                    message: Some(message),
                };
                if to_service.send(request).await.is_err() {
                    // The stream's end says why; the receiving side reports it.
                    return std::future::pending().await;
                }
            }
            if written.closed || extent.changed().await.is_err() {
                return Ok(next);
            }
        }
    }
}

/// The spans of traced messages of one connection, each from when it is read from the spool until
/// it is acknowledged.
#[derive(Default)]
struct Traced(Mutex<VecDeque<(Cursors, Span)>>);

impl Traced {
    /// Begins the span of a message, if it is traced, which goes on under it.
    fn sent(&self, what: &'static str, step: u32, until: Cursors, trace: &mut String) {
        let span = follow(trace, || {
            step_span!(
                "deliver",
                what,
                step = i64::from(step),
                acknowledged = tracing::field::Empty
            )
        });
        if !span.is_disabled() {
            *trace = traceparent(&span);
            self.spans().push_back((until, span));
        }
    }

    fn acknowledged(&self, below: Cursors) {
        self.spans().retain(|(until, span)| {
            let is_acknowledged = below.reach(*until);
            if is_acknowledged {
                span.record("acknowledged", true);
            }
            !is_acknowledged
        });
    }

    fn spans(&self) -> MutexGuard<'_, VecDeque<(Cursors, Span)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
