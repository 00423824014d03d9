//! Every query against a real Postgres.

mod analysis;
mod archive;
mod derived;
mod embedded;
mod histories;
mod ingest;
mod many_runs;
mod migrations;
mod results;
mod roles;
mod schema;
mod sql;
mod tokens;

use imprint_core::{StepReadings, UpdateStats};
use imprint_store::Store;
use imprint_store::ingest::{Cursors, Message, Writer};
use imprint_testkit::SeedRun;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// A runner of so many cases against a database, always the same ones; in a soak
/// (`PROPTEST_CASES` is set) of ten times as many, others each time.
fn random_cases(n: u32) -> TestRunner {
    let is_soak = std::env::var_os("PROPTEST_CASES").is_some();
    let config = Config {
        cases: if is_soak { 10 * n } else { n },
        failure_persistence: None,
        max_shrink_iters: 60,
        ..Config::default()
    };
    match is_soak {
        true => TestRunner::new(config),
        false => TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha)),
    }
}

/// A reading whose values tell who measured it, when, and where they stand.
fn reading(run: &SeedRun, index: u32, measured_by: u32) -> StepReadings {
    let value = |span: u32| {
        (0..run.n_probes())
            .map(|probe| {
                -((measured_by * 1000 + index) as f32) - (4 * probe + span) as f32 / 65536.
            })
            .collect()
    };
    StepReadings {
        index,
        step: run.reading_steps()[index as usize],
        measured_by,
        first_sum_nats: value(0),
        target_sum_nats: value(1),
        full_sum_nats: value(2),
    }
}

fn update(step: u32, measured_by: u32) -> UpdateStats {
    UpdateStats {
        step,
        measured_by,
        loss_nats: f64::from(measured_by * 1000 + step),
        learning_rate: 1e-3,
        grad_norm: 2.0,
        update_norm: 0.5,
        n_tokens: 32,
        n_injected_tokens: 8,
        duration_ms: 4.0,
    }
}

fn readings(run: &SeedRun, indices: std::ops::Range<u32>, measured_by: u32) -> Vec<Message> {
    indices
        .map(|i| Message::Reading(reading(run, i, measured_by)))
        .collect()
}

fn updates(steps: std::ops::Range<u32>, measured_by: u32) -> Vec<Message> {
    steps
        .map(|t| Message::Update(update(t, measured_by)))
        .collect()
}

fn cursors(next_reading: u32, next_update: u32) -> Cursors {
    Cursors {
        next_reading,
        next_update,
    }
}

/// Opens, and appends everything that a run of one attempt measures.
async fn measure_all(store: &Store, run_id: i32, run: &SeedRun) {
    let attempt = imprint_testkit::begin_attempt(store, run_id).await;
    let (mut writer, _) = Writer::open(store, run_id, attempt, 0, "machine")
        .await
        .unwrap();
    let n_readings = run.reading_steps().len() as u32;
    for from in (0..n_readings).step_by(16) {
        let to = (from + 16).min(n_readings);
        writer
            .append(&readings(run, from..to, attempt))
            .await
            .unwrap();
    }
    let done = writer
        .append(&updates(0..run.n_updates, attempt))
        .await
        .unwrap();
    assert_eq!(done.cursors, cursors(n_readings, run.n_updates));
    imprint_store::derived::make_chunks(store, run_id)
        .await
        .unwrap();
}
