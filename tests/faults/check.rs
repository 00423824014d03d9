//! Whether what is stored of a run is what its attempts measured and were promised.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::AddAssign;
use std::path::Path;
use std::time::Duration;

use imprint_core::simulated as values;
use imprint_e2e::simulated::{self, AttemptLog};
use imprint_e2e::{Lab, succeeds};
use imprint_proto::pb;
use imprint_testkit::wait_until;

/// How long chunks may take to be made after the readings are stored.
const CHUNKS_WITHIN: Duration = Duration::from_secs(30);

/// What was there to be checked.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Found {
    pub(crate) n_attempts: usize,
    pub(crate) n_readings: usize,
    pub(crate) n_superseded: usize,
    /// Readings that an attempt was told are durable, attempt by attempt.
    pub(crate) n_acknowledged: usize,
}

impl AddAssign for Found {
    fn add_assign(&mut self, other: Self) {
        self.n_attempts += other.n_attempts;
        self.n_readings += other.n_readings;
        self.n_superseded += other.n_superseded;
        self.n_acknowledged += other.n_acknowledged;
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} attempts, {} readings, {} superseded, {} acknowledgements of a reading",
            self.n_attempts, self.n_readings, self.n_superseded, self.n_acknowledged
        )
    }
}

/// Where the attempts of a run went on, by their own word.
struct Lines(BTreeMap<u32, AttemptLog>);

impl Lines {
    /// Who measured a step on the line of attempts that ends with `attempt`.
    fn measured_by(&self, mut attempt: u32, step: u32) -> u32 {
        loop {
            let log = self.0[&attempt];
            if step >= log.from_step {
                return attempt;
            }
            attempt = log.from_attempt;
        }
    }
}

#[derive(sqlx::FromRow)]
struct Row {
    reading: i32,
    step: i32,
    attempt: i32,
    first_sum_nats: Vec<f32>,
    target_sum_nats: Vec<f32>,
    full_sum_nats: Vec<f32>,
}

#[derive(sqlx::FromRow)]
struct UpdateRow {
    step: i32,
    attempt: i32,
    loss_nats: f64,
    learning_rate: f64,
    grad_norm: f64,
    update_norm: f64,
    n_tokens: i32,
    n_injected_tokens: i32,
    duration_ms: f32,
}

