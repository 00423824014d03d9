//! What came out, beside what is wanted.

use std::time::Duration;

use serde::Serialize;

use super::scraped::Durations;
use crate::commands::bench::processes::{Peaks, Usage};
use crate::commands::bench::report::quantile;
use crate::table::{Column, number, table, thousands};

/// Seconds from the call that submits 10,000 runs until a list shows them.
const MAX_SHOWN_SECONDS: f64 = 5.0;

/// Milliseconds of one plan over 10,000 runs.
const MAX_PLAN_MS: f64 = 100.0;

/// Cores that the orchestrator takes while 1,000 trainers tell it how they fare.
const MAX_CORES: f64 = 0.5;

pub(super) struct Submitted {
    pub(super) validated_in: Option<Duration>,
    pub(super) stored_in: Option<Duration>,
    /// Until the call returned.
    pub(super) answered_in: Duration,
    /// Until the list of experiments and the first page of the runs were there, too.
    pub(super) shown_in: Duration,
}

/// How many runs are there.
pub(super) struct Listed {
    pub(super) n_new: u32,
    pub(super) n_counted: u32,
    pub(super) n_on_first_page: u32,
}

/// A while of looking.
pub(super) struct Waited {
    pub(super) took: Duration,
    pub(super) usage: Usage,
    pub(super) read: Durations,
    pub(super) plan: Durations,
    pub(super) act: Durations,
}

/// A while of heartbeats.
pub(super) struct Trained {
    pub(super) begun_in: Duration,
    pub(super) heartbeat: Duration,
    pub(super) latencies: Vec<Duration>,
    pub(super) n_lost: u32,
    /// Trainers of which the list says what they said last.
    pub(super) n_shown: u32,
    pub(super) waited: Waited,
}

#[derive(Serialize)]
pub(super) struct Measured {
    runs: u32,
    trainers: u32,
    runs_stored: u32,
    runs_counted: u32,
    runs_on_first_page: u32,
    validated_seconds: Option<f64>,
    stored_seconds: Option<f64>,
    /// Of the call, without the two before.
    answered_seconds: f64,
    listed_seconds: f64,
    shown_seconds: f64,
    waiting: Looking,
    trainers_begun_seconds: f64,
    heartbeat_seconds: f64,
    training: Looking,
    heartbeats: u64,
    heartbeats_lost: u32,
    heartbeat_p50_ms: f64,
    heartbeat_p99_ms: f64,
    heartbeat_max_ms: f64,
    trainers_shown: u32,
    orchestrator_peak_bytes: Option<u64>,
}

/// What looking at all runs takes.
#[derive(Serialize)]
struct Looking {
    looks: u64,
    looks_per_second: f64,
    read_ms: Option<f64>,
    plan_ms: Option<f64>,
    /// No plan took longer, by a histogram's bounds.
    plan_within_ms: Option<f64>,
    act_ms: Option<f64>,
    orchestrator_cores: Option<f64>,
    database_cores: Option<f64>,
}

impl From<&Waited> for Looking {
    fn from(waited: &Waited) -> Self {
        let seconds = waited.took.as_secs_f64();
        let cores = |used: Option<Duration>| Some(used?.as_secs_f64() / seconds);
        let mean = |durations: &Durations| durations.mean().map(ms);
        Self {
            looks: waited.plan.n,
            looks_per_second: waited.plan.n as f64 / seconds,
            read_ms: mean(&waited.read),
            plan_ms: mean(&waited.plan),
            plan_within_ms: waited.plan.all_within().map(ms),
            act_ms: mean(&waited.act),
            orchestrator_cores: cores(waited.usage.service),
            database_cores: cores(waited.usage.database),
        }
    }
}

impl Measured {
    pub(super) fn new(
        (runs, trainers): (u32, u32),
        (submitted, listed): (Submitted, Listed),
        waited: &Waited,
        trained: &Trained,
        peaks: Peaks,
    ) -> Self {
        let inside = [submitted.validated_in, submitted.stored_in];
        let inside: Duration = inside.into_iter().flatten().sum();
        let mut latencies: Vec<f64> = trained.latencies.iter().map(|l| ms(*l)).collect();
        let seconds = |took: Option<Duration>| took.map(|t| t.as_secs_f64());
        Self {
            runs,
            trainers,
            runs_stored: listed.n_new,
            runs_counted: listed.n_counted,
            runs_on_first_page: listed.n_on_first_page,
            validated_seconds: seconds(submitted.validated_in),
            stored_seconds: seconds(submitted.stored_in),
            answered_seconds: submitted.answered_in.saturating_sub(inside).as_secs_f64(),
            listed_seconds: (submitted.shown_in - submitted.answered_in).as_secs_f64(),
            shown_seconds: submitted.shown_in.as_secs_f64(),
            waiting: Looking::from(waited),
            trainers_begun_seconds: trained.begun_in.as_secs_f64(),
            heartbeat_seconds: trained.heartbeat.as_secs_f64(),
            training: Looking::from(&trained.waited),
            heartbeats: latencies.len() as u64,
            heartbeats_lost: trained.n_lost,
            heartbeat_p50_ms: quantile(&mut latencies, 0.5),
            heartbeat_p99_ms: quantile(&mut latencies, 0.99),
            heartbeat_max_ms: quantile(&mut latencies, 1.0),
            trainers_shown: trained.n_shown,
            orchestrator_peak_bytes: peaks.service_bytes,
        }
    }

