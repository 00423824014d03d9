use std::collections::HashMap;

use expect_test::expect;

use super::*;

#[test]
fn the_table_counts_runs_by_state() {
    let experiment = |name: &str, states: &[(&str, u32)]| pb::ExperimentSummary {
        name: name.to_owned(),
        created_unix_ms: 1_750_000_000_000,
        runs_by_state: (states.iter())
            .map(|&(state, n)| (state.to_owned(), n))
            .collect::<HashMap<_, _>>(),
        seconds_left: None,
    };
    let experiments = [
        experiment("mine", &[("queued", 9000), ("running", 4), ("failed", 1)]),
        experiment("pre", &[("complete", 1)]),
    ];
    expect![[r#"
        experiment  submitted (UTC)   runs  states
        ─────────────────────────────────────────────────────────────────────
        mine        2025-06-15 15:06  9005  4 running, 1 failed, 9000 queued
        pre         2025-06-15 15:06     1  1 complete
    "#]]
    .assert_eq(&(as_table(&experiments) + "\n"));
}
