//! A client that knows nothing of imprint: Python's `grpcio`, taught by reflection.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use imprint_e2e::{Lab, experiment};

/// Pinned, so that a test fails for our reasons only.
const PACKAGES: [&str; 2] = ["grpcio==1.74.0", "grpcio-reflection==1.74.0"];

/// A Python with `grpcio`, made once below the target directory.
fn python() -> PathBuf {
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("grpc-venv");
    let python = venv.join("bin/python");
    let ready = venv.join("ready");
    if !ready.exists() {
        run(Command::new("python3")
            .args(["-m", "venv", "--clear"])
            .arg(&venv));
        let pip = [
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ];
        run(Command::new(&python).args(pip).args(PACKAGES));
        std::fs::write(&ready, PACKAGES.join("\n")).expect("mark the environment ready");
    }
    python
}

fn run(command: &mut Command) -> String {
    let out = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let (stdout, stderr) = (
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr),
    );
    assert!(
        out.status.success(),
        "{command:?}: {}\n{stdout}\n{stderr}",
        out.status
    );
    stdout.into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_python_client_submits_and_watches_by_reflection() {
    let python = python();
    let lab = Lab::start().await;
    let file = lab.dir().join("third-party.toml");
    let toml = experiment(
        "third-party",
        "scenarios = ['once']\nbatch_sizes = [4, 2]",
        "name = 'scratch'\ninit = { hidden_size = 16, intermediate_size = 32, \
         num_hidden_layers = 1, num_attention_heads = 2, tie_word_embeddings = true }",
        "[training]\nsteps = 12\nlearning_rate = { kind = 'constant', peak = 1e-3 }\n\
         [injection]\nstart = 1\nevery = 5\ncount = 1\nstagger = { groups = 10, every = 1 }",
    );
    std::fs::write(&file, toml).expect("write the experiment");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/third_party_client.py");
    let (address, base) = (lab.orchestrator_address(), lab.dir().display().to_string());
    let out = tokio::time::timeout(
        Duration::from_secs(300),
        tokio::task::spawn_blocking(move || {
            run(Command::new(python)
                .arg(script)
                .arg(address)
                .arg(file)
                .arg(base))
        }),
    )
    .await
    .expect("the client ends in time")
    .expect("the client runs");
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
