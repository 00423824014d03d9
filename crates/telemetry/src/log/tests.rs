use std::io::Write;
use std::sync::{Arc, Mutex};

use clap::Parser;
use serde_json::Value;
use tracing_subscriber::layer::SubscriberExt as _;

use super::*;

#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What is logged by `say` in a format.
fn logged(format: LogFormat, say: impl FnOnce()) -> String {
    let written = Written::default();
    let to = {
        let written = written.clone();
        move || written.clone()
    };
    let subscriber = tracing_subscriber::registry().with(lines(format, to, false));
    tracing::subscriber::with_default(subscriber, say);
    let bytes = written.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

fn an_attempt_says_things() {
    let attempt = tracing::info_span!("attempt", run_id = 3, attempt = 2);
    let _in_it = attempt.enter();
    tracing::info!(step = 7, "saved");
    tracing::warn!(
        error = "open \"a\": no such file\nor directory",
        "ℓ = −1 nat"
    );
    tracing::info_span!("inner").in_scope(|| tracing::info!("deep"));
}

#[test]
fn every_line_of_json_is_an_object_with_the_fields_of_its_spans() {
    let lines = logged(LogFormat::Json, an_attempt_says_things);
    let lines: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 3);
    for line in &lines {
        assert_eq!(line["spans"][0]["name"], "attempt");
        assert_eq!(line["spans"][0]["run_id"], 3);
        assert_eq!(line["spans"][0]["attempt"], 2);
        assert!(line["timestamp"].is_string() && line["target"].is_string());
    }
    assert_eq!(lines[0]["message"], "saved");
    assert_eq!(lines[0]["step"], 7);
    assert_eq!(lines[1]["level"], "WARN");
    assert_eq!(lines[1]["error"], "open \"a\": no such file\nor directory");
    assert_eq!(lines[1]["message"], "ℓ = −1 nat");
    assert_eq!(lines[2]["spans"][1]["name"], "inner");
}

#[test]
fn a_line_of_text_says_the_same() {
    let text = logged(LogFormat::Text, an_attempt_says_things);
    let first = text.lines().next().unwrap();
    assert!(
        first.ends_with("INFO attempt{run_id=3 attempt=2}: saved step=7"),
        "{first}"
    );
}

#[derive(Parser)]
struct Program {
    #[command(flatten)]
    options: Options,
}

/// The options of a program that is called with these arguments.
fn called_with(arguments: &[&str]) -> Options {
    let line = ["program"].iter().chain(arguments);
    Program::try_parse_from(line).unwrap().options
}

#[test]
fn what_cannot_be_read_is_named() {
    let refused = |arguments: &[&str]| {
        let started = called_with(arguments).start("program", "info");
        started.unwrap_err().to_string()
    };
    let filter = refused(&["--log", "imprint=loud"]);
    assert!(filter.starts_with("--log imprint=loud: "), "{filter}");
    let endpoint = refused(&["--otlp-endpoint", "not an address"]);
    let named = "--otlp-endpoint not an address: ";
    assert!(endpoint.starts_with(named), "{endpoint}");
    assert!(Program::try_parse_from(["program", "--trace-every", "0"]).is_err());
}

/// A trainer that an orchestrator starts tells about itself as the orchestrator does.
#[test]
fn children_are_told_what_was_asked_for() {
    let told = |arguments: &[&str]| called_with(arguments).environment();
    let format = |f: &str| ("IMPRINT_LOG_FORMAT", f.to_owned());
    let every = |n: &str| ("IMPRINT_TRACE_EVERY", n.to_owned());
    assert_eq!(told(&[]), [format("text"), every("100")]);
    let all = [
        "--log=debug",
        "--log-format=json",
        "--otlp-endpoint=http://127.0.0.1:4317",
        "--trace-every=7",
    ];
    assert_eq!(
        told(&all),
        [
            format("json"),
            ("RUST_LOG", "debug".to_owned()),
            (
                "OTEL_EXPORTER_OTLP_ENDPOINT",
                "http://127.0.0.1:4317".to_owned()
            ),
            every("7")
        ]
    );
}
