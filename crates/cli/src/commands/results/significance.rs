//! `imprint results --tests`: whether what is seen could be chance.

use std::collections::BTreeMap;

use imprint_analysis::{DecayFit, RunData, Settings, SignedRank, evidence};
use serde::Serialize;

use crate::table::{Column, number, table};

/// The tests of one run's arm.
#[derive(Debug, Serialize)]
pub(super) struct TestRow {
    run: String,
    arm: String,
    n_facts: usize,
    /// The first exposure raises log-probability.
    jump: SignedRank,
    /// The first exposure raises it more than the second.
    first_over_second: SignedRank,
    /// The fact gains more than its target after another fact's subject.
    own_over_swap: SignedRank,
    /// Less is left late than early.
    decay: SignedRank,
    retained_late: f64,
    late_from_steps: u32,
    /// By depth.
    decay_fits: BTreeMap<&'static str, DecayFit>,
}

/// A row for every arm that has held-out facts beside it and was read long enough.
pub(super) fn rows<'a>(
    runs: impl Iterator<Item = &'a RunData>,
    settings: &Settings,
) -> Vec<TestRow> {
    let of_run = |run: &RunData| -> Vec<TestRow> {
        run.arms()
            .into_iter()
            .filter_map(|arm| {
                let found = evidence(run, arm, settings)?;
                Some(TestRow {
                    run: run.label.clone(),
                    arm: arm.to_owned(),
                    n_facts: found.facts.len(),
                    jump: found.jump(),
                    first_over_second: found.first_over_second(),
                    own_over_swap: found.own_over_swap(),
                    decay: found.decay(),
                    retained_late: found.retained_late,
                    late_from_steps: found.late_from_steps,
                    decay_fits: found
                        .decay
                        .iter()
                        .map(|(d, fit)| (d.as_str(), fit.clone()))
                        .collect(),
                })
            })
            .collect()
    };
    runs.flat_map(of_run).collect()
}

const HEADINGS: [&str; 8] = [
    "run",
    "arm",
    "facts",
    "jump p",
    "first p",
    "binding p",
    "decay p",
    "kept",
];

fn cells(row: &TestRow) -> Vec<String> {
    // A test over no differences says nothing: an arm shown once has no second exposure.
    let p = |test: &SignedRank| match test.n {
        0 => number(None, 0),
        _ => format!("{:.2e}", test.p_value),
    };
    vec![
        row.run.clone(),
        row.arm.clone(),
        row.n_facts.to_string(),
        p(&row.jump),
        p(&row.first_over_second),
        p(&row.own_over_swap),
        p(&row.decay),
        number(Some(row.retained_late), 2),
    ]
}

pub(super) fn as_table(rows: &[TestRow]) -> String {
    let columns = HEADINGS.map(|heading| match heading {
        "run" | "arm" => Column::Left(heading),
        _ => Column::Right(heading),
    });
    table(&columns, rows.iter().map(cells))
}

/// CSV with a heading; fields hold neither commas nor quotes.
pub(super) fn as_csv(rows: &[TestRow]) -> String {
    let mut lines = vec![HEADINGS.map(|h| h.replace(' ', "_")).join(",")];
    lines.extend(rows.iter().map(|row| cells(row).join(",")));
    lines.join("\n")
}
