use std::io::Write;
use std::sync::{Arc, Mutex};

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

#[test]
fn a_filter_that_cannot_be_read_is_named() {
    let options = Options {
        log: Some("imprint=loud".to_owned()),
        ..Options::default()
    };
    let error = options.start("info").unwrap_err().to_string();
    assert!(error.starts_with("--log imprint=loud: "), "{error}");
}

#[test]
fn children_are_told_what_was_asked_for() {
    let options = Options {
        log: Some("debug".to_owned()),
        log_format: LogFormat::Json,
    };
    assert_eq!(
        options.environment(),
        [
            ("IMPRINT_LOG_FORMAT", "json".to_owned()),
            ("RUST_LOG", "debug".to_owned())
        ]
    );
    assert_eq!(
        Options::default().environment(),
        [("IMPRINT_LOG_FORMAT", "text".to_owned())]
    );
}
