//! A collector of traces, as OTLP has it.

use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// Listens on a loopback port and keeps every span that it is sent.
#[derive(Clone, Debug)]
pub struct Collector {
    endpoint: String,
    told: Arc<Mutex<Vec<ToldSpan>>>,
}

/// A span and who told of it.
#[derive(Clone, Debug)]
pub struct ToldSpan {
    pub service: String,
    pub span: Span,
}

impl ToldSpan {
    pub fn text(&self, key: &str) -> Option<&str> {
        text(&self.span.attributes, key)
    }

    pub fn integer(&self, key: &str) -> Option<i64> {
        match value(&self.span.attributes, key) {
            Some(Value::IntValue(integer)) => Some(*integer),
            _ => None,
        }
    }
}

fn value<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a Value> {
    let found = attributes.iter().find(|a| a.key == key)?;
    found.value.as_ref()?.value.as_ref()
}

fn text<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a str> {
    match value(attributes, key) {
        Some(Value::StringValue(text)) => Some(text),
        _ => None,
    }
}

impl Collector {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("listen on a free port");
        let address = listener.local_addr().expect("know the port");
        let collector = Self {
            endpoint: format!("http://{address}"),
            told: Arc::default(),
        };
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(TraceServiceServer::new(collector.clone()))
                .serve_with_incoming(TcpListenerStream::new(listener)),
        );
        collector
    }

    /// What `--otlp-endpoint` is told.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    pub fn told(&self) -> Vec<ToldSpan> {
        self.told.lock().expect("nobody panics with it").clone()
    }
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut told = self.told.lock().expect("nobody panics with it");
        for resource in request.into_inner().resource_spans {
            let attributes = resource.resource.map(|r| r.attributes).unwrap_or_default();
            let Some(service) = text(&attributes, "service.name") else {
                return Err(Status::invalid_argument("a service without a name"));
            };
            let spans = resource.scope_spans.into_iter().flat_map(|s| s.spans);
            told.extend(spans.map(|span| ToldSpan {
                service: service.to_owned(),
                span,
            }));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}
