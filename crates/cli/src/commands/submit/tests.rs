use std::fs;

use expect_test::expect;

use super::*;
use crate::failure::Kind;

#[test]
fn a_bad_file_is_refused_before_a_service_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bad.toml");
    let failure = request(&file).unwrap_err();
    assert_eq!(failure.kind(), Kind::BadInput);
    assert!(failure.to_string().contains("bad.toml"), "{failure}");

    fs::write(&file, "name = \"x\"\nsteps = 3\n").unwrap();
    let failure = request(&file).unwrap_err();
    assert_eq!(failure.kind(), Kind::BadInput);
    let line = failure.to_string();
    assert!(
        line.contains("line 2, column 1") && line.contains("`steps`"),
        "{line}"
    );
}

#[test]
fn every_request_has_an_id_of_its_own() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../experiments/minimal.toml");
    let (one, other) = (request(&file).unwrap(), request(&file).unwrap());
    assert_ne!(one.request_id, other.request_id);
    assert!(Path::new(&one.base_dir).is_absolute());
    assert!(one.base_dir.ends_with("experiments"));
}

fn submitted(states: &[pb::RunState]) -> pb::SubmitExperimentResponse {
    let run = |(seed, state): (usize, &pb::RunState)| pb::SubmittedRun {
        run: format!("demo/late-once-b4-s{seed}"),
        hash: "0123456789abcdef".to_owned(),
        new: *state == pb::RunState::Unspecified,
        updated: *state == pb::RunState::Queued,
        n_updates: 250,
        n_readings: 161,
        n_probes: 540,
        n_tokens: 64_000,
        max_injected_share: 0.4375,
        n_probe_tokens: 161 * 540 * 12,
        state: (*state).into(),
    };
    pb::SubmitExperimentResponse {
        experiment: "demo".to_owned(),
        runs: states.iter().enumerate().map(run).collect(),
        warnings: Vec::new(),
        estimate: None,
    }
}

const NEW: pb::RunState = pb::RunState::Unspecified;
const COMPLETE: pb::RunState = pb::RunState::Complete;
const QUEUED: pb::RunState = pb::RunState::Queued;

