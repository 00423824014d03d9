use serde_json::json;

use super::*;
use crate::commands::results::tests::run;

/// Cells and axes of runs: checkpoint, scenario, seed and identity.
fn sweep(of: &[(&str, &str, u64, Value)]) -> (Vec<(String, String, usize)>, Sweep) {
    let runs = of.iter().map(|(checkpoint, scenario, seed, _)| RunData {
        label: format!("mine/{checkpoint}-{scenario}-b4-s{seed}"),
        checkpoint: (*checkpoint).to_owned(),
        scenario: (*scenario).to_owned(),
        seed: *seed,
        ..run()
    });
    let sweep = Sweep::new(runs.collect(), of.iter().map(|(.., i)| i).collect());
    let cells = sweep.cells.iter().map(|cell| {
        let values: Vec<String> = cell.values.iter().map(in_words).collect();
        (cell.name(), values.join(" "), cell.runs.len())
    });
    (cells.collect(), sweep)
}

#[test]
fn a_name_stands_for_what_it_names() {
    let identity = |parent: &str, seed: u64, steps: Value| {
        json!({
            "checkpoint": { "kind": "run", "run": parent, "step": 10 },
            "scenario": { "arm": [{ "name": "a", "steps": steps }] },
            "seed": seed,
        })
    };
    let early = |seed| identity("1f", seed, json!([1, 2]));
    let (cells, sweep) = sweep(&[
        ("early", "once", 0, early(0)),
        ("late", "twice", 0, identity("2f", 0, json!([1, 3]))),
        ("early", "once", 1, early(1)),
        // A checkpoint's own name may look like the rest of a label.
        (
            "early-once-b4-s0",
            "twice",
            0,
            identity("3f", 0, json!([1, 3])),
        ),
    ]);
    assert_eq!(sweep.axes, [""; 0], "names say it all");
    let cell = |name: &str, n| (format!("mine/{name}"), String::new(), n);
    let want = [
        cell("early-once-b4", 2),
        cell("late-twice-b4-s0", 1),
        cell("early-once-b4-s0-twice-b4-s0", 1),
    ];
    assert_eq!(cells, want);
}

#[test]
fn what_differs_under_one_name_is_an_axis() {
    let identity = |every: u32, rate: Value, seed: u64, repeat: u64| {
        let steps = json!({ "start": 0, "every": every });
        json!({
            "scenario": { "arm": [{ "name": "a", "steps": steps }] },
            "training": { "learning_rate": rate, "every": 1 },
            "seed": seed,
            "repeat": repeat,
        })
    };
    let table = json!({ "kind": "table", "points": [[0, 0.0], [20, 4e-4]] });
    let constant = json!({ "kind": "constant", "peak": 1e-3 });
    let (cells, sweep) = sweep(&[
        ("late", "once", 0, identity(5, constant.clone(), 0, 0)),
        ("late", "once", 0, identity(5, constant.clone(), 0, 1)),
        ("late", "once", 0, identity(9, constant, 0, 0)),
        ("late", "once", 0, identity(5, table, 0, 0)),
    ]);
    assert_eq!(
        sweep.axes,
        [
            "scenario.arm.0.steps.every",
            "training.learning_rate.kind",
            "training.learning_rate.peak",
            "training.learning_rate.points",
        ]
    );
    assert_eq!(sweep.headings(), ["every", "kind", "peak", "points"]);
    let values: Vec<(&str, usize)> = cells.iter().map(|(_, v, n)| (v.as_str(), *n)).collect();
    let want = [
        ("5 constant 0.001 ", 2),
        ("9 constant 0.001 ", 1),
        ("5 table  [[0,0.0],[20,0.0004]]", 1),
    ];
    assert_eq!(values, want);
}
