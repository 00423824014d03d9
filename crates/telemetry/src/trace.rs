//! Traces: the spans of one step, from the trainer that makes it to the commit that keeps it.
//!
//! Spans of steps have a target of their own at the level TRACE: where nothing is exported, making
//! one is the load of a flag.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use tokio::runtime::Runtime;
use tracing::{Level, Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::registry::LookupSpan;

use crate::{Error, one_line};

/// The target of the spans that follow steps.
pub const STEP: &str = "imprint::step";

/// What is not exported by then, when the process ends, is lost; readings never are.
const FLUSH_WITHIN: Duration = Duration::from_secs(2);

/// The header of the W3C recommendation "Trace Context".
const TRACEPARENT: &str = "traceparent";

/// A span of a step: `step_span!(parent: …, "name", field = value, …)`.
///
/// It is disabled where nothing is exported, or where its parent is.
#[macro_export]
macro_rules! step_span {
    (parent: $parent:expr, $($rest:tt)*) => {
        match $parent {
            parent if parent.is_disabled() => $crate::tracing::Span::none(),
            parent => $crate::tracing::trace_span!(target: $crate::STEP, parent: parent, $($rest)*),
        }
    };
    ($($rest:tt)*) => {
        $crate::tracing::trace_span!(target: $crate::STEP, parent: None, $($rest)*)
    };
}

/// Which steps of a run are traced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sampling(Option<NonZeroU32>);

impl Sampling {
    pub(crate) fn every(n_steps: NonZeroU32) -> Self {
        Self(Some(n_steps))
    }

    /// Whether a step is traced: every n-th is, or none where nothing is exported.
    pub fn takes(self, step: u32) -> bool {
        self.0.is_some_and(|n| step.is_multiple_of(n.get()))
    }
}

/// Where a span stands in its trace, as the next process is told; empty for one that is disabled.
pub fn traceparent(span: &Span) -> String {
    if span.is_disabled() {
        return String::new();
    }
    let mut headers = HashMap::new();
    TraceContextPropagator::new().inject_context(&span.context(), &mut headers);
    headers.remove(TRACEPARENT).unwrap_or_default()
}

/// A span that goes on from where another process said that its own stands.
///
/// Disabled, and never made, where that one is not traced or said what cannot be read.
pub fn follow(parent: &str, make: impl FnOnce() -> Span) -> Span {
    if parent.is_empty() {
        return Span::none();
    }
    let headers = HashMap::from([(TRACEPARENT.to_owned(), parent.to_owned())]);
    let context = TraceContextPropagator::new().extract(&headers);
    if !opentelemetry::trace::TraceContextExt::has_active_span(&context) {
        return Span::none();
    }
    let span = make();
    // It fails where nothing is exported: then there is no span.
    let _ = span.set_parent(context);
    span
}

/// Sends the spans of steps to a collector, until it is dropped.
#[derive(Debug)]
pub(crate) struct Export {
    provider: SdkTracerProvider,
    /// Its own, so that it needs none of the program's and outlives them.
    runtime: Option<Runtime>,
}

impl Export {
    /// # Errors
    /// When the endpoint cannot be read; a collector that is not there is waited for.
    pub(crate) fn start(service: &'static str, endpoint: &str) -> Result<Self, Error> {
        let failed = |problem: String| Error::Endpoint {
            endpoint: endpoint.to_owned(),
            problem,
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("otlp")
            .enable_all()
            .build()
            .map_err(|e| failed(e.to_string()))?;
        let in_runtime = runtime.enter();
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .build()
            .map_err(|e| failed(one_line(&e)))?;
        drop(in_runtime);
        let exporter = Said {
            exporter,
            endpoint: endpoint.to_owned(),
            fails: AtomicBool::new(false),
        };
        let mut resource = Resource::builder();
        if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
            resource = resource.with_service_name(service);
        }
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource.build())
            .build();
        Ok(Self {
            provider,
            runtime: Some(runtime),
        })
    }

    pub(crate) fn layer<S>(&self) -> Box<dyn Layer<S> + Send + Sync>
    where
        S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    {
        tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer("imprint"))
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_filter(Targets::new().with_target(STEP, Level::TRACE))
            .boxed()
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        // What it cannot send any more was said when it failed.
        let _ = self.provider.shutdown_with_timeout(FLUSH_WITHIN);
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Says once when spans cannot be sent, and once when they can again.
#[derive(Debug)]
struct Said<E> {
    exporter: E,
    endpoint: String,
    fails: AtomicBool,
}

impl<E: SpanExporter> SpanExporter for Said<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let sent = self.exporter.export(batch).await;
        let endpoint = &self.endpoint;
        match (&sent, self.fails.swap(sent.is_err(), Ordering::Relaxed)) {
            (Err(e), false) => {
                tracing::warn!(
                    "spans are lost, {endpoint} does not take them: {}",
                    one_line(e)
                );
            }
            (Ok(()), true) => tracing::info!("{endpoint} takes spans again"),
            _ => {}
        }
        sent
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests;