#[test]
fn the_table_says_what_the_runs_will_be() {
    expect![[r#"
        #  run                   hash          state     updates  readings  probes  tokens  injected ≤
        ───────────────────────────────────────────────────────────────────────────────────────────────
        0  demo/late-once-b4-s0  0123456789ab  complete      250       161     540  64,000      43.8 %
        1  demo/late-once-b4-s1  0123456789ab  new           250       161     540  64,000      43.8 %
    "#]]
    .assert_eq(&(as_table(&submitted(&[COMPLETE, NEW]).runs) + "\n"));
}

#[test]
fn the_last_line_says_what_is_new() {
    let line = |states: &[pb::RunState], dry_run| what_next(&submitted(states), dry_run);
    let running = pb::RunState::Running;
    for (line, want) in [
        (
            line(&[NEW, NEW], false),
            expect!["2 queued; `imprint watch demo` shows them"],
        ),
        (
            line(&[NEW, COMPLETE, running, COMPLETE], false),
            expect![
                "1 queued, 3 there before (2 complete, 1 running); `imprint watch demo` shows them"
            ],
        ),
        (
            line(&[COMPLETE, running], false),
            expect!["nothing new: all 2 runs are there (1 complete, 1 running)"],
        ),
        (
            line(&[NEW, COMPLETE], true),
            expect!["1 new, 1 there before (1 complete); nothing was stored (--dry-run)"],
        ),
        (
            line(&[COMPLETE, QUEUED, QUEUED], false),
            expect![
                "nothing new: all 3 runs are there (1 complete, 2 queued); updated 2, which get the file's `resources`"
            ],
        ),
        (
            line(&[QUEUED, NEW], true),
            expect![
                "1 new, 1 there before (1 queued); 1 would get the file's `resources`; nothing was stored (--dry-run)"
            ],
        ),
        (
            line(&[COMPLETE], true),
            expect!["nothing new: the run is there (1 complete)"],
        ),
    ] {
        want.assert_eq(&line);
    }
}

fn group() -> pb::EstimateGroup {
    pb::EstimateGroup {
        run: "big/late-once-b128-s0".to_owned(),
        n_runs: 12,
        batch_size: 128,
        executor: "a100".to_owned(),
        device: "cuda:0".to_owned(),
        n_parameters: Some(1_176_764_416),
        micro_batch_rows: Some(16),
        memory_bytes: Some(158 << 30),
        problem: String::new(),
        tokens_per_second: Some(41_000.4),
        n_measured_runs: 3,
        device_hours: Some(53.25),
    }
}

fn estimate(groups: Vec<pb::EstimateGroup>) -> pb::Estimate {
    pb::Estimate {
        n_runs: groups.iter().map(|g| g.n_runs).sum(),
        n_tokens: 7_864_320_000,
        n_probe_tokens: 1_620_000,
        n_readings: 30_012,
        database_bytes: 1_517_000_000,
        device_hours: groups.iter().map(|g| g.device_hours).sum(),
        groups,
    }
}

#[test]
fn the_estimate_is_said_in_words() {
    let stated = pb::EstimateGroup {
        run: "big/late-once-b4-s0".to_owned(),
        n_runs: 1,
        batch_size: 4,
        executor: "local".to_owned(),
        device: "cpu".to_owned(),
        n_parameters: Some(134_400),
        micro_batch_rows: None,
        memory_bytes: Some(20 << 20),
        tokens_per_second: Some(1234.0),
        n_measured_runs: 0,
        device_hours: Some(0.5),
        ..group()
    };
    expect![[r#"
        The 13 new runs: 7,864,320,000 tokens of training, 1,620,000 tokens of probes, 30,012 readings, 1.5 GB in the database.
        runs  such as                executor  device     parameters  micro-batch    memory  tokens/s  measured on  device time
        ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
          12  big/late-once-b128-s0  a100      cuda:0  1,176,764,416    16 of 128   158 GiB    41,000  3 runs              53 h
           1  big/late-once-b4-s0    local     cpu           134,400      as fits  ≥ 20 MiB     1,234  stated            30 min
        About 54 h of one device in all.
    "#]]
        .assert_eq(&(super::estimate::in_words(&estimate(vec![group(), stated])) + "\n"));
    let unknown = pb::EstimateGroup {
        n_parameters: None,
        micro_batch_rows: None,
        memory_bytes: None,
        problem: "/models/late: open config.json: No such file".to_owned(),
        tokens_per_second: None,
        device_hours: None,
        ..group()
    };
    let two = vec![unknown.clone(), unknown];
    expect![[r#"
        The 24 new runs: 7,864,320,000 tokens of training, 1,620,000 tokens of probes, 30,012 readings, 1.5 GB in the database.
        runs  such as                executor  device  parameters  micro-batch  memory  tokens/s  measured on  device time
        ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────
          12  big/late-once-b128-s0  a100      cuda:0           –            –       –         –  –                      –
          12  big/late-once-b128-s0  a100      cuda:0           –            –       –         –  –                      –
        memory unknown: /models/late: open config.json: No such file
        No rate is known for 24 runs: no run of the same model is complete on the same device; state one with --tokens-per-second N.
    "#]].assert_eq(&(super::estimate::in_words(&estimate(two)) + "\n"));
}

#[test]
fn programs_get_the_estimate_too() {
    let mut submitted = submitted(&[NEW]);
    submitted.estimate = Some(estimate(vec![group()]));
    let json = serde_json::to_value(Answer::from(&submitted)).unwrap();
    assert_eq!(json["runs"][0]["state"], "new");
    assert_eq!(json["estimate"]["groups"][0]["micro_batch_rows"], 16);
    assert_eq!(json["estimate"]["device_hours"], 53.25);
    submitted.estimate = None;
    let json = serde_json::to_value(Answer::from(&submitted)).unwrap();
    assert!(json.get("estimate").is_none());
}
