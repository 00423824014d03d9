//! What came out of a load, for a person or a program.

use std::time::Duration;

use serde::Serialize;

use super::Load;
use super::processes::{Peaks, Usage};
use crate::table::{Column, number, table, thousands};

/// One round as it was measured.
pub(super) struct Round {
    pub(super) took: Duration,
    /// Until the chunks were made, too.
    pub(super) took_with_chunks: Duration,
    /// From the spool to the disk, of each step.
    pub(super) latencies: Vec<Duration>,
    pub(super) usage: Usage,
    /// The same bytes by the shortest way.
    pub(super) limit: Option<Duration>,
    pub(super) limit_usage: Usage,
}

/// A load and its rounds; rates are those of the median round.
#[derive(Serialize)]
pub(super) struct Measured {
    trainers: u32,
    probes: u32,
    steps_per_round: u32,
    rounds: u32,
    seconds_per_step: Option<f64>,
    steps_per_commit_limit: u16,
    values_per_second: f64,
    steps_per_second: f64,
    ack_p50_ms: f64,
    ack_p99_ms: f64,
    ack_max_ms: f64,
    steps_per_commit: f64,
    service_cores: Option<f64>,
    database_cores: Option<f64>,
    /// Of service and database together.
    cpu_ns_per_value: Option<f64>,
    /// Of the database while it takes in the limit.
    limit_database_cpu_ns_per_value: Option<f64>,
    service_peak_bytes: Option<u64>,
    bytes_per_value: f64,
    /// Of the limit, round by round.
    limit_ratio_median: Option<f64>,
    limit_ratio_best: Option<f64>,
    /// The same, waiting for the chunks too.
    limit_ratio_with_chunks_median: Option<f64>,
    limit_values_per_second: Option<f64>,
    values_right: u64,
    values_wrong: u64,
}

impl Measured {
    pub(super) fn new(
        load: &Load,
        rounds: &[Round],
        peaks: Peaks,
        n_commits: u64,
        n_bytes: u64,
        (values_right, values_wrong): (u64, u64),
    ) -> Self {
        let n_steps = f64::from(load.steps * load.trainers);
        let n_values = n_steps * 3.0 * f64::from(load.probes);
        let n_stored = values_right / (3 * u64::from(load.probes));
        let all: Duration = rounds.iter().map(|r| r.took_with_chunks).sum();
        let cores = |of: fn(&Usage) -> Option<Duration>| {
            let used: Option<Duration> = rounds.iter().map(|r| of(&r.usage)).sum();
            Some(used?.as_secs_f64() / all.as_secs_f64())
        };
        let n_all = n_values * f64::from(load.rounds);
        let cpu = |of: fn(&Round) -> Option<Duration>| {
            let used: Option<Duration> = rounds.iter().map(of).sum();
            Some(used?.as_secs_f64() * 1e9 / n_all)
        };
        let mut latencies: Vec<f64> = rounds
            .iter()
            .flat_map(|r| &r.latencies)
            .map(|l| l.as_secs_f64() * 1e3)
            .collect();
        let seconds = median(rounds.iter().map(|r| r.took.as_secs_f64())).unwrap_or(f64::NAN);
        let ratios = |took: fn(&Round) -> Duration| -> Vec<f64> {
            let ratio = |r: &Round| Some(r.limit?.as_secs_f64() / took(r).as_secs_f64());
            rounds.iter().filter_map(ratio).collect()
        };
        let limits = rounds.iter().filter_map(|r| Some(r.limit?.as_secs_f64()));
        Self {
            trainers: load.trainers,
            probes: load.probes,
            steps_per_round: load.steps,
            rounds: load.rounds,
            seconds_per_step: load.every,
            steps_per_commit_limit: load.steps_per_commit.get(),
            values_per_second: n_values / seconds,
            steps_per_second: n_steps / seconds,
            ack_p50_ms: quantile(&mut latencies, 0.5),
            ack_p99_ms: quantile(&mut latencies, 0.99),
            ack_max_ms: quantile(&mut latencies, 1.0),
            steps_per_commit: n_stored as f64 / n_commits as f64,
            service_cores: cores(|u| u.service),
            database_cores: cores(|u| u.database),
            cpu_ns_per_value: cpu(|r| Some(r.usage.service? + r.usage.database?)),
            limit_database_cpu_ns_per_value: cpu(|r| {
                r.limit_usage.database.filter(|_| r.limit.is_some())
            }),
            service_peak_bytes: peaks.service_bytes,
            bytes_per_value: n_bytes as f64 / values_right as f64,
            limit_ratio_best: ratios(|r| r.took).into_iter().reduce(f64::max),
            limit_ratio_median: median(ratios(|r| r.took)),
            limit_ratio_with_chunks_median: median(ratios(|r| r.took_with_chunks)),
            limit_values_per_second: median(limits).map(|s| n_values / s),
            values_right,
            values_wrong,
        }
    }

