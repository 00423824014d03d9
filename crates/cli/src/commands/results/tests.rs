use clap::Parser as _;
use expect_test::expect;
use imprint_analysis::{Control, FactSchedule, ProbeSeries, RunData};
use imprint_core::{Depth, FactId, ProbeId, Trajectory};
use serde_json::json;

use super::*;

/// Two facts shown at step 0 and one held out; their probes jump at once and are forgotten in log t.
pub(crate) fn run() -> RunData {
    let curve = |gain: f64| {
        Trajectory::new((0..=120_u32).map(|t| {
            let left = if t == 0 {
                0.0
            } else {
                1.0 - 0.3 * f64::from(t).log10()
            };
            (t, -5.0 + gain * left)
        }))
    };
    let fact = |fact: u32, shown: bool| FactSchedule {
        fact: FactId(fact),
        arm: shown.then(|| "once".to_owned()),
        exposure_steps: if shown { vec![0] } else { Vec::new() },
    };
    let series = |probe: u32, fact: u32, control, gain: f64| ProbeSeries {
        probe: ProbeId(probe),
        fact: FactId(fact),
        depth: Depth::Mem,
        ordinal: 0,
        control,
        trajectory: curve(gain),
    };
    RunData {
        label: "demo/late-once-b4-s0".to_owned(),
        checkpoint: "late".to_owned(),
        scenario: "once".to_owned(),
        batch_size: 4,
        seed: 0,
        repeat: 0,
        n_updates: 120,
        tokens_per_step: 256,
        span: Span::Target,
        facts: vec![fact(0, true), fact(1, true), fact(2, false)],
        probes: vec![
            series(0, 0, Control::Own, 2.0),
            series(1, 1, Control::Own, 1.8),
            series(2, 2, Control::Own, 0.0),
            series(3, 0, Control::Swap, 0.5),
            series(4, 1, Control::Swap, 0.4),
        ],
    }
}

#[test]
fn the_table_has_the_controls_beside_the_effect() {
    let settings = Settings::of(Preset::Paper);
    let sweep = Sweep::new(vec![run()], vec![&Value::Null]);
    let summary = Summary::of(&sweep, &settings);
    expect![[r#"
        run                   depth  facts  first                                         every  decay
                                              own  null  swap  effect       95 %  bound  effect      a    R²  tokens  kept
        ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────
        demo/late-once-b4-s0  mem        2   1.90  0.00  0.45    1.90  1.80…2.00   1.45    1.90   0.26  0.99     6.0  0.42
    "#]].assert_eq(&(summary.as_table() + "\n"));
}

/// Two rates, of one of them two seeds.
#[test]
fn seeds_are_averaged_and_other_settings_have_columns() {
    let of = |seed: u64, rate: f64| {
        let label = format!("demo/late-once-b4-s{seed}-peak{rate}");
        let run = RunData {
            label,
            seed,
            ..run()
        };
        let training = json!({ "learning_rate": { "kind": "constant", "peak": rate } });
        (run, json!({ "seed": seed, "training": training }))
    };
    let runs = [of(1, 1e-3), of(0, 5e-3), of(0, 1e-3)];
    let (runs, identities): (Vec<_>, Vec<_>) = runs.into_iter().unzip();
    let sweep = Sweep::new(runs, identities.iter().collect());
    let settings = Settings::of(Preset::Paper);
    let summary = Summary::of(&sweep, &settings);
    expect![[r#"
        run                              peak  runs  depth  facts  first                                         every  decay
                                                                     own  null  swap  effect       95 %  bound  effect      a    R²  tokens  kept
        ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
        demo/late-once-b4               0.001     2  mem        2   1.90  0.00  0.45    1.90  1.80…2.00   1.45    1.90   0.26  0.99     6.0  0.42
        demo/late-once-b4-s0-peak0.005  0.005     1  mem        2   1.90  0.00  0.45    1.90  1.80…2.00   1.45    1.90   0.26  0.99     6.0  0.42
    "#]].assert_eq(&(summary.as_table() + "\n"));
    let json = serde_json::to_value(summary.as_json()).unwrap();
    assert_eq!(
        json[0]["settings"],
        json!({ "training.learning_rate.peak": 0.001 })
    );
    assert_eq!(
        (&json[0]["n_runs"], &json[0]["seed"]),
        (&json!(2), &Value::Null)
    );
    let csv = summary.as_csv().unwrap();
    let ends: Vec<_> = csv.lines().map(|l| l.rsplit(',').next().unwrap()).collect();
    assert_eq!(ends, ["training.learning_rate.peak", "0.001", "0.005"]);

    let sweep = sweep.by_run();
    let names: Vec<String> = sweep.cells.iter().map(|cell| cell.name()).collect();
    let want = ["s0-peak0.001", "s1-peak0.001", "s0-peak0.005"];
    assert_eq!(names, want.map(|end| format!("demo/late-once-b4-{end}")));
}

#[test]
fn spans_and_presets_are_named() {
    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        reading: Reading,
    }
    let cli = Cli::try_parse_from(["x", "--span", "full", "--preset", "code"]).unwrap();
    assert_eq!(
        (cli.reading.span, cli.reading.preset),
        (Span::Full, Preset::Code)
    );
    assert!(Cli::try_parse_from(["x", "--span", "half"]).is_err());
}
