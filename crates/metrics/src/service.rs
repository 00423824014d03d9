//! The calls of `imprint.v1.Metrics`.

use std::error::Error as _;
use std::future::pending;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use imprint_access::Caller;
use imprint_core::{StepReadings, UpdateStats};
use imprint_proto::pb::ingest_request::Message as Request;
use imprint_proto::pb::ingest_response::Message as Response;
use imprint_proto::status::{invalid, unavailable, unreadable};
use imprint_proto::{check_text, pb};
use imprint_store::Store;
use imprint_store::ingest::{Appended, Cursors, Message, Writer};
use imprint_telemetry::{follow, one_line, step_span};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};
use tracing::{Instrument as _, Span};

use crate::series::{Pending, Series};
use crate::{Limits, queries, status};

/// Answers that wait for a slow client; then its messages wait too.
const MAX_QUEUED_ANSWERS: usize = 4;

/// A transaction takes milliseconds; one that takes this long will not end well.
const COMMIT_LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct Metrics {
    store: Store,
    series: Series,
    limits: Limits,
    shutdown: CancellationToken,
}

impl Metrics {
    pub(crate) fn new(
        store: Store,
        series: Series,
        limits: Limits,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            store,
            series,
            limits,
            shutdown,
        }
    }
}

#[tonic::async_trait]
impl pb::metrics_server::Metrics for Metrics {
    type IngestStream = ReceiverStream<Result<pb::IngestResponse, Status>>;

    async fn ingest(
        &self,
        request: tonic::Request<Streaming<pb::IngestRequest>>,
    ) -> Result<tonic::Response<Self::IngestStream>, Status> {
        let caller = Caller::of(&request)?;
        let (answers, answered) = mpsc::channel(MAX_QUEUED_ANSWERS);
        let stream = Stream {
            caller,
            until: None,
            messages: request.into_inner(),
            answers,
            store: self.store.clone(),
            series: self.series.clone(),
            limits: self.limits,
            shutdown: self.shutdown.clone(),
        };
        // Not within this call: the client gets its headers before it sends the first message.
        tokio::spawn(stream.run());
        Ok(tonic::Response::new(ReceiverStream::new(answered)))
    }

    async fn verify_run(
        &self,
        request: tonic::Request<pb::VerifyRunRequest>,
    ) -> Result<tonic::Response<pb::VerifyRunResponse>, Status> {
        let pb::VerifyRunRequest { run } = request.into_inner();
        check_text("run", &run)?;
        let v = imprint_store::verify::verify(&self.store, &run)
            .await
            .map_err(|e| status::from_store(&e))?;
        Ok(tonic::Response::new(pb::VerifyRunResponse {
            run_id: v.run_id,
            run: v.run,
            state: v.state,
            n_probes: v.n_probes,
            readings_expected: v.readings_expected,
            readings_stored: v.readings_stored,
            readings_missing: v.readings_missing,
            readings_damaged: v.readings_damaged,
            updates_expected: v.updates_expected,
            updates_stored: v.updates_stored,
            updates_missing: v.updates_missing,
            readings_superseded: v.readings_superseded,
            attempts: v.attempts,
        }))
    }

    async fn list_runs(
        &self,
        request: tonic::Request<pb::ListRunsRequest>,
    ) -> Result<tonic::Response<pb::ListRunsResponse>, Status> {
        let listed = queries::list_runs(&self.store, request.into_inner()).await?;
        Ok(tonic::Response::new(listed))
    }

    async fn list_probes(
        &self,
        request: tonic::Request<pb::ListProbesRequest>,
    ) -> Result<tonic::Response<pb::ListProbesResponse>, Status> {
        let listed = queries::list_probes(&self.store, request.into_inner()).await?;
        Ok(tonic::Response::new(listed))
    }

    async fn list_readings(
        &self,
        request: tonic::Request<pb::ListReadingsRequest>,
    ) -> Result<tonic::Response<pb::ListReadingsResponse>, Status> {
        let listed = queries::list_readings(&self.store, request.into_inner()).await?;
        Ok(tonic::Response::new(listed))
    }

    async fn list_curve_points(
        &self,
        request: tonic::Request<pb::ListCurvePointsRequest>,
    ) -> Result<tonic::Response<pb::ListCurvePointsResponse>, Status> {
        let listed = queries::list_curve_points(&self.store, request.into_inner()).await?;
        Ok(tonic::Response::new(listed))
    }

