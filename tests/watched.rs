//! What `imprint up` and its trainers tell about themselves: traces that a collector gets, logs that
//! a program reads, the port that Prometheus scrapes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use imprint_e2e::{STOP_WITHIN, TINY, User, experiment, training};
use imprint_testkit::{Collector, http_get, wait_until};
use nix::sys::signal::Signal;
use serde_json::Value as Json;

const PATIENCE: Duration = Duration::from_secs(120);

/// The spans of each traced step.
fn steps(collector: &Collector) -> BTreeMap<i64, BTreeSet<String>> {
    let told = collector.told();
    let roots = told.iter().filter(|t| t.span.parent_span_id.is_empty());
    roots
        .filter_map(|root| {
            let of_trace = told
                .iter()
                .filter(|t| t.span.trace_id == root.span.trace_id);
            let names = of_trace.map(|t| format!("{}/{}", t.service, t.span.name));
            Some((root.integer("step")?, names.collect()))
        })
        .collect()
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
    let collector = Collector::start().await;
    let user = User::new();
    let toml = experiment(
        "seen",
        "scenarios = ['duplication']\nbatch_sizes = [8]",
        TINY,
        &(training(12)
            + "[injection]\nstart = 2\nevery = 10\ncount = 1\nstagger = { groups = 5, every = 2 }"),
    );
    std::fs::write(user.dir().join("seen.toml"), toml).expect("write");
    let mut up = user
        .up(&[
            "--slots",
            "1",
            "--log-format",
            "json",
            "--otlp-endpoint",
            collector.endpoint(),
            "--trace-every",
            "5",
        ])
        .await;
    user.prints(&["submit", "seen.toml", "--wait"]);

    let printed =
        std::fs::read_to_string(user.dir().join("up.out")).expect("read what was printed");
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
    assert!(up.wait(STOP_WITHIN).is_some(), "imprint up does not end");

    // Everything that ends sends what it has.
    let steps = steps(&collector);
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

    objects(&user.dir().join("up.log"))
        .iter()
        // What a person at the terminal is told when it drains is no log.
        .for_each(|line| assert!(line["message"].is_string(), "{line}"));
    let run_log = user.dir().join("data/runs/1/logs/job-1.log");
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
