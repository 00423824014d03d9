use std::fs;

use expect_test::expect;

use super::*;
use crate::failure::Kind;

#[test]
fn a_bad_file_is_refused_before_a_service_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bad.toml");
    let failure = request(&file, false).unwrap_err();
    assert_eq!(failure.kind(), Kind::BadInput);
    assert!(failure.to_string().contains("bad.toml"), "{failure}");

    fs::write(&file, "name = \"x\"\nsteps = 3\n").unwrap();
    let failure = request(&file, false).unwrap_err();
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
    let (one, other) = (request(&file, true).unwrap(), request(&file, true).unwrap());
    assert_ne!(one.request_id, other.request_id);
    assert!(Path::new(&one.base_dir).is_absolute());
    assert!(one.base_dir.ends_with("experiments"));
}

#[test]
fn the_table_says_what_the_runs_will_be() {
    let runs = [pb::SubmittedRun {
        run: "demo/late-once-b4-s0".to_owned(),
        hash: "0123456789abcdef".to_owned(),
        new: true,
        n_updates: 250,
        n_readings: 161,
        n_probes: 540,
        n_tokens: 64_000,
        max_injected_share: 0.4375,
    }];
    expect![[r#"
        #  run                   hash          new  updates  readings  probes  tokens  injected ≤
        ──────────────────────────────────────────────────────────────────────────────────────────
        0  demo/late-once-b4-s0  0123456789ab  yes      250       161     540  64,000      43.8 %
    "#]]
    .assert_eq(&(as_table(&runs) + "\n"));
}
