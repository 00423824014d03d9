//! Whether a database of many runs holds: locks, planning time, and what dropping a run costs.
//!
//! `cargo run -p imprint-store --example many_runs [-- RUNS WRITERS]`, with Postgres' own defaults for
//! its lock table and a durable commit.

use std::time::{Duration, Instant};

use imprint_core::StepReadings;
use imprint_store::archive::{Sure, archive, drop_run, restore};
use imprint_store::ingest::{Message, Writer};
use imprint_store::{Store, derived};
use imprint_testkit::{ManyRuns, SeedRun, TestDb, begin_attempt, complete_run, seed_run};
use sqlx::AssertSqlSafe;

/// The reference study's run.
const N_READINGS: u32 = 3000;
const PROBES_PER_FACT: u32 = 15;
const N_FACTS: u32 = 130;

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default: u32| {
        arguments
            .next()
            .map_or(default, |a| a.parse().expect("a number"))
    };
    let (n_runs, n_writers) = (number(10_000), number(64) as usize);
    let db = TestDb::start_durable().await;
    // What a server has that nobody configured; the private cluster has room for more.
    for setting in ["max_locks_per_transaction = 64", "max_connections = 100"] {
        execute(&db.store, &format!("alter system set {setting}")).await;
    }
    db.kill_postmaster();
    db.restart().await;

    let load = ManyRuns {
        n_runs,
        n_writers,
        n_readers: 8,
        n_rounds: 10,
    };
    let report = load.run(&db).await;
    println!(
        "{n_runs} runs, {} partitions a table, {} tables and indexes",
        report.n_partitions, report.n_relations
    );
    println!(
        "{} readings written to {n_writers} runs in {:.1} s beside 8 sessions of queries",
        report.readings_written,
        report.writing.as_secs_f64()
    );
    println!(
        "locks held at once: {} of room for {}",
        report.peak_locks, report.lock_room
    );
    println!(
        "\n| query | n | first plan ms | plan ms | answer ms | longest ms |\n|---|---|---|---|---|---|"
    );
    for (name, cost) in &report.queries {
        println!(
            "| {name} | {} | {:.1} | {:.1} | {:.1} | {:.1} |",
            cost.n, cost.first_planning_ms, cost.planning_ms, cost.answer_ms, cost.longest_ms
        );
    }
    println!("\nfailures: {}", report.failures.len());
    for failure in &report.failures {
        println!("  {failure}");
    }
    put_away(&db).await;
    assert!(report.failures.is_empty(), "no query may fail");
}

/// Archives, drops and restores runs of the reference's size.
async fn put_away(db: &TestDb) {
    let store = &db.store;
    let mut run_ids = Vec::new();
    for n in 0..3 {
        let run = SeedRun {
            label: format!("large/{n}"),
            n_facts: N_FACTS,
            probes_per_fact: PROBES_PER_FACT,
            swap: false,
            n_updates: N_READINGS - 1,
            ..SeedRun::default()
        };
        let run_id = seed_run(store, &run).await;
        let (took, ()) = timed(measure(store, run_id, &run)).await;
        println!(
            "large run {n}: {} probes × {N_READINGS} readings stored in {}",
            run.n_probes(),
            seconds(took)
        );
        complete_run(store, run_id).await;
        run_ids.push(run_id);
    }
    execute(store, "vacuum analyze").await;
    println!("on disk, their partitions: {}", size(store).await);
    let out = tempfile::tempdir().expect("make a directory");
    let dir = out.path().join("archive");
    let (took, manifest) = timed(archive(store, run_ids[0], &dir)).await;
    let n_bytes: u64 = (manifest.expect("archive").tables.iter())
        .map(|t| t.file_bytes)
        .sum();
    println!(
        "archive: {} for {:.1} MB",
        seconds(took),
        n_bytes as f64 / 1e6
    );
    let (took, dropped) = timed(drop_run(store, run_ids[0], Sure::Archived(&dir), false)).await;
    dropped.expect("drop an archived run");
    println!("drop, compared with its archive: {}", seconds(took));
    let (took, dropped) = timed(drop_run(store, run_ids[1], Sure::Yes, false)).await;
    println!(
        "drop: {} for {} rows",
        seconds(took),
        dropped.expect("drop a run").n_rows
    );
    println!("on disk after dropping two of three: {}", size(store).await);
    let (took, ()) = timed(execute(store, "vacuum")).await;
    println!("vacuum: {}, then {}", seconds(took), size(store).await);
    let (took, restored) = timed(restore(store, &dir)).await;
    restored.expect("restore");
    println!("restore: {}, then {}", seconds(took), size(store).await);
}

async fn measure(store: &Store, run_id: i32, run: &SeedRun) {
    let attempt = begin_attempt(store, run_id).await;
    let (mut writer, _) = Writer::open(store, run_id, attempt, 0, "machine")
        .await
        .expect("open a stream");
    // Noise, as readings are: a run's values do not repeat.
    let mut noise = run_id as u32;
    let mut span = || {
        (0..run.n_probes())
            .map(|_| {
                noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                -(noise as f32) / 4e8
            })
            .collect::<Vec<f32>>()
    };
    for from in (0..N_READINGS).step_by(16) {
        let batch: Vec<Message> = (from..(from + 16).min(N_READINGS))
            .map(|index| {
                Message::Reading(StepReadings {
                    index,
                    step: index,
                    measured_by: attempt,
                    first_sum_nats: span(),
                    target_sum_nats: span(),
                    full_sum_nats: span(),
                })
            })
            .collect();
        writer.append(&batch).await.expect("store readings");
    }
    let made = derived::make_chunks(store, run_id).await;
    made.expect("make chunks");
}

async fn timed<T>(work: impl Future<Output = T>) -> (Duration, T) {
    let began = Instant::now();
    let done = work.await;
    (began.elapsed(), done)
}

fn seconds(took: Duration) -> String {
    format!("{:.2} s", took.as_secs_f64())
}

async fn execute(store: &Store, statement: &str) {
    sqlx::raw_sql(AssertSqlSafe(statement))
        .execute(store.pool())
        .await
        .unwrap_or_else(|e| panic!("{statement}: {e}"));
}

/// Of everything, and of the free space that new rows can use.
async fn size(store: &Store) -> String {
    let bytes: i64 = sqlx::query_scalar(
        "select sum(pg_total_relation_size(oid))::int8 from pg_class
         where relnamespace = 'imprint'::regnamespace and relkind = 'r'",
    )
    .fetch_one(store.pool())
    .await
    .expect("ask for sizes");
    format!("{:.1} MB", bytes as f64 / 1e6)
}
