//! `imprint bench`, small: the load is a real one, and every value comes back.

use std::process::Command;
use std::time::Duration;

use imprint_testkit::output;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(300);

fn bench(arguments: &[&str]) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_imprint"));
    command
        .args(["bench", "ingest", "--output", "json"])
        .args(arguments)
        .env_remove("DATABASE_URL")
        .env_remove("IMPRINT_METRICS");
    let output = output(&mut command, LIMIT);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let measured: Value = serde_json::from_slice(&output.stdout).expect("an answer in JSON");
    measured[0].clone()
}

#[test]
fn flat_out_and_beside_the_limit() {
    let load = "--trainers 3 --probes 20 --steps 70 --rounds 2 --steps-per-commit 8";
    let measured = bench(&load.split(' ').collect::<Vec<_>>());
    assert_eq!(measured["values_right"], 3 * 20 * 3 * 70 * 2);
    assert_eq!(measured["values_wrong"], 0);
    assert!(measured["limit_ratio_median"].as_f64().unwrap() > 0.0);
    assert!(measured["steps_per_commit"].as_f64().unwrap() >= 1.0);
    assert!(measured["bytes_per_value"].as_f64().unwrap() > 4.0);
}

#[test]
fn at_a_pace() {
    let load = "--trainers 2 --probes 20 --steps 3 --rounds 1 --every 0.2";
    let measured = bench(&load.split(' ').collect::<Vec<_>>());
    // The second trainer begins one reading later, so that not all reach a chunk's end together.
    assert_eq!(measured["values_right"], 20 * 3 * (3 + 4));
    assert_eq!(measured["values_wrong"], 0);
    assert!(measured["limit_ratio_median"].is_null());
}

#[test]
fn runs_wait_and_trainers_are_heard() {
    let load = "bench schedule --runs 300 --trainers 40 --seconds 5 --output json";
    let mut command = Command::new(env!("CARGO_BIN_EXE_imprint"));
    command.args(load.split(' ')).env_remove("DATABASE_URL");
    let output = output(&mut command, LIMIT);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let measured: Value = serde_json::from_slice(&output.stdout).expect("an answer in JSON");
    for (quantity, wanted) in [
        ("runs_stored", 300),
        ("runs_counted", 300),
        ("runs_on_first_page", 300),
        ("heartbeats_lost", 0),
        ("trainers_shown", 40),
    ] {
        assert_eq!(measured[quantity], wanted, "{quantity} of {measured}");
    }
    // One every two seconds.
    assert!(
        measured["heartbeats"].as_u64() >= Some(2 * 40),
        "{measured}"
    );
    for quantity in ["validated_seconds", "stored_seconds", "heartbeat_p99_ms"] {
        assert!(
            measured[quantity].as_f64() > Some(0.0),
            "{quantity} of {measured}"
        );
    }
    for who in ["waiting", "training"] {
        let looking = &measured[who];
        assert!(looking["looks"].as_u64() > Some(1), "{looking}");
        assert!(looking["plan_ms"].as_f64() > Some(0.0), "{looking}");
    }
}