    /// Whether everything is there that was submitted and said.
    pub(super) fn is_whole(&self) -> bool {
        let is_there = self.runs_stored == self.runs && self.runs_counted == self.runs;
        is_there
            && self.heartbeats > 0
            && self.heartbeats_lost == 0
            && self.trainers_shown == self.trainers
    }
}

fn ms(took: Duration) -> f64 {
    took.as_secs_f64() * 1e3
}

/// A line for each quantity; limits hold for the numbers of the defaults, and say nothing of others.
pub(super) fn as_table(m: &Measured) -> String {
    let none = String::new;
    let at_most = |limit: f64, digits| format!("≤ {}", number(Some(limit), digits));
    let mut rows: Vec<[String; 3]> = Vec::new();
    let mut row = |name: &str, value: String, limit: String| {
        rows.push([name.to_owned(), value, limit]);
    };
    row("validated, s", number(m.validated_seconds, 2), none());
    row("stored, s", number(m.stored_seconds, 2), none());
    row(
        "answered beside that, s",
        number(Some(m.answered_seconds), 2),
        none(),
    );
    row("listed, s", number(Some(m.listed_seconds), 2), none());
    row(
        "from the call until they are shown, s",
        number(Some(m.shown_seconds), 2),
        at_most(MAX_SHOWN_SECONDS, 0),
    );
    row(
        "runs stored, and counted by the list",
        counted(m),
        thousands(m.runs.into()),
    );
    for (who, looking) in [("all wait", &m.waiting), ("trainers run", &m.training)] {
        let mut row = |what: &str, value: Option<f64>, digits, limit| {
            row(&format!("{who}: {what}"), number(value, digits), limit);
        };
        row("looks/s", Some(looking.looks_per_second), 2, none());
        row("a look reads, ms", looking.read_ms, 1, none());
        row(
            "a look plans, ms",
            looking.plan_ms,
            1,
            at_most(MAX_PLAN_MS, 0),
        );
        row(
            "no plan takes longer than, ms",
            looking.plan_within_ms,
            1,
            none(),
        );
        row("a look acts, ms", looking.act_ms, 1, none());
        let limit = match who {
            "trainers run" => at_most(MAX_CORES, 1),
            _ => none(),
        };
        row("orchestrator, cores", looking.orchestrator_cores, 3, limit);
        row("database, cores", looking.database_cores, 3, none());
    }
    row(
        "trainers begun, s",
        number(Some(m.trainers_begun_seconds), 2),
        none(),
    );
    row("heartbeats answered", thousands(m.heartbeats), none());
    row(
        "heartbeats lost",
        m.heartbeats_lost.to_string(),
        "0".to_owned(),
    );
    row(
        "answered, p50 ms",
        number(Some(m.heartbeat_p50_ms), 2),
        none(),
    );
    row(
        "answered, p99 ms",
        number(Some(m.heartbeat_p99_ms), 2),
        none(),
    );
    row(
        "answered, max ms",
        number(Some(m.heartbeat_max_ms), 2),
        none(),
    );
    row(
        "trainers shown as they said last",
        m.trainers_shown.to_string(),
        m.trainers.to_string(),
    );
    let mib = m
        .orchestrator_peak_bytes
        .map(|b| b as f64 / f64::from(1 << 20));
    row("orchestrator, most memory, MiB", number(mib, 1), none());
    let columns = [
        Column::Left("quantity"),
        Column::Right("measured"),
        Column::Right("wanted"),
    ];
    let name = format!(
        "{} runs; {} trainers, a heartbeat every {} s",
        thousands(m.runs.into()),
        thousands(m.trainers.into()),
        m.heartbeat_seconds
    );
    format!(
        "{name}\n\n{}",
        table(&columns, rows.into_iter().map(Vec::from))
    )
}

fn counted(m: &Measured) -> String {
    match m.runs_stored == m.runs_counted {
        true => thousands(m.runs_stored.into()),
        false => format!("{} and {}", m.runs_stored, m.runs_counted),
    }
}
