//! What the program says and exits with when nothing runs.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use expect_test::{Expect, expect};
use imprint_testkit::output;

const LIMIT: Duration = Duration::from_secs(120);

/// A port that nothing listens at: reserved, and refused at once on the loopback interface.
const NOBODY: &str = "http://127.0.0.1:1";

#[track_caller]
fn imprint(data_dir: &Path, arguments: &[&str]) -> Output {
    output(
        Command::new(env!("CARGO_BIN_EXE_imprint"))
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("IMPRINT_DATA_DIR", data_dir)
            .env("IMPRINT_ORCHESTRATOR", NOBODY)
            .env("IMPRINT_METRICS", NOBODY),
        LIMIT,
    )
}

#[track_caller]
fn fails(arguments: &[&str], code: i32, want: &Expect) {
    let data_dir = tempfile::tempdir().unwrap();
    let output = imprint(data_dir.path(), arguments);
    let stderr = String::from_utf8(output.stderr).unwrap();
    let place = data_dir.path().display().to_string();
    want.assert_eq(&stderr.replace(&place, "<data>"));
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(output.stdout.is_empty());
}

#[test]
fn a_service_that_is_not_there_is_exit_code_3() {
    let experiment = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../experiments/minimal.toml"
    );
    fails(
        &["list"],
        3,
        &expect![[r#"
        imprint: no orchestrator service answers at http://127.0.0.1:1; start one with `imprint up`
    "#]],
    );
    fails(
        &["submit", experiment, "--dry-run"],
        3,
        &expect![[r#"
        imprint: no orchestrator service answers at http://127.0.0.1:1; start one with `imprint up`
    "#]],
    );
    fails(
        &["verify", "mine/late-once-b4-s0"],
        3,
        &expect![[r#"
        imprint: no metrics service answers at http://127.0.0.1:1; start one with `imprint up`
    "#]],
    );
}

#[test]
fn a_database_that_is_not_there_is_exit_code_3() {
    fails(
        &["results", "mine"],
        3,
        &expect![[r#"
        imprint: there is no private database in <data>/postgres yet; `imprint up` makes one
    "#]],
    );
    fails(
        &["sql", "--print"],
        3,
        &expect![[r#"
        imprint: there is no private database in <data>/postgres yet; `imprint up` makes one
    "#]],
    );
}

#[test]
fn bad_input_is_exit_code_2() {
    fails(
        &["submit", "no-such-file.toml"],
        2,
        &expect![[r#"
        imprint: no-such-file.toml: No such file or directory (os error 2)
    "#]],
    );
    fails(
        &["up", "--trainer", "/no/such/trainer"],
        2,
        &expect![[r#"
        imprint: --trainer /no/such/trainer: no such file
    "#]],
    );
    fails(
        &["--orchestrator", "not an address", "list"],
        2,
        &expect![[r#"
        imprint: `not an address` is not an address of a service (want something like http://127.0.0.1:7431): invalid URI: invalid uri character
    "#]],
    );
    fails(
        &["status", "mine/late-once-b4-s0", "--state", "failed"],
        2,
        &expect![[r#"
        imprint: --state chooses among the runs of an experiment, and mine/late-once-b4-s0 is one run; leave it out
    "#]],
    );
    fails(
        &["--log", "=", "list"],
        2,
        &expect![[r#"
        imprint: --log =: invalid filter directive
    "#]],
    );
}

#[test]
fn doctor_says_what_there_is() {
    let data_dir = tempfile::tempdir().unwrap();
    let output = imprint(data_dir.path(), &["doctor", "--output", "json"]);
    let checks: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let subjects: Vec<&str> = checks
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["subject"].as_str().unwrap())
        .collect();
    assert_eq!(
        subjects,
        [
            "database",
            "psql",
            "trainer",
            "processor",
            "GPU",
            "disk",
            "orchestrator",
            "metrics"
        ]
    );
    let missing = checks
        .as_array()
        .unwrap()
        .iter()
        .any(|c| c["verdict"] == "missing");
    assert_eq!(output.status.success(), !missing);
}
