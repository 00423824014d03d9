//! What `imprint up` and its trainers tell about themselves: traces that a collector gets, logs that
//! a program reads, the port that Prometheus scrapes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use imprint_e2e::experiment;
use imprint_testkit::{ChildGuard, bin, http_get, wait_until};
use imprint_world::{World, WorldConfig};
use nix::sys::signal::Signal;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use serde_json::Value as Json;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;

const PATIENCE: Duration = Duration::from_secs(120);

/// Keeps (trace, service/span) of what it is sent, and of the roots the step.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Told>>>);

struct Told {
    trace: Vec<u8>,
    span: String,
    step: Option<i64>,
}

fn value<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a Value> {
    let found = attributes.iter().find(|a| a.key == key)?;
    found.value.as_ref()?.value.as_ref()
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let mut told = self.0.lock().expect("nobody panics with it");
        for resource in request.into_inner().resource_spans {
            let attributes = resource.resource.map(|r| r.attributes).unwrap_or_default();
            let Some(Value::StringValue(service)) = value(&attributes, "service.name") else {
                return Err(tonic::Status::invalid_argument("a service without a name"));
            };
            for span in resource.scope_spans.into_iter().flat_map(|s| s.spans) {
                let step = match value(&span.attributes, "step") {
                    Some(Value::IntValue(step)) if span.parent_span_id.is_empty() => Some(*step),
                    _ => None,
                };
                told.push(Told {
                    trace: span.trace_id,
                    span: format!("{service}/{}", span.name),
                    step,
                });
            }
        }
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// The spans of each traced step.
    fn steps(&self) -> BTreeMap<i64, BTreeSet<String>> {
        let told = self.0.lock().expect("nobody panics with it");
        let roots = told.iter().filter_map(|t| Some((t.step?, &t.trace)));
        roots
            .map(|(step, trace)| {
                let spans = told.iter().filter(|t| t.trace == *trace);
                (step, spans.map(|t| t.span.clone()).collect())
            })
            .collect()
    }
}

/// The JSON objects of a log, a line each.
#[track_caller]
fn objects(log: &Path) -> Vec<Json> {
    let text = std::fs::read_to_string(log).expect("read a log");
    let parse = |line| match serde_json::from_str::<Json>(line) {
        Ok(object) if object.is_object() => object,
        _ => panic!("{}: `{line}` is no object", log.display()),
    };
    text.lines().map(parse).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_laboratory_tells_about_itself() {
    let collector = Collector::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(collector.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener)),
    );
    let dir = tempfile::Builder::new()
        .prefix("imprint-watched-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .tempdir()
        .expect("make a directory");
    World::generate(WorldConfig::ci())
        .and_then(|w| w.write(dir.path()))
        .expect("write a world");
    let toml = experiment(
        "seen",
        "scenarios = ['duplication']\nbatch_sizes = [8]",
        "name = 'scratch'\ninit = { hidden_size = 16, intermediate_size = 32, \
         num_hidden_layers = 1, num_attention_heads = 2 }",
        "[training]\nsteps = 12\n\
         learning_rate = { kind = 'constant', peak = 5e-3, warmup_steps = 5 }\n\
         [injection]\nstart = 2\nevery = 10\ncount = 1\nstagger = { groups = 5, every = 2 }",
    );
    std::fs::write(dir.path().join("seen.toml"), toml).expect("write");
    let imprint = || {
        let mut command = Command::new(bin("imprint"));
        command
            .current_dir(dir.path())
            .env_remove("DATABASE_URL")
            .env_remove("RUST_LOG")
            .env("IMPRINT_DATA_DIR", dir.path().join("data"));
        command
    };
    let (out, log) = (dir.path().join("up.out"), dir.path().join("up.log"));
    let file = |path: &Path| std::fs::File::create(path).expect("make a file");
    let mut up = ChildGuard::spawn(
        imprint()
            .args(["up", "--slots", "1", "--log-format", "json"])
            .args(["--otlp-endpoint", &endpoint, "--trace-every", "5"])
            .stdin(Stdio::null())
            .stdout(file(&out))
            .stderr(file(&log)),
    );
    wait_until(PATIENCE, "imprint up serves", || async {
        let listed = imprint().arg("list").output().expect("run imprint");
        listed.status.success()
    })
    .await;
    let submitted = imprint()
        .args(["submit", "seen.toml", "--wait"])
        .output()
        .expect("run imprint");
    let stderr = String::from_utf8_lossy(&submitted.stderr);
    assert!(submitted.status.success(), "{stderr}");

    let printed = std::fs::read_to_string(&out).expect("read what was printed");
    let port = printed.split("http://").nth(3).and_then(|rest| {
        let (address, _) = rest.split_once("/metrics")?;
        address.parse().ok()
    });
    let port = port.unwrap_or_else(|| panic!("no port is printed:\n{printed}"));
    let (status, health) = http_get(port, "/healthz").await.expect("ask for health");
    let healthy = "metrics: serving\norchestrator: serving\n";
    assert_eq!((status, health.as_str()), (200, healthy));
    for sample in [
        "imprint_ingest_readings_total 13",
        "imprint_ingest_updates_total 12",
        "imprint_attempts_begun_total 1",
        "imprint_runs{state=\"complete\"} 1",
    ] {
        wait_until(PATIENCE, sample, || async {
            let (_, text) = http_get(port, "/metrics").await.expect("scrape");
            text.lines().any(|line| line == sample)
        })
        .await;
    }

    up.signal(Signal::SIGTERM);
    wait_until(PATIENCE, "imprint up ends", || {
        let ended = up.child().try_wait().expect("look at imprint up");
        async move { ended.is_some() }
    })
    .await;

    // Everything that ends sends what it has.
    let steps = collector.steps();
    let of_all = [
        "imprint-trainer/step",
        "imprint-trainer/read",
        "imprint-trainer/append",
        "imprint-trainer/update",
        "imprint-trainer/deliver",
        "imprint/ingest",
        "imprint/commit",
    ];
    let of_all: BTreeSet<String> = of_all.iter().map(|&s| s.to_owned()).collect();
    let want: BTreeMap<_, _> = [0, 5, 10].map(|step| (step, of_all.clone())).into();
    assert_eq!(steps, want);

    objects(&log)
        .iter()
        // What a person at the terminal is told when it drains is no log.
        .for_each(|line| assert!(line["message"].is_string(), "{line}"));
    let run_log = dir.path().join("data/runs/1/logs/trainer-1.log");
    let lines = objects(&run_log);
    assert!(!lines.is_empty());
    for line in lines {
        let span = &line["spans"][0];
        assert_eq!(
            (&span["run_id"], &span["attempt"]),
            (&1.into(), &1.into()),
            "{line}"
        );
    }
}
