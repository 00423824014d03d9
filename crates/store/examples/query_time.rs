//! How long queries take on runs of the reference's size, and how many bytes a value costs.
//!
//! ```sh
//! cargo run -p imprint-store --example query_time [RUNS [UPDATES]]
//! ```
//!
//! Writes the runs (20, of 3,000 updates) through the ingest writer into a private Postgres, then
//! asks each query several times, one process and no parallel workers, and prints the least time
//! in which the server computed every column of every row.
//! Beside it stand the processor time, and that divided by the processor time of a scan of one run's
//! readings in between: machines differ, and others may work beside this.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use imprint_core::{Arm, ArmSteps, ArmText, FactRange, Placement, Probe, Scenario, Span, Stagger};
use imprint_testkit::{Study, TestDb};
use sqlx::{Connection as _, Executor as _, PgConnection};

/// arXiv 2406.11813 §3: 130 facts, ten of them held out, five probes of each of three depths.
const N_FACTS: u32 = 130;
const PROBES_PER_DEPTH: u16 = 5;
const N_PARAPHRASES: usize = 9;
const N_RUNS: u32 = 20;
const N_UPDATES: u32 = 3000;
const REPETITIONS: usize = 9;

fn study(seed: u32, n_updates: u32) -> Study {
    let arm = |name: &str, start, text, count| Arm {
        name: name.to_owned(),
        facts: FactRange {
            start,
            end: start + 40,
        },
        text,
        steps: ArmSteps::every(0, 100, count),
        stagger: Stagger::default(),
        placement: Placement::RowHead,
    };
    Study {
        label: format!("speed/mid-paper-b128-s{seed}"),
        facts: Study::facts(N_FACTS, PROBES_PER_DEPTH, N_PARAPHRASES),
        scenario_name: "paper".to_owned(),
        scenario: Scenario {
            arm: vec![
                arm("paraphrase", 0, ArmText::Paraphrases, 10),
                arm("duplication", 40, ArmText::Original, 10),
                arm("once", 80, ArmText::Original, 1),
            ],
        },
        swap: false,
        batch_size: 128,
        seq_len: 2048,
        n_updates,
        reading_steps: (0..=n_updates).collect(),
    }
}

/// Noise over all bits of a value, so that nothing compresses.
fn sum_nats(probe: &Probe, span: Span, step: u32) -> f32 {
    let mut x = (u64::from(probe.id.0) << 34) | ((span as u64) << 32) | u64::from(step);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^= x >> 31;
    -20.0 * (x >> 40) as f32 / (1_u64 << 24) as f32
}

struct Question {
    name: &'static str,
    wanted_ms: Option<u32>,
    sql: &'static str,
}

const QUESTIONS: [Question; 7] = [
    Question {
        name: "one curve",
        wanted_ms: Some(10),
        sql: "select * from imprint.curve('speed/mid-paper-b128-s0', 777)",
    },
    Question {
        name: "the mean curve: every arm and depth",
        wanted_ms: Some(150),
        sql: "select * from imprint.mean_curve where run = 'speed/mid-paper-b128-s0'",
    },
    Question {
        name: "effectivity of every exposure",
        wanted_ms: Some(250),
        sql: "select * from imprint.effectivity where run = 'speed/mid-paper-b128-s0'",
    },
    Question {
        name: "retainability at 60 t",
        wanted_ms: None,
        sql: "select * from imprint.retainability where run = 'speed/mid-paper-b128-s0'",
    },
    Question {
        name: "the mean curve of all runs: one arm and depth",
        wanted_ms: Some(250),
        sql: "select run, step, target_mean_nats from imprint.mean_curve
              where run like 'speed/%' and arm = 'once' and depth = 'mem'",
    },
    Question {
        name: "the mean curve of all runs: every arm and depth",
        wanted_ms: Some(250),
        sql: "select run, arm, depth, step, target_mean_nats from imprint.mean_curve
              where run like 'speed/%'",
    },
    Question {
        name: "the mean of all runs' mean curves",
        wanted_ms: None,
        sql: "select arm, depth, step, avg(target_mean_nats) from imprint.mean_curve
              where run like 'speed/%' group by arm, depth, step",
    },
];

