use expect_test::expect;

use super::*;

fn verified() -> pb::VerifyRunResponse {
    pb::VerifyRunResponse {
        run_id: 1,
        run: "demo/late-once-b4-s0".to_owned(),
        state: "complete".to_owned(),
        n_probes: 540,
        readings_expected: 161,
        readings_stored: 161,
        updates_expected: 250,
        updates_stored: 250,
        attempts: 1,
        ..pb::VerifyRunResponse::default()
    }
}

#[test]
fn steps_are_told_as_ranges() {
    for (steps, want) in [
        (vec![], "none"),
        (vec![3], "3"),
        (vec![3, 4, 5, 9], "3–5, 9"),
        (vec![1, 3, 5, 7, 9, 11], "1, 3, 5, 7, … (6 in all)"),
    ] {
        assert_eq!(ranges(&steps), want);
    }
}

#[test]
fn only_a_complete_and_whole_run_is_clean() {
    assert!(Row::from(&verified()).clean);
    let spoilt: [fn(&mut pb::VerifyRunResponse); 5] = [
        |v| v.state = "running".to_owned(),
        |v| v.readings_stored -= 1,
        |v| v.readings_missing = vec![3],
        |v| v.readings_damaged = vec![3],
        |v| v.updates_stored -= 1,
    ];
    for spoil in spoilt {
        let mut v = verified();
        spoil(&mut v);
        assert!(!Row::from(&v).clean, "{v:?}");
    }
}

#[test]
fn the_table_names_the_missing_steps() {
    let mut holes = verified();
    holes.readings_missing = vec![7, 8, 9];
    holes.readings_stored = 158;
    let rows: Vec<Row> = [verified(), holes].iter().map(Row::from).collect();
    expect![[r#"
        run                   state     probes  readings                                         updates
                                                expected  stored  missing  damaged  superseded  expected  stored  missing  verdict
        ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
        demo/late-once-b4-s0  complete     540       161     161  none     none              0       250     250  none     clean
        demo/late-once-b4-s0  complete     540       161     158  7–9      none              0       250     250  none     NOT CLEAN
    "#]].assert_eq(&(as_table(&rows) + "\n"));
}