    async fn list_mean_points(
        &self,
        request: tonic::Request<pb::ListMeanPointsRequest>,
    ) -> Result<tonic::Response<pb::ListMeanPointsResponse>, Status> {
        let listed = queries::list_mean_points(&self.store, request.into_inner()).await?;
        Ok(tonic::Response::new(listed))
    }

    async fn list_updates(
        &self,
        request: tonic::Request<pb::ListUpdatesRequest>,
    ) -> Result<tonic::Response<pb::ListUpdatesResponse>, Status> {
        let listed = queries::list_updates(&self.store, request.into_inner()).await?;
        Ok(tonic::Response::new(listed))
    }
}

/// One trainer's stream.
struct Stream {
    caller: Caller,
    /// When the caller's token ends, if it does.
    until: Option<Instant>,
    messages: Streaming<pb::IngestRequest>,
    answers: mpsc::Sender<Result<pb::IngestResponse, Status>>,
    store: Store,
    series: Series,
    limits: Limits,
    shutdown: CancellationToken,
}

/// What was queued when the last commit ended.
struct Batch {
    messages: Vec<Message>,
    /// Kept until they are answered for.
    pending: Pending,
    /// Of the traced ones among them: from receipt until they are answered for.
    spans: Vec<Span>,
    /// How the stream ends after them, if it does.
    end: Option<Result<(), Status>>,
}

impl Batch {
    /// Whether it holds so many steps: of each a reading and an update.
    fn holds(&self, n_steps: usize) -> bool {
        self.messages.len() >= 2 * n_steps
    }
}

impl Stream {
    async fn run(mut self) {
        let _open = self.series.opened();
        if let Err(status) = self.take_in().await {
            self.series.refused(&status);
            // Where nobody listens any more, nobody needs to know.
            let _ = self.answers.send(Err(status)).await;
        }
    }

    /// Commits whatever is queued, acknowledges it, and so on until the trainer is done.
    ///
    /// Nothing is read while a commit is under way: the queue is the window of the HTTP/2 stream,
    /// and when that is full the trainer's messages wait in its spool.
    async fn take_in(&mut self) -> Result<(), Status> {
        let Some((writer, open, cursors)) = self.open().await? else {
            return Ok(());
        };
        let (run_id, attempt) = (open.run_id, open.attempt);
        let span = tracing::info_span!("stream", run_id, attempt);
        self.commit(writer, attempt, cursors).instrument(span).await
    }

    async fn commit(
        &mut self,
        mut writer: Writer,
        attempt: u32,
        mut cursors: Cursors,
    ) -> Result<(), Status> {
        loop {
            let batch = self.queued().await;
            if !batch.messages.is_empty() {
                let began = Instant::now();
                let n_messages = batch.messages.len();
                // A trace is whole by itself: each has the commit that it shares with others.
                let commits = batch.spans.iter();
                let commits: Vec<_> = commits
                    .map(|span| step_span!(parent: span, "commit", n_messages))
                    .collect();
                let appended = within_limit(writer.append(&batch.messages)).await?;
                drop(commits);
                self.series
                    .committed(began.elapsed(), &batch.messages, cursors, appended.cursors);
                cursors = appended.cursors;
                self.acknowledge(attempt, &appended).await;
                drop((batch.pending, batch.spans));
                if let Some(refusal) = appended.refused {
                    tracing::warn!(%refusal, "a trainer's message was refused");
                    return Err(status::from_refusal(&refusal));
                }
            }
            if let Some(end) = batch.end {
                return end;
            }
        }
    }

    async fn open(&mut self) -> Result<Option<(Writer, pb::Open, Cursors)>, Status> {
        let first = tokio::select! {
            message = self.messages.message() => message.map_err(no_message)?,
            () = self.shutdown.cancelled() => return Err(shutting_down()),
            () = tokio::time::sleep(self.limits.open_within) => {
                return Err(invalid("message", "`open` did not come in time"));
            }
        };
        let Some(first) = first else {
            return Ok(None);
        };
        let Some(Request::Open(open)) = first.message else {
            return Err(invalid("message", "the first one must be `open`"));
        };
        check_text("machine", &open.machine)?;
        let rest = self.caller.may_write(open.run_id, open.attempt)?;
        self.until = rest.and_then(|rest| Instant::now().checked_add(rest));
        let opened = Writer::open(
            &self.store,
            open.run_id,
            open.attempt,
            open.resume_step,
            &open.machine,
        );
        let (writer, cursors) = within_limit(opened).await?;
        tracing::info!(
            run_id = open.run_id,
            attempt = open.attempt,
            resume_step = open.resume_step,
            next_reading = cursors.next_reading,
            "a trainer opened its stream"
        );
        self.answer(Response::Opened(pb::Opened {
            next_reading: cursors.next_reading,
            next_update: cursors.next_update,
        }))
        .await;
        Ok(Some((writer, open, cursors)))
    }