/// A scan of the chunks of a run: what a query that looks at everything must do at least.
const SCAN: &str = "select sum(target_sum_nats[1]) from imprint.probe_chunk
                    where run_id = (select imprint.run_id('speed/mid-paper-b128-s0'))";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut count = |default| -> Result<u32, Box<dyn Error>> {
        Ok(arguments.next().map_or(Ok(default), |n| n.parse())?)
    };
    let (n_runs, n_updates) = (count(N_RUNS)?, count(N_UPDATES)?);
    let db = TestDb::start_durable().await;
    let started = Instant::now();
    for seed in 0..n_runs {
        let study = study(seed, n_updates);
        let id = study.submit(&db.store).await;
        study.measure(&db.store, id, sum_nats).await;
    }
    let n_probes = study(0, 1).probes().len();
    let n_values = f64::from(n_runs) * f64::from(n_updates + 1) * n_probes as f64 * 3.0;
    let per_second = n_values / started.elapsed().as_secs_f64();
    println!(
        "{n_runs} runs of {n_updates} updates × {n_probes} probes × 3 spans, written at {:.1} M \
         values/s\n",
        per_second / 1e6
    );

    let mut connection = db.store.pool().acquire().await?;
    connection.execute("vacuum analyze").await?;
    connection
        .execute("set max_parallel_workers_per_gather = 0; set cursor_tuple_fraction = 1")
        .await?;
    let pid: i32 = sqlx::query_scalar("select pg_backend_pid()")
        .fetch_one(&mut *connection)
        .await?;
    let server = PathBuf::from(format!("/proc/{pid}/schedstat"));
    println!(
        "| query | rows | wanted ms | wall ms | processor ms | scans of one run |\n\
         |---|---|---|---|---|---|"
    );
    for question in &QUESTIONS {
        let mut scan = cost(&mut connection, &server, SCAN).await?;
        let mut least = cost(&mut connection, &server, question.sql).await?;
        for _ in 1..REPETITIONS {
            scan = scan.least(cost(&mut connection, &server, SCAN).await?);
            least = least.least(cost(&mut connection, &server, question.sql).await?);
        }
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        println!(
            "| {} | {} | {} | {:.1} | {:.1} | {:.2} |",
            question.name,
            least.n_rows,
            question.wanted_ms.map_or("–".to_owned(), |n| n.to_string()),
            ms(least.wall),
            ms(least.processor),
            ms(least.processor) / ms(scan.processor),
        );
    }

    println!("\n| table | bytes a value |\n|---|---|");
    let mut total = 0.0;
    for table in ["step_reading", "probe_chunk", "step_mean", "update_stats"] {
        let bytes: i64 = sqlx::query_scalar(
            "select sum(pg_total_relation_size(inhrelid))::int8 from pg_inherits
             where inhparent = ('imprint.' || $1)::regclass",
        )
        .bind(table)
        .fetch_one(&mut *connection)
        .await?;
        let per_value = bytes as f64 / n_values;
        total += per_value;
        println!("| {table} | {per_value:.2} |");
    }
    println!("| all | {total:.2} |");
    Ok(())
}

/// What a query costs the server.
#[derive(Clone, Copy)]
struct Cost {
    wall: Duration,
    /// Processor time of the connection's server process, which others' work does not add to.
    processor: Duration,
    n_rows: u64,
}

impl Cost {
    fn least(self, other: Self) -> Self {
        Self {
            wall: self.wall.min(other.wall),
            processor: self.processor.min(other.processor),
            n_rows: other.n_rows,
        }
    }
}

/// What it costs to compute every column of every row; the rows stay in the server.
async fn cost(db: &mut PgConnection, server: &Path, sql: &str) -> Result<Cost, Box<dyn Error>> {
    let mut tx = db.begin().await?;
    let declare = format!("declare answer no scroll cursor for {sql}");
    let (started, used) = (Instant::now(), processor_time(server)?);
    tx.execute(sqlx::AssertSqlSafe(declare)).await?;
    let moved = tx.execute("move all in answer").await?;
    let cost = Cost {
        wall: started.elapsed(),
        processor: processor_time(server)? - used,
        n_rows: moved.rows_affected(),
    };
    tx.rollback().await?;
    Ok(cost)
}

/// The first number of `/proc/<pid>/schedstat`: nanoseconds on a processor.
fn processor_time(schedstat: &Path) -> Result<Duration, Box<dyn Error>> {
    let text = std::fs::read_to_string(schedstat)?;
    let nanoseconds = text.split_whitespace().next().ok_or("empty schedstat")?;
    Ok(Duration::from_nanos(nanoseconds.parse()?))
}
