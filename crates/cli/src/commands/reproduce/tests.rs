use std::path::Path;

use expect_test::expect;
use imprint_core::{ExperimentSpec, Scenario, simulated};
use imprint_store::runs::RunState;
use serde_json::json;

use super::*;

fn recorded() -> RecordedRun {
    let spec = simulated::spec("mine/late-none-b4-s0", 10, "none", Scenario { arm: vec![] });
    let at = |seconds| DateTime::<Utc>::from_timestamp(seconds, 0).unwrap();
    RecordedRun {
        run_id: 1,
        label: "mine/late-none-b4-s0".to_owned(),
        hash: SpecHash("abc".to_owned()),
        state: RunState::Complete,
        spec,
        settled: None,
        parent: Some("pre/scratch-none-b4-s0".to_owned()),
        attempts: vec![
            RecordedAttempt {
                attempt: 1,
                host: "node1".to_owned(),
                device: "cpu".to_owned(),
                threads: 2,
                machine: "x86_64".to_owned(),
                first_step: Some(0),
                step: 7,
                began_at: at(1_700_000_000),
                ended_at: Some(at(1_700_000_012)),
                outcome: Some("lost".to_owned()),
                record: Some(json!({
                    "revision": "1234\nname = 'evil'",
                    "build": { "features": ["cuda"], "opt_level": "3" },
                    "changed": false,
                })),
            },
            RecordedAttempt {
                attempt: 2,
                host: "offline".to_owned(),
                device: "cpu".to_owned(),
                threads: 1,
                machine: "x86_64".to_owned(),
                first_step: None,
                step: 0,
                began_at: at(1_700_000_100),
                ended_at: None,
                outcome: None,
                record: None,
            },
        ],
    }
}

#[test]
fn records_stand_as_comments_above_a_file_that_is_read() {
    let run = recorded();
    let comments = comments(&run);
    expect![[r#"
        # mine/late-none-b4-s0, complete
        # hash: abc
        # starts from: pre/scratch-none-b4-s0, which has to be there (`imprint reproduce pre/scratch-none-b4-s0`)
        #
        # attempt 1: lost, steps 0–7, 2023-11-14 22:13:20 UTC – 2023-11-14 22:13:32 UTC, 12.0 s; on node1, cpu, 2 thread(s), x86_64
        #   build: features cuda, opt_level 3
        #   changed: false
        #   revision: 1234name = 'evil'
        #
        # attempt 2: not ended, steps 0–0, 2023-11-14 22:15:00 UTC; on offline, cpu, 1 thread(s), x86_64
        #   (its trainer recorded nothing of itself)
    "#]]
    .assert_eq(&comments);
    let file = comments + "\n" + &run.spec.experiment_file("again");
    let spec = ExperimentSpec::parse(&file, Path::new("again.toml"), Path::new("/"));
    assert_eq!(spec.unwrap().name, "again");
}