    /// Waits for a message, then takes what else is there already.
    async fn queued(&mut self) -> Batch {
        let mut batch = Batch {
            messages: Vec::new(),
            pending: self.series.pending(),
            spans: Vec::new(),
            end: None,
        };
        let mut next = tokio::select! {
            biased;
            // Whoever floods the stream does not outlast its token.
            () = end_of(self.until) => Err(Caller::token_ended()),
            message = self.messages.message() => message,
            () = self.shutdown.cancelled() => Err(shutting_down()),
        };
        loop {
            match next {
                Ok(Some(message)) => {
                    batch.pending.received(&message);
                    batch.spans.extend(traced(&message));
                    match decode(message) {
                        Ok(message) => batch.messages.push(message),
                        Err(status) => batch.end = Some(Err(status)),
                    }
                }
                Ok(None) => batch.end = Some(Ok(())),
                Err(status) => batch.end = Some(Err(no_message(status))),
            }
            if batch.end.is_some() || batch.holds(self.limits.steps_per_commit.get().into()) {
                return batch;
            }
            next = match self.messages.message().now_or_never() {
                Some(queued) => queued,
                None => return batch,
            };
        }
    }

    async fn acknowledge(&self, attempt: u32, appended: &Appended) {
        self.answer(Response::Acknowledged(pb::Acknowledged {
            attempt,
            next_reading: appended.cursors.next_reading,
            next_update: appended.cursors.next_update,
        }))
        .await;
    }

    /// A client that is gone is noticed when its messages end.
    async fn answer(&self, message: Response) {
        let message = Some(message);
        let _ = self.answers.send(Ok(pb::IngestResponse { message })).await;
    }
}

/// The span of a message, where its sender traces it.
fn traced(request: &pb::IngestRequest) -> Option<Span> {
    let (what, step, trace) = match request.message.as_ref()? {
        Request::Reading(r) => ("reading", r.step, &r.traceparent),
        Request::Update(u) => ("update", u.step, &u.traceparent),
        Request::Open(_) => return None,
    };
    let span = follow(trace, || step_span!("ingest", what, step = i64::from(step)));
    (!span.is_disabled()).then_some(span)
}

fn decode(request: pb::IngestRequest) -> Result<Message, Status> {
    let decoded = match request.message {
        Some(Request::Reading(r)) => StepReadings::try_from(r).map(Message::Reading),
        Some(Request::Update(u)) => UpdateStats::try_from(u).map(Message::Update),
        Some(Request::Open(_)) => {
            return Err(invalid("message", "`open` comes once, as the first"));
        }
        None => return Err(invalid("message", "it is empty")),
    };
    Ok(decoded?)
}

async fn within_limit<T>(
    work: impl Future<Output = Result<T, imprint_store::Error>>,
) -> Result<T, Status> {
    match tokio::time::timeout(COMMIT_LIMIT, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => {
            if error.is_unavailable() {
                tracing::warn!(error = one_line(&error), "readings wait at a trainer");
            }
            Err(status::from_store(&error))
        }
        Err(_) => Err(unavailable(
            "DATABASE_UNAVAILABLE",
            "the database does not answer",
        )),
    }
}

/// Comes when a token ends.
async fn end_of(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until.into()).await,
        None => pending().await,
    }
}

/// Why no message could be received, in the terms of the protocol: OUT_OF_RANGE means a gap there,
/// and INTERNAL that we are at fault.
fn no_message(status: Status) -> Status {
    match status.code() {
        Code::OutOfRange => unreadable(&format!(
            "it is larger than {} bytes",
            imprint_proto::MAX_MESSAGE_BYTES
        )),
        // What has a source came from the connection.
        Code::Internal if status.source().is_none() => unreadable(status.message()),
        _ => status,
    }
}

fn shutting_down() -> Status {
    unavailable("SHUTTING_DOWN", "the service shuts down")
}
