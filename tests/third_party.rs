//! A client that knows nothing of imprint: Python's `grpcio`, taught by reflection.

use std::path::{Path, PathBuf};
use std::process::Command;

use imprint_e2e::{Lab, TINY, experiment, succeeds};

/// Pinned, so that a test fails for our reasons only.
const PACKAGES: [&str; 2] = ["grpcio==1.74.0", "grpcio-reflection==1.74.0"];

/// A Python with `grpcio`, made once below the target directory.
fn python() -> PathBuf {
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("grpc-venv");
    let python = venv.join("bin/python");
    let ready = venv.join("ready");
    if !ready.exists() {
        succeeds(
            Command::new("python3")
                .args(["-m", "venv", "--clear"])
                .arg(&venv),
        );
        let pip = [
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ];
        succeeds(Command::new(&python).args(pip).args(PACKAGES));
        std::fs::write(&ready, PACKAGES.join("\n")).expect("mark the environment ready");
    }
    python
}

#[tokio::test(flavor = "multi_thread")]
async fn a_python_client_submits_and_watches_by_reflection() {
    let python = python();
    let lab = Lab::start().await;
    let file = lab.dir().join("third-party.toml");
    let toml = experiment(
        "third-party",
        "scenarios = ['once']\nbatch_sizes = [4, 2]",
        TINY,
        "[training]\nsteps = 12\nlearning_rate = { kind = 'constant', peak = 1e-3 }\n\
         [injection]\nstart = 1\nevery = 5\ncount = 1\nstagger = { groups = 10, every = 1 }",
    );
    std::fs::write(&file, toml).expect("write the experiment");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/third_party_client.py");
    let (address, base) = (lab.orchestrator_address(), lab.dir().display().to_string());
    let out = succeeds(
        Command::new(python)
            .arg(script)
            .arg(address)
            .arg(file)
            .arg(base),
    );
    let said: serde_json::Value = serde_json::from_str(&out).expect("one JSON object");
    let services: Vec<&str> = said["services"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|s| s.as_str())
        .collect();
    assert!(
        services.contains(&"imprint.v1.Orchestrator"),
        "{services:?}"
    );
    assert!(services.contains(&"grpc.health.v1.Health"), "{services:?}");
    assert_eq!(
        said["states"],
        serde_json::json!({
            "third-party/scratch-once-b2-s0": "RUN_STATE_COMPLETE",
            "third-party/scratch-once-b4-s0": "RUN_STATE_COMPLETE",
        })
    );
    assert_eq!(said["new"].as_array().map(Vec::len), Some(2));
}
