//! What new runs will take, for people and for programs.

use imprint_proto::pb;
use serde::Serialize;

use crate::table::{Column, table, thousands};

const MIB: f64 = (1_u64 << 20) as f64;
const GIB: f64 = 1024.0 * MIB;

/// Sums, then what decides time and memory, a line for each model, batch and device.
pub(super) fn in_words(estimate: &pb::Estimate) -> String {
    let mut lines = vec![format!(
        "{}: {} tokens of training, {} tokens of probes, {} readings, {} in the database.",
        match estimate.n_runs {
            1 => "The new run".to_owned(),
            n => format!("The {} new runs", thousands(n.into())),
        },
        thousands(estimate.n_tokens),
        thousands(estimate.n_probe_tokens),
        thousands(estimate.n_readings),
        bytes(estimate.database_bytes),
    )];
    lines.push(table(
        &[
            Column::Right("runs"),
            Column::Left("such as"),
            Column::Left("executor"),
            Column::Left("device"),
            Column::Right("parameters"),
            Column::Right("micro-batch"),
            Column::Right("memory"),
            Column::Right("tokens/s"),
            Column::Left("measured on"),
            Column::Right("device time"),
        ],
        estimate.groups.iter().map(row),
    ));
    for problem in problems(estimate) {
        lines.push(format!("memory unknown: {problem}"));
    }
    let unrated: u32 = (estimate.groups.iter())
        .filter(|group| group.tokens_per_second.is_none())
        .map(|group| group.n_runs)
        .sum();
    lines.push(match estimate.device_hours {
        Some(hours) => format!("About {} of one device in all.", time(hours)),
        None => format!(
            "No rate is known for {}: no run of the same model is complete on the same device; \
             state one with --tokens-per-second N.",
            runs(unrated)
        ),
    });
    lines.join("\n")
}

fn row(group: &pb::EstimateGroup) -> Vec<String> {
    let absent = || "–".to_owned();
    vec![
        group.n_runs.to_string(),
        group.run.clone(),
        group.executor.clone(),
        group.device.clone(),
        group.n_parameters.map_or_else(absent, thousands),
        match (group.micro_batch_rows, group.n_parameters) {
            (Some(rows), _) => format!("{rows} of {}", group.batch_size),
            (None, Some(_)) => "as fits".to_owned(),
            (None, None) => absent(),
        },
        match (group.memory_bytes, group.micro_batch_rows) {
            (Some(n), Some(_)) => memory(n),
            (Some(n), None) => format!("≥ {}", memory(n)),
            (None, _) => absent(),
        },
        (group.tokens_per_second).map_or_else(absent, |rate| thousands(rate.round() as u64)),
        match (group.tokens_per_second, group.n_measured_runs) {
            (None, _) => absent(),
            (Some(_), 0) => "stated".to_owned(),
            (Some(_), n) => runs(n),
        },
        group.device_hours.map_or_else(absent, time),
    ]
}

/// Why memory is not known, each reason once.
fn problems(estimate: &pb::Estimate) -> Vec<&str> {
    let mut problems: Vec<&str> = Vec::new();
    for group in &estimate.groups {
        if !group.problem.is_empty() && !problems.contains(&&*group.problem) {
            problems.push(&group.problem);
        }
    }
    problems
}

fn runs(n: u32) -> String {
    match n {
        1 => "1 run".to_owned(),
        n => format!("{n} runs"),
    }
}

fn time(hours: f64) -> String {
    match hours {
        _ if hours >= 10.0 => format!("{} h", thousands(hours.round() as u64)),
        _ if hours >= 1.0 => format!("{hours:.1} h"),
        _ if hours >= 1.0 / 60.0 => format!("{:.0} min", hours * 60.0),
        _ => format!("{:.0} s", (hours * 3600.0).ceil()),
    }
}

fn memory(n: u64) -> String {
    match n as f64 {
        n if n >= 10.0 * GIB => format!("{:.0} GiB", n / GIB),
        n if n >= GIB => format!("{:.1} GiB", n / GIB),
        n => format!("{:.0} MiB", (n / MIB).ceil()),
    }
}

fn bytes(n: u64) -> String {
    match n as f64 {
        n if n >= 1e9 => format!("{:.1} GB", n / 1e9),
        n if n >= 1e6 => format!("{:.0} MB", n / 1e6),
        n => format!("{:.0} kB", n / 1e3),
    }
}

/// The same for programs.
#[derive(Serialize)]
pub(super) struct Answer<'a> {
    n_runs: u32,
    n_tokens: u64,
    n_probe_tokens: u64,
    n_readings: u64,
    database_bytes: u64,
    device_hours: Option<f64>,
    groups: Vec<Group<'a>>,
}

#[derive(Serialize)]
struct Group<'a> {
    run: &'a str,
    n_runs: u32,
    batch_size: u32,
    executor: &'a str,
    device: &'a str,
    n_parameters: Option<u64>,
    micro_batch_rows: Option<u32>,
    memory_bytes: Option<u64>,
    problem: &'a str,
    tokens_per_second: Option<f64>,
    n_measured_runs: u32,
    device_hours: Option<f64>,
}

impl<'a> From<&'a pb::Estimate> for Answer<'a> {
    fn from(estimate: &'a pb::Estimate) -> Self {
        let group = |g: &'a pb::EstimateGroup| Group {
            run: &g.run,
            n_runs: g.n_runs,
            batch_size: g.batch_size,
            executor: &g.executor,
            device: &g.device,
            n_parameters: g.n_parameters,
            micro_batch_rows: g.micro_batch_rows,
            memory_bytes: g.memory_bytes,
            problem: &g.problem,
            tokens_per_second: g.tokens_per_second,
            n_measured_runs: g.n_measured_runs,
            device_hours: g.device_hours,
        };
        Self {
            n_runs: estimate.n_runs,
            n_tokens: estimate.n_tokens,
            n_probe_tokens: estimate.n_probe_tokens,
            n_readings: estimate.n_readings,
            database_bytes: estimate.database_bytes,
            device_hours: estimate.device_hours,
            groups: estimate.groups.iter().map(group).collect(),
        }
    }
}