/// Checks one complete run.
///
/// # Panics
/// When anything is lost, doubled, mixed or wrong.
pub(crate) async fn run(lab: &Lab, said: &Path, run_id: i32, label: &str) -> Found {
    let pool = lab.db.store.pool();
    let shape = simulated::run(label);
    let steps = shape.reading_steps();
    let lines = Lines(AttemptLog::of_run(said, run_id));

    // Every value is that of the attempt in its row.
    let rows = |table: &str| {
        let columns = "reading, step, attempt, first_sum_nats, target_sum_nats, full_sum_nats";
        format!("select {columns} from imprint.{table} where run_id = $1 order by reading")
    };
    let mut stored: Vec<Vec<(u32, u32)>> = Vec::new();
    for table in ["step_reading", "superseded_reading"] {
        let rows: Vec<Row> = sqlx::query_as(sqlx::AssertSqlSafe(rows(table)))
            .bind(run_id)
            .fetch_all(pool)
            .await
            .expect("read the readings");
        for row in &rows {
            let (index, attempt) = (row.reading as u32, row.attempt as u32);
            let step = steps[index as usize];
            let want = values::reading(run_id, index, step, attempt, shape.n_probes());
            let is_right = row.step as u32 == step
                && row.first_sum_nats == want.first_sum_nats
                && row.target_sum_nats == want.target_sum_nats
                && row.full_sum_nats == want.full_sum_nats;
            assert!(
                is_right,
                "{label}: reading {index} in {table} is not what attempt {attempt} measured"
            );
        }
        let keys = rows.iter().map(|r| (r.reading as u32, r.attempt as u32));
        stored.push(keys.collect());
    }
    let mut stored_updates: Vec<Vec<(u32, u32)>> = Vec::new();
    for table in ["update_stats", "superseded_update"] {
        let sql = format!("select * from imprint.{table} where run_id = $1 order by step");
        let rows: Vec<UpdateRow> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(run_id)
            .fetch_all(pool)
            .await
            .expect("read the updates");
        for row in &rows {
            let (step, attempt) = (row.step as u32, row.attempt as u32);
            let want = values::update(run_id, step, attempt);
            let is_right = row.loss_nats == want.loss_nats
                && row.learning_rate == want.learning_rate
                && row.grad_norm == want.grad_norm
                && row.update_norm == want.update_norm
                && row.n_tokens as u32 == want.n_tokens
                && row.n_injected_tokens as u32 == want.n_injected_tokens
                && row.duration_ms == want.duration_ms;
            assert!(
                is_right,
                "{label}: update {step} in {table} is not what attempt {attempt} measured"
            );
        }
        let keys = rows.iter().map(|r| (r.step as u32, r.attempt as u32));
        stored_updates.push(keys.collect());
    }

    // Every step is there once, and all of them are of one line of attempts: the line of the attempt
    // that delivered last.
    let last: i32 = sqlx::query_scalar("select attempt from imprint.ingest_head where run_id = $1")
        .bind(run_id)
        .fetch_one(pool)
        .await
        .expect("find who delivered last");
    let of_line = |(at, step): (usize, u32)| (at as u32, lines.measured_by(last as u32, step));
    let want: Vec<_> = steps.iter().copied().enumerate().map(of_line).collect();
    assert_eq!(
        stored[0], want,
        "{label}: readings of attempt {last}'s line"
    );
    let want: Vec<_> = (0..shape.n_updates)
        .map(|t| (t, lines.measured_by(last as u32, t)))
        .collect();
    assert_eq!(
        stored_updates[0], want,
        "{label}: updates of attempt {last}'s line"
    );
    assert!(
        stored[0].is_sorted_by_key(|(_, attempt)| *attempt),
        "{label}: attempts go back on the step axis"
    );

    // Segments are what the attempts opened.
    let segments: Vec<(i32, i32)> = sqlx::query_as(
        "select attempt, first_step from imprint.segment where run_id = $1 order by attempt",
    )
    .bind(run_id)
    .fetch_all(pool)
    .await
    .expect("read the segments");
    for (attempt, first_step) in segments {
        let log = lines.0[&(attempt as u32)];
        assert_eq!(log.deliver_from, first_step as u32, "{label}: {attempt}");
    }

    // Whatever anybody was told is durable is there, live or superseded.
    let [readings, updates] = [&stored, &stored_updates]
        .map(|tables| -> BTreeSet<(u32, u32)> { tables.iter().flatten().copied().collect() });
    let mut n_acknowledged = 0;
    for (&attempt, log) in &lines.0 {
        for index in 0..log.next_reading {
            let by = lines.measured_by(attempt, steps[index as usize]);
            assert!(
                readings.contains(&(index, by)),
                "{label}: reading {index} of attempt {by} was acknowledged to {attempt} and is lost"
            );
            n_acknowledged += 1;
        }
        for step in 0..log.next_update {
            let by = lines.measured_by(attempt, step);
            assert!(
                updates.contains(&(step, by)),
                "{label}: update {step} of attempt {by} was acknowledged to {attempt} and is lost"
            );
        }
    }

    derived_equal_a_rebuild(lab, run_id, label).await;

    // The service says that everything is there.
    let verified = lab.verify(label).await;
    let clean = pb::VerifyRunResponse {
        readings_missing: Vec::new(),
        readings_damaged: Vec::new(),
        updates_missing: Vec::new(),
        readings_stored: verified.readings_expected,
        updates_stored: verified.updates_expected,
        state: "complete".to_owned(),
        ..verified.clone()
    };
    assert_eq!(verified, clean, "{label}");

    Found {
        n_attempts: verified.attempts as usize,
        n_readings: stored[0].len(),
        n_superseded: stored[1].len(),
        n_acknowledged,
    }
}

/// Checks what is kept beside the readings, once all of it is made.
async fn derived_equal_a_rebuild(lab: &Lab, run_id: i32, label: &str) {
    let db = |what| succeeds(lab.imprint().args(["db", what, "--run", label]));
    let are_made = || async { !db("check").contains("still to be made") };
    let what = format!("the chunks of {label} are made");
    wait_until(CHUNKS_WITHIN, &what, are_made).await;
    let kept = derived_rows(lab, run_id).await;
    db("rebuild");
    for (table, rows) in derived_rows(lab, run_id).await {
        let is_equal = !rows.is_empty() && kept[table] == rows;
        assert!(is_equal, "{label}: {table} does not equal a rebuild");
    }
}

/// All rows of the derived tables as text, which tells every two numbers apart.
async fn derived_rows(lab: &Lab, run_id: i32) -> BTreeMap<&'static str, Vec<String>> {
    let mut tables = BTreeMap::new();
    for table in ["step_mean", "probe_chunk", "chunk_head"] {
        let sql = format!("select t::text from imprint.{table} t where run_id = $1 order by 1");
        let rows = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
            .bind(run_id)
            .fetch_all(lab.db.store.pool())
            .await
            .expect("read a derived table");
        tables.insert(table, rows);
    }
    tables
}
