//! The spans of a step as a collector gets them, over a real stream into a real Postgres.
//!
//! A program of its own: a process tells about itself once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::Parser;
use imprint_proto::pb;
use imprint_spool::{Cursors, Delivery, Record, SpoolWriter};
use imprint_telemetry::{Options, Vitals, step_span, traceparent};
use imprint_testkit::{SeedRun, TestDb, begin_attempt, seed_run};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Parser)]
struct Program {
    #[command(flatten)]
    options: Options,
}

/// Keeps what it is sent.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let resources = request.into_inner().resource_spans.into_iter();
        let scopes = resources.flat_map(|r| r.scope_spans);
        self.0.lock().unwrap().extend(scopes.flat_map(|s| s.spans));
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_span_of_a_step_from_the_trainer_to_the_commit_is_in_one_trace() {
    let collector = Collector::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let serving = tonic::transport::Server::builder()
        .add_service(TraceServiceServer::new(collector.clone()))
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(serving);
    let arguments = ["test", "--otlp-endpoint", &endpoint, "--trace-every", "2"];
    let options = Program::parse_from(arguments).options;
    let telling = options.start("test", "warn").unwrap();

    let db = TestDb::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let metrics_url = format!("http://{}", listener.local_addr().unwrap());
    let (store, stop) = (db.store.clone(), CancellationToken::new());
    let service = tokio::spawn({
        let stop = stop.clone();
        async move { imprint_metrics::serve(listener, store, &Vitals::default(), stop).await }
    });
    let run = SeedRun {
        n_updates: 4,
        ..SeedRun::default()
    };
    let run_id = seed_run(&db.store, &run).await;
    begin_attempt(&db.store, run_id).await;

    // What a trainer does at each step.
    let dir = tempfile::tempdir().unwrap();
    let open = pb::Open {
        run_id,
        attempt: 1,
        ..pb::Open::default()
    };
    let mut spool = SpoolWriter::create(&dir.path().join("spool"), &open).unwrap();
    let values = bytes::Bytes::from(vec![0; 4 * run.n_probes() as usize]);
    for step in 0..=run.n_updates {
        let span = match telling.sampling().takes(step) {
            true => step_span!("step", run_id, attempt = 1, step),
            false => tracing::Span::none(),
        };
        let reading = pb::Reading {
            index: step,
            step,
            measured_by: 1,
            first_sum_nats: values.clone(),
            target_sum_nats: values.clone(),
            full_sum_nats: values.clone(),
            traceparent: traceparent(&span),
        };
        let update = pb::Update {
            step,
            measured_by: 1,
            traceparent: traceparent(&span),
            ..pb::Update::default()
        };
        spool.append(Record::Reading(reading)).unwrap();
        if step < run.n_updates {
            spool.append(Record::Update(update)).unwrap();
        }
    }
    spool.close();
    let delivery = Delivery {
        metrics: metrics_url.into(),
        open,
        spool: dir.path().join("spool"),
        extent: spool.extent(),
        durable: watch::Sender::new(Cursors::default()),
    };
    tokio::time::timeout(PATIENCE, delivery.run())
        .await
        .expect("all is delivered")
        .unwrap();
    stop.cancel();
    service.await.unwrap().unwrap();
    // Sends what is left, so it waits.
    tokio::task::spawn_blocking(|| drop(telling)).await.unwrap();

    let spans = std::mem::take(&mut *collector.0.lock().unwrap());
    let mut traces = BTreeMap::<_, Vec<&Span>>::new();
    for span in &spans {
        traces.entry(&span.trace_id).or_default().push(span);
    }
    let mut shapes: Vec<_> = traces.values().map(|spans| shape(spans)).collect();
    shapes.sort();
    let message = |what| format!("step / deliver {what} / ingest {what} / commit");
    let mut whole = Vec::new();
    for what in ["reading", "update"] {
        let path = message(what);
        let ends = path.match_indices(" / ").map(|(at, _)| at).skip(1);
        whole.extend(ends.map(|at| path[..at].to_owned()));
        whole.push(path);
    }
    whole.push("step".to_owned());
    whole.sort();
    let last: Vec<_> = whole
        .iter()
        .filter(|path| !path.contains("update"))
        .cloned()
        .collect();
    // Steps 0 and 2; and the last, 4, after which there is no update.
    assert_eq!(shapes, [last, whole.clone(), whole]);
    assert!(
        spans
            .iter()
            .all(|s| s.end_time_unix_nano >= s.start_time_unix_nano)
    );
}

/// The path of each span of a trace, from its root.
fn shape(spans: &[&Span]) -> Vec<String> {
    let name = |span: &Span| {
        let what = span.attributes.iter().find(|a| a.key == "what");
        let what = what.and_then(|a| a.value.as_ref()?.value.clone());
        match what {
            Some(opentelemetry_proto::tonic::common::v1::any_value::Value::StringValue(what)) => {
                format!("{} {what}", span.name)
            }
            _ => span.name.clone(),
        }
    };
    let path = |span: &Span| {
        let mut path = name(span);
        let mut at = span;
        while let Some(parent) = spans.iter().find(|s| s.span_id == at.parent_span_id) {
            path = format!("{} / {path}", name(parent));
            at = parent;
        }
        path
    };
    let mut shape: Vec<String> = spans.iter().map(|s| path(s)).collect();
    shape.sort();
    shape
}
