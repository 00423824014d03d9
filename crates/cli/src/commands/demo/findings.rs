//! What the demo's table says, by its own numbers, whether or not it is what the paper found.

use std::fmt::Write as _;

use imprint_analysis::SummaryRow;
use imprint_core::Depth;

use crate::table::{Column, number, table};

/// The claims that a demo can speak to, each with the numbers for or against it.
pub(super) fn findings(rows: &[SummaryRow]) -> String {
    let mut text = String::from("What the numbers say (means over runs; nats):\n\n");
    let columns = [
        Column::Left("batch"),
        Column::Left("depth"),
        Column::Right("own"),
        Column::Right("null"),
        Column::Right("swap"),
        Column::Right("effect"),
        Column::Right("bound"),
        Column::Right("decay a"),
        Column::Right("R²"),
        Column::Right("kept"),
    ];
    let mut batch_sizes: Vec<u32> = rows.iter().map(|r| r.batch_size).collect();
    batch_sizes.sort_unstable();
    batch_sizes.dedup();
    let cells = batch_sizes.iter().rev().flat_map(|&batch_size| {
        Depth::ALL.into_iter().map(move |depth| {
            let of = |value: fn(&SummaryRow) -> Option<f64>| {
                mean(
                    rows.iter()
                        .filter(|r| (r.batch_size, r.depth) == (batch_size, depth)),
                    value,
                )
            };
            vec![
                batch_size.to_string(),
                depth.to_string(),
                number(of(|r| r.first_own_nats), 2),
                number(of(|r| r.first_null_nats), 2),
                number(of(|r| r.first_swap_nats), 2),
                number(of(|r| r.first_effect_nats), 2),
                number(of(|r| r.first_binding_nats), 2),
                number(of(|r| r.decay_a), 2),
                number(of(|r| r.decay_r2), 2),
                number(of(|r| r.retained_late), 2),
            ]
        })
    });
    text.push_str(&table(&columns, cells));
    text.push_str("\n\n");

    let effect = |row: &SummaryRow| row.first_effect_nats;
    let by_depth = Depth::ALL.map(|d| mean(rows.iter().filter(|r| r.depth == d), effect));
    let claim = |text: &mut String, what: &str, (holds, of): (usize, usize)| {
        let _ = writeln!(text, "- {what}: in {holds} of {of}.");
    };
    let _ = writeln!(
        text,
        "- One exposure raises the facts' own probes by {} (mem), {} (gen), {} (hard_gen) over what \
         held-out facts drift.",
        number(by_depth[0], 2),
        number(by_depth[1], 2),
        number(by_depth[2], 2),
    );
    claim(
        &mut text,
        "The exposure itself shows: the interval of the mem effect is above 0",
        count(rows.iter().filter(|r| r.depth == Depth::Mem), |r| {
            r.first_effect_ci95_low.map(|low| low > 0.0)
        }),
    );
    claim(
        &mut text,
        "Part of the gain is the value's popularity, not its binding to the name: swap above null",
        count(rows.iter(), |r| r.first_swap_effect_nats.map(|e| e > 0.0)),
    );
    claim(
        &mut text,
        "mem > gen",
        ordered(rows, Depth::Mem, Depth::Gen),
    );
    claim(
        &mut text,
        "gen > hard_gen",
        ordered(rows, Depth::Gen, Depth::HardGen),
    );
    claim(
        &mut text,
        "Forgetting is a line in log t (mem and gen, a > 0.1 with R² > 0.6)",
        count(rows.iter().filter(|r| r.depth != Depth::HardGen), |r| {
            Some(r.decay_a? > 0.1 && r.decay_r2? > 0.6)
        }),
    );
    let small_and_large = || {
        let (small, large) = (batch_sizes.first(), batch_sizes.last());
        rows.iter()
            .filter(move |r| Some(&r.batch_size) == small)
            .map(move |small| {
                let twin = rows.iter().find(|r| {
                    Some(&r.batch_size) == large
                        && (&r.checkpoint, &r.scenario, r.seed, &r.arm, r.depth)
                            == (
                                &small.checkpoint,
                                &small.scenario,
                                small.seed,
                                &small.arm,
                                small.depth,
                            )
                });
                (small, twin)
            })
    };
    if batch_sizes.len() > 1 {
        for (what, value) in [
            (
                "The smaller batch has the larger effect",
                effect as fn(&SummaryRow) -> Option<f64>,
            ),
            ("The smaller batch forgets faster", |r| r.decay_a),
            ("The smaller batch has the lower threshold in tokens", |r| {
                r.threshold_log10_tokens.map(|t| -t)
            }),
        ] {
            let compared: Vec<Option<bool>> = small_and_large()
                .map(|(small, large)| Some(value(small)? > value(large?)?))
                .collect();
            claim(&mut text, what, tally(compared));
        }
    }
    text.push_str(
        "\nWhat does not hold at this size is no mistake of the demo: these are models of a hundred \
         thousand\nparameters, and the batch sizes differ in the share of the batch that is \
         injected too.",
    );
    text
}

/// In how many runs one depth gains more than another.
fn ordered(rows: &[SummaryRow], more: Depth, less: Depth) -> (usize, usize) {
    count(rows.iter().filter(|r| r.depth == more), |row| {
        let twin = rows
            .iter()
            .find(|r| (&r.run, &r.arm, r.depth) == (&row.run, &row.arm, less))?;
        Some(row.first_effect_nats? > twin.first_effect_nats?)
    })
}

fn count<'a>(
    rows: impl Iterator<Item = &'a SummaryRow>,
    holds: impl Fn(&SummaryRow) -> Option<bool>,
) -> (usize, usize) {
    tally(rows.map(holds))
}

/// How many hold, of how many that could be told.
fn tally(told: impl IntoIterator<Item = Option<bool>>) -> (usize, usize) {
    told.into_iter()
        .flatten()
        .fold((0, 0), |(holds, of), h| (holds + usize::from(h), of + 1))
}

fn mean<'a>(
    rows: impl Iterator<Item = &'a SummaryRow>,
    value: impl Fn(&SummaryRow) -> Option<f64>,
) -> Option<f64> {
    let values: Vec<f64> = rows.filter_map(value).collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

#[cfg(test)]
mod tests;
