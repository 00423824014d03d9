use opentelemetry_sdk::trace::InMemorySpanExporter;
use tracing_subscriber::layer::SubscriberExt as _;

use super::*;

/// The spans that are exported of what `work` does.
fn exported(work: impl FnOnce()) -> Vec<SpanData> {
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder()
        .with_simple_exporter(exporter.clone())
        .build();
    let export = Export {
        provider,
        runtime: None,
    };
    let subscriber = tracing_subscriber::registry().with(export.layer());
    tracing::subscriber::with_default(subscriber, work);
    exporter.get_finished_spans().unwrap()
}

#[test]
fn a_step_is_one_trace_across_processes_and_apart_from_what_encloses_it() {
    let mut told = String::new();
    let spans = exported(|| {
        let attempt = tracing::info_span!("attempt", run_id = 1);
        let _in_it = attempt.enter();
        let step = step_span!("step", step = 7);
        step_span!(parent: &step, "read").in_scope(|| tracing::info!("not the trace's business"));
        told = traceparent(&step);
        let deliver = follow(&told, || step_span!("deliver"));
        let ingest = follow(&traceparent(&deliver), || step_span!("ingest"));
        drop(step_span!(parent: &ingest, "commit"));
    });
    let names: Vec<_> = spans.iter().map(|s| s.name.as_ref()).collect();
    assert_eq!(names, ["read", "commit", "ingest", "deliver", "step"]);
    let [read, commit, ingest, deliver, step] = &spans[..] else {
        unreachable!()
    };
    for (child, parent) in [
        (read, step),
        (deliver, step),
        (ingest, deliver),
        (commit, ingest),
    ] {
        assert_eq!(child.parent_span_id, parent.span_context.span_id());
        assert_eq!(child.span_context.trace_id(), step.span_context.trace_id());
    }
    assert_eq!(step.parent_span_id, opentelemetry::SpanId::INVALID);
    assert!(read.events.is_empty());
    let (trace, span) = (step.span_context.trace_id(), step.span_context.span_id());
    assert_eq!(told, format!("00-{trace}-{span}-01"));
}

#[test]
fn what_is_not_traced_makes_no_spans() {
    let spans = exported(|| {
        let never = || -> Span { panic!("there is nothing to follow") };
        for parent in [
            "",
            "garbage",
            "00-00000000000000000000000000000000-0000000000000000-01",
            &"0".repeat(100_000),
        ] {
            let span = follow(parent, never);
            assert_eq!(traceparent(&span), "");
            assert!(step_span!(parent: &span, "commit").is_disabled());
        }
        // The one who asks has decided: it is not traced.
        let unsampled = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
        drop(follow(unsampled, || step_span!("ingest")));
    });
    assert!(spans.is_empty(), "{spans:?}");
    // Without an exporter there is not even a span.
    let subscriber = tracing_subscriber::registry().with(
        tracing_subscriber::fmt::layer().with_filter(tracing_subscriber::EnvFilter::new("debug")),
    );
    tracing::subscriber::with_default(subscriber, || {
        assert!(step_span!("step").is_disabled());
    });
}

#[test]
fn every_nth_step_is_traced() {
    let sampling = Sampling::every(NonZeroU32::new(100).unwrap());
    let taken: Vec<_> = (0..=200).filter(|&s| sampling.takes(s)).collect();
    assert_eq!(taken, [0, 100, 200]);
    assert!(!Sampling::default().takes(0));
}
