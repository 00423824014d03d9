//! A matrix with further axes, from files below a root: dry run, runs, the same file again, more.

use std::time::Duration;

use imprint_e2e::{Lab, THRICE, TINY, experiment, training, write_world};
use imprint_testkit::{TestDb, bin};

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_is_estimated_run_and_widened() {
    let mut lab = Lab::new(TestDb::start_durable().await, bin("imprint-trainer"));
    write_world(lab.dir());
    let dir = lab.dir().display().to_string();
    lab.set_site(&format!(
        "[roots]\nworld = '{dir}'\nonly_roots = true\n[executor.here]\nkind = 'local'\nslots = 2"
    ));
    lab.start_metrics().await;
    lab.start_orchestrator().await;

    let sweep = |seeds: &str| {
        experiment(
            "sweep",
            &format!("scenarios = ['once']\nseeds = {seeds}"),
            TINY,
            &(training(40) + THRICE),
        )
        .replace("\"facts.json\"", "\"world:facts.json\"")
        .replace("\"corpus.u16\"", "\"world:corpus.u16\"")
            + "[matrix.product]\n'training.learning_rate.peak' = [1e-3, 5e-3]\n\
               [[matrix.zip]]\nbatch_size = [4, 8]\n'training.steps' = [40, 30]\n\
               [[matrix.exclude]]\nbatch_size = 8\n'training.learning_rate.peak' = 5e-3\n"
    };
    let file = |seeds: &str| {
        std::fs::write(lab.dir().join("sweep.toml"), sweep(seeds)).expect("write the experiment");
    };
    file("[0]");
    let said = |arguments: &[&str]| {
        let out = lab.says(arguments);
        let (stdout, stderr) = (
            String::from_utf8_lossy(&out.stdout).into_owned(),
            String::from_utf8_lossy(&out.stderr).into_owned(),
        );
        assert!(out.status.success(), "{stdout}\n{stderr}");
        (stdout, stderr)
    };
    let (dry, _) = said(&["submit", "sweep.toml", "--dry-run"]);
    for words in [
        "sweep/scratch-once-b4-s0-peak1e-3-steps40",
        "sweep/scratch-once-b8-s0-peak1e-3-steps30",
        "The 3 new runs: ",
        "MiB",
        "No rate is known for 3 runs",
    ] {
        assert!(dry.contains(words), "`{words}` is not in: {dry}");
    }
    assert!(!dry.contains("b8-s0-peak5e-3"), "{dry}");

    let (_, told) = said(&["submit", "sweep.toml"]);
    assert!(told.contains("3 queued"), "{told}");
    lab.all_complete("sweep", Duration::from_secs(240)).await;
    let (_, told) = said(&["submit", "sweep.toml"]);
    assert_eq!(told, "nothing new: all 3 runs are there (3 complete)\n");

    file("[0, 1]");
    let (json, _) = said(&["submit", "sweep.toml", "--dry-run", "--output", "json"]);
    let answer: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let estimate = &answer["estimate"];
    assert_eq!(estimate["n_runs"], 3);
    assert!(
        estimate["device_hours"].as_f64().is_some_and(|h| h > 0.0),
        "{estimate}"
    );
    for group in estimate["groups"].as_array().expect("groups") {
        assert_eq!(group["n_measured_runs"], 3, "{group}");
        assert_eq!(group["executor"], "here");
        assert_eq!(group["problem"], "");
    }
    let (stated, _) = said(&[
        "submit",
        "sweep.toml",
        "--dry-run",
        "--tokens-per-second",
        "1000",
    ]);
    assert!(
        stated.contains("stated") && stated.contains("of one device in all."),
        "{stated}"
    );
    let (_, told) = said(&["submit", "sweep.toml", "--wait"]);
    assert!(!told.contains("failed"), "{told}");
    lab.all_complete("sweep", Duration::from_secs(240)).await;
    assert_eq!(lab.wait("sweep", Duration::from_secs(10)).await.len(), 6);

    // What is not below the root is not read.
    let elsewhere = sweep("[0]").replace("world:facts.json", "/etc/hostname");
    std::fs::write(lab.dir().join("elsewhere.toml"), elsewhere).expect("write the experiment");
    let refused = lab.says(&["submit", "elsewhere.toml"]);
    let stderr = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{stderr}");
    assert!(
        stderr.contains("`data.facts`: /etc/hostname is below no root"),
        "{stderr}"
    );
}
