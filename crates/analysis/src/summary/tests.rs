use expect_test::expect;

use super::*;
use crate::run::Control;
use crate::synthetic::{self, At};

fn nats(at: At) -> f64 {
    let scale = [1.0, 0.7, 0.05][at.depth.index()];
    let share = match at.control {
        Control::Own => 1.0 + 0.1 * f64::from(at.fact),
        Control::Swap => 0.4,
    };
    let gained = match (at.since(0), at.since(1)) {
        (_, Some(since @ 3..)) => 3.0 * (1.0 - 0.25 * ((since - 2) as f64).log10()),
        (_, Some(2)) => 3.0,
        (Some(2..), _) => 2.0,
        _ => 0.0,
    };
    -9.0 + scale * share * gained - 0.001 * f64::from(at.step)
}

fn groups() -> Vec<GroupAnalysis> {
    let run = synthetic::run(&[&[0, 20], &[4, 24], &[8, 28], &[], &[]], 0..=150, nats);
    analyse(&run, &Settings::default())
}

#[test]
fn a_row_says_what_was_measured() {
    let mut table = SummaryRow::HEADINGS.join(" | ");
    for group in groups() {
        table += "\n";
        table += &group.row.cells().join(" | ");
    }
    expect![[r#"
        run | arm | depth | ε first | 95 % CI | null | swap − null | ε mean | a | R² | kept late | threshold
        toy/mid-arm-b8-s0 | arm | mem | 2.20 | 2.00 … 2.40 | 0.00 | 0.80 | 1.65 | 0.25 | 1.00 | 0.52 | 7.00
        toy/mid-arm-b8-s0 | arm | gen | 1.54 | 1.40 … 1.68 | 0.00 | 0.56 | 1.15 | 0.25 | 1.00 | 0.52 | 7.00
        toy/mid-arm-b8-s0 | arm | hard_gen | 0.11 | 0.10 … 0.12 | 0.00 | 0.04 | 0.08 | 0.25 | 1.00 | 0.52 | 7.00"#]].assert_eq(&table);
}

#[test]
fn csv_and_rows_have_every_column() {
    let groups = groups();
    let rows: Vec<&SummaryRow> = groups.iter().map(|g| &g.row).collect();
    let csv = summary_csv(rows.iter().copied());
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines.len(), 4);
    let n_columns = lines[0].split(',').count();
    let gen_row: Vec<String> = std::iter::zip(lines[0].split(','), quoted_cells(lines[2]))
        .map(|(name, value)| format!("{name} = {value}"))
        .collect();
    assert_eq!(gen_row.len(), n_columns);
    expect![[r#"
        run = toy/mid-arm-b8-s0
        checkpoint = mid
        scenario = arm
        batch_size = 8
        seed = 0
        n_runs = 1
        arm = arm
        depth = gen
        span = target
        preset = paper
        n_facts = 3
        n_probes = 6
        n_exposures = 2
        n_held_out_facts = 2
        window_steps_min = 20
        window_steps_max = 50
        n_not_read = 0
        first_own_nats = 1.5380
        first_null_nats = -0.0010
        first_swap_nats = 0.5580
        first_effect_nats = 1.5390
        first_effect_ci95_low = 1.3990
        first_effect_ci95_high = 1.6790
        first_swap_effect_nats = 0.5590
        first_binding_nats = 0.9800
        mean_own_nats = 1.1530
        mean_null_nats = -0.0010
        mean_swap_nats = 0.4180
        mean_effect_nats = 1.1540
        mean_effect_ci95_low = 1.0490
        mean_effect_ci95_high = 1.2590
        mean_swap_effect_nats = 0.4190
        mean_binding_nats = 0.7350
        mean_published_nats = 1.1530
        mean_published_n_outliers = 0
        decay_fit = ratio of means, null-subtracted, log-binned
        decay_a = 0.2500
        decay_a_ci95_low = 0.2500
        decay_a_ci95_high = 0.2500
        decay_r2 = 1.0000
        decay_r2_linear = 0.7590
        threshold_log10_steps = 4.0000
        threshold_log10_tokens = 7.0000
        threshold_log10_tokens_ci95_low = 7.0000
        threshold_log10_tokens_ci95_high = 7.0000
        retained_late = 0.5189
        retained_late_from_steps = 60
        published_fit = mean of ratios (IQR 1.5), raw, every step
        published_a = 0.2860
        published_r2 = 0.9965
        published_threshold_log10_tokens = 6.5981
        published_n_small_gain = 0
        published_outlier_share = 0.0000"#]]
    .assert_eq(&gen_row.join("\n"));
}

/// The cells of a CSV line, rounded so that the last digits of a sum do not matter.
fn quoted_cells(line: &str) -> Vec<String> {
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .from_reader(line.as_bytes());
    let record = reader.records().next().expect("a line").expect("valid CSV");
    record
        .iter()
        .map(|cell| match cell.parse::<f64>() {
            Ok(number) if cell.contains('.') => format!("{number:.4}"),
            _ => cell.to_owned(),
        })
        .collect()
}

/// Two seeds: what is said of both is the mean of what is said of each, and one of them twice is it.
#[test]
fn runs_taken_together_are_averaged() {
    let exposures: &[&[u32]] = &[&[0, 20], &[4, 24], &[8, 28], &[], &[]];
    let seeds = [0_u8, 1].map(|seed| {
        let run = synthetic::run(exposures, 0..=150, |at| {
            let held_out = at.exposures.is_empty() && at.step > 10;
            let drift = f64::from(seed) * if held_out { 0.3 } else { 0.0 };
            (1.0 + 0.2 * f64::from(seed)) * nats(at) + drift
        });
        RunData {
            seed: seed.into(),
            ..run
        }
    });
    let settings = Settings::default();
    let both = analyse_together("both", &seeds.each_ref(), &settings);
    let each = seeds.each_ref().map(|run| analyse(run, &settings));
    assert_eq!(both.len(), 3);
    for (i, group) in both.iter().enumerate() {
        let row = &group.row;
        assert_eq!((row.run.as_str(), row.n_runs, row.seed), ("both", 2, None));
        assert_eq!((row.n_facts, row.n_probes, row.n_exposures), (3, 6, 2));
        let values: [fn(&SummaryRow) -> Option<f64>; 5] = [
            |r| r.first_own_nats,
            |r| r.first_null_nats,
            |r| r.first_effect_nats,
            |r| r.first_binding_nats,
            |r| r.mean_effect_nats,
        ];
        for value in values {
            let of_each = each.each_ref().map(|groups| value(&groups[i].row).unwrap());
            let mean = (of_each[0] + of_each[1]) / 2.0;
            assert!((value(row).unwrap() - mean).abs() < 1e-12, "{of_each:?}");
            assert_ne!(of_each[0], of_each[1]);
        }
        let (low, high) = (row.first_effect_ci95_low, row.first_effect_ci95_high);
        let effect = row.first_effect_nats;
        assert!(low < effect && effect < high, "{low:?} {effect:?} {high:?}");
    }
    let twice = analyse_together(&seeds[1].label, &[&seeds[1], &seeds[1]], &settings);
    assert!(twice[0].row.decay_a.is_some());
    for (twice, once) in std::iter::zip(&twice, &each[1]) {
        let close = |a: Option<f64>, b: Option<f64>| match (a, b) {
            (Some(a), Some(b)) => (a - b).abs() < 1e-9,
            _ => a == b,
        };
        let (twice, once) = (&twice.row, &once.row);
        assert!(close(twice.decay_a, once.decay_a), "{twice:?}");
        assert!(close(twice.decay_a_ci95_low, once.decay_a_ci95_low));
        assert!(close(twice.retained_late, once.retained_late));
        assert!(close(
            twice.first_effect_ci95_low,
            once.first_effect_ci95_low
        ));
        assert!(close(twice.published_a, once.published_a));
    }
}

#[test]
fn a_group_without_gain_has_effects_but_no_decay() {
    let groups = groups();
    let hard = &groups[2];
    assert_eq!(hard.row.depth, Depth::HardGen);
    assert!(
        hard.row
            .first_effect_nats
            .is_some_and(|e| (0.05..0.2).contains(&e))
    );
    // Robust where the mean gain exceeds 0.1 nats, and it does: 0.15 and more.
    assert!(hard.row.decay_a.is_some());
    let none = synthetic::run(&[&[0, 20], &[]], 0..=150, |_| -3.0);
    let none = analyse(&none, &Settings::default());
    assert_eq!(none.len(), 3);
    assert_eq!(
        (none[0].row.first_effect_nats, none[0].row.decay_a),
        (Some(0.0), None)
    );
    assert!(none[0].fits.is_empty());
}

#[test]
fn outliers_of_the_published_mean_are_counted_within_an_exposure() {
    let run = synthetic::run(&[[0, 20].as_slice(); 4], 0..=150, |at| {
        let wild = if (at.fact, at.ordinal) == (0, 0) {
            9.0
        } else {
            1.0
        };
        wild * nats(At { fact: 0, ..at })
    });
    let groups = analyse(&run, &Settings::default());
    let row = &groups[0].row;
    assert_eq!(row.mean_published_n_outliers, 2);
    assert!(row.mean_published_nats < row.mean_own_nats);
    // Nothing is held out: raw numbers, and no null.
    assert_eq!((row.n_held_out_facts, row.mean_effect_nats), (0, None));
    assert!(
        row.decay_fit
            .as_deref()
            .is_some_and(|name| name.contains("raw"))
    );
}