    /// Whether every value came back as it was sent.
    pub(super) fn is_whole(&self) -> bool {
        self.values_wrong == 0 && self.values_right > 0
    }

    fn name(&self) -> String {
        let pace = match (self.seconds_per_step, self.steps_per_commit_limit) {
            (Some(s), _) => format!("a step every {s} s"),
            (None, 1) => "flat out, one step a commit".to_owned(),
            (None, k) => format!("flat out, up to {k} steps a commit"),
        };
        format!("{} × {} probes, {pace}", self.trainers, self.probes)
    }
}

/// A line for each quantity, a column for each load.
pub(super) fn as_table(all: &[Measured]) -> String {
    type Cell = fn(&Measured) -> String;
    let lines: [(&str, Cell); 19] = [
        ("values/s", |m| thousands(m.values_per_second as u64)),
        ("steps/s", |m| number(Some(m.steps_per_second), 0)),
        ("of the limit, median round", |m| {
            number(m.limit_ratio_median, 2)
        }),
        ("of the limit, best round", |m| {
            number(m.limit_ratio_best, 2)
        }),
        ("of the limit, chunks made too, median", |m| {
            number(m.limit_ratio_with_chunks_median, 2)
        }),
        ("the limit, values/s", |m| {
            m.limit_values_per_second
                .map_or_else(|| "–".to_owned(), |v| thousands(v as u64))
        }),
        ("acknowledged, p50 ms", |m| number(Some(m.ack_p50_ms), 2)),
        ("acknowledged, p99 ms", |m| number(Some(m.ack_p99_ms), 2)),
        ("acknowledged, max ms", |m| number(Some(m.ack_max_ms), 2)),
        ("steps a commit", |m| number(Some(m.steps_per_commit), 2)),
        ("service, cores", |m| number(m.service_cores, 2)),
        ("database, cores", |m| number(m.database_cores, 2)),
        ("service and database, cores", |m| {
            number(m.service_cores.zip(m.database_cores).map(|(a, b)| a + b), 2)
        }),
        ("service and database, CPU ns a value", |m| {
            number(m.cpu_ns_per_value, 1)
        }),
        ("the limit, database, CPU ns a value", |m| {
            number(m.limit_database_cpu_ns_per_value, 1)
        }),
        ("service, most memory, MiB", |m| {
            number(
                m.service_peak_bytes.map(|b| b as f64 / f64::from(1 << 20)),
                1,
            )
        }),
        ("bytes on disk a value", |m| {
            number(Some(m.bytes_per_value), 2)
        }),
        ("values read back, right", |m| thousands(m.values_right)),
        ("values read back, wrong", |m| thousands(m.values_wrong)),
    ];
    let mut blocks = Vec::new();
    for m in all {
        let columns = [Column::Left("quantity"), Column::Right("measured")];
        let rows = lines
            .iter()
            .map(|(name, cell)| vec![(*name).to_owned(), cell(m)]);
        blocks.push(format!("{}\n\n{}", m.name(), table(&columns, rows)));
    }
    blocks.join("\n\n")
}

fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    (!values.is_empty()).then(|| quantile(&mut values, 0.5))
}

/// The value below which a share of the values lies.
pub(super) fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    values
        .get((last as f64 * share).round() as usize)
        .copied()
        .unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests;
