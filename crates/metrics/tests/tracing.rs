//! The spans of a step as a collector gets them, over a real stream into a real Postgres.
//!
//! A program of its own: a process tells about itself once.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Parser;
use imprint_proto::pb;
use imprint_spool::{Cursors, Delivery, Record, SpoolWriter};
use imprint_telemetry::{Options, Vitals, step_span, traceparent};
use imprint_testkit::{Collector, SeedRun, TestDb, ToldSpan, begin_attempt, seed_run};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Parser)]
struct Program {
    #[command(flatten)]
    options: Options,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_span_of_a_step_from_the_trainer_to_the_commit_is_in_one_trace() {
    let collector = Collector::start().await;
    let arguments = [
        "test",
        "--otlp-endpoint",
        collector.endpoint(),
        "--trace-every",
        "2",
    ];
    let options = Program::parse_from(arguments).options;
    let telling = options.start("test", "warn").unwrap();

    let db = TestDb::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let metrics_url = format!("http://{}", listener.local_addr().unwrap());
    let (store, stop) = (db.store.clone(), CancellationToken::new());
    let service = tokio::spawn({
        let stop = stop.clone();
        async move {
            imprint_metrics::serve(
                listener,
                store,
                &Vitals::default(),
                imprint_metrics::Limits::default(),
                stop,
            )
            .await
        }
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

    let told = collector.told();
    let mut traces = BTreeMap::<_, Vec<&ToldSpan>>::new();
    for told in &told {
        traces.entry(&told.span.trace_id).or_default().push(told);
    }
    let mut shapes: Vec<_> = traces.values().map(|told| shape(told)).collect();
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
        told.iter()
            .map(|t| &t.span)
            .all(|s| s.end_time_unix_nano >= s.start_time_unix_nano)
    );
}

/// The path of each span of a trace, from its root.
fn shape(trace: &[&ToldSpan]) -> Vec<String> {
    let name = |told: &ToldSpan| match told.text("what") {
        Some(what) => format!("{} {what}", told.span.name),
        None => told.span.name.clone(),
    };
    let path = |told: &ToldSpan| {
        let mut path = name(told);
        let mut at = told;
        while let Some(parent) = (trace.iter()).find(|t| t.span.span_id == at.span.parent_span_id) {
            path = format!("{} / {path}", name(parent));
            at = parent;
        }
        path
    };
    let mut shape: Vec<String> = trace.iter().map(|told| path(told)).collect();
    shape.sort();
    shape
}
