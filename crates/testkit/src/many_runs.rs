//! A database of many runs, some of them being written while people ask.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use imprint_core::StepReadings;
use imprint_store::Store;
use imprint_store::ingest::{Message, Writer};
use sqlx::AssertSqlSafe;

use crate::{SeedRun, TestDb, begin_attempt, seed_run};

/// Readings that every run has before anything is written.
const READINGS_BEFORE: u32 = 3;

/// Writers that share the connections of one service.
const WRITERS_PER_STORE: usize = 32;

const SAMPLE_INTERVAL: Duration = Duration::from_millis(50);

/// How many runs there are and how hard they are used.
#[derive(Clone, Copy, Debug)]
pub struct ManyRuns {
    pub n_runs: u32,
    /// Runs that are written at once.
    pub n_writers: usize,
    /// Sessions that ask at once, each query in turn.
    pub n_readers: usize,
    /// How often each session asks each query.
    pub n_rounds: u32,
}

/// What one query cost.
#[derive(Clone, Debug, Default)]
pub struct QueryCost {
    pub n: u32,
    /// Planned for the first time by a session, and later.
    pub first_planning_ms: f64,
    pub planning_ms: f64,
    /// Median and longest answer while runs were written.
    pub answer_ms: f64,
    pub longest_ms: f64,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct ManyRunsReport {
    pub n_partitions: i64,
    pub n_relations: i64,
    /// Of relations, at one moment: the most that were seen, and what the server has room for.
    pub peak_locks: i64,
    pub lock_room: i64,
    pub readings_written: u64,
    pub writing: Duration,
    /// By view and by how the run was named.
    pub queries: BTreeMap<String, QueryCost>,
    /// What failed, in words: nothing should.
    pub failures: Vec<String>,
}

impl ManyRuns {
    /// Fills a database and uses it.
    ///
    /// # Panics
    /// When filling it fails; what fails under load is in the report.
    pub async fn run(self, db: &TestDb) -> ManyRunsReport {
        let seed = SeedRun {
            label: "many/0".to_owned(),
            n_updates: 1000,
            ..SeedRun::default()
        };
        self.fill(db, &seed).await;
        let pool = db.store.pool();
        let mut report = ManyRunsReport::default();
        (report.n_partitions, report.n_relations, report.lock_room) = sqlx::query_as(
            "select (select count(*) from pg_inherits
                     where inhparent = 'imprint.step_reading'::regclass),
                 (select count(*) from pg_class
                  where relnamespace in ('imprint'::regnamespace, 'pg_toast'::regnamespace)
                     and oid >= 16384),
                 (select setting::int8 from pg_settings
                  where name = 'max_locks_per_transaction')
                 * (select sum(setting::int8) from pg_settings where name in ('max_connections',
                      'autovacuum_max_workers', 'max_worker_processes', 'max_wal_senders',
                      'max_prepared_transactions'))::int8",
        )
        .fetch_one(pool)
        .await
        .expect("look at the database");

        let queries = queries(db, self.n_runs).await;
        let done = AtomicBool::new(false);
        let written = self.write(db, &seed, &done);
        let asked = async {
            let readers = (0..self.n_readers).map(|_| self.ask(db, &queries));
            let answers = futures::future::join_all(readers).await;
            done.store(true, Ordering::Relaxed);
            answers
        };
        let sampled = sample_locks(db, &done);
        let began = Instant::now();
        let (written, answers, peak_locks) = tokio::join!(written, asked, sampled);
        report.writing = began.elapsed();
        report.peak_locks = peak_locks;
        for writer in written {
            match writer {
                Ok(n) => report.readings_written += n,
                Err(failure) => report.failures.push(failure),
            }
        }
        let mut answers_ms: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for (name, answer) in answers.into_iter().flatten() {
            match answer {
                Ok(ms) => answers_ms.entry(name).or_default().push(ms),
                Err(failure) => report.failures.push(format!("{name}: {failure}")),
            }
        }
        for query in &queries {
            let Some(answers_ms) = answers_ms.get_mut(&query.name) else {
                continue;
            };
            answers_ms.sort_by(f64::total_cmp);
            let (first_planning_ms, planning_ms) = planning_ms(db, query).await;
            report.queries.insert(
                query.name.clone(),
                QueryCost {
                    n: answers_ms.len() as u32,
                    first_planning_ms,
                    planning_ms,
                    answer_ms: answers_ms[answers_ms.len() / 2],
                    longest_ms: answers_ms[answers_ms.len() - 1],
                },
            );
        }
        report
    }

    /// One run as submitted, copied; every run with a head and some readings; all partitions.
    async fn fill(self, db: &TestDb, seed: &SeedRun) {
        let first = seed_run(&db.store, seed).await;
        begin_attempt(&db.store, first).await;
        let n = self.n_runs;
        let values = |i: u32| format!("array_fill(-{i}::float4, array[{}])", seed.n_probes());
        let (last_reading, value) = (READINGS_BEFORE - 1, values(1));
        let statements = format!(
            "insert into imprint.run (hash, label, spec, probe_set_id, n_updates, reading_steps)
                select 'many/' || n, 'many/' || n, spec, probe_set_id, n_updates, reading_steps
                from imprint.run, generate_series(1, {n} - 1) n where run_id = {first};
             insert into imprint.experiment_run (experiment_id, run_id, label)
                select e.experiment_id, r.run_id, r.label
                from imprint.run r, imprint.experiment_run e
                where e.run_id = {first} and r.run_id <> {first};
             insert into imprint.run_arm select r.run_id, a.arm, a.name
                from imprint.run r, imprint.run_arm a
                where a.run_id = {first} and r.run_id <> {first};
             insert into imprint.run_fact select r.run_id, f.fact, f.arm
                from imprint.run r, imprint.run_fact f
                where f.run_id = {first} and r.run_id <> {first};
             insert into imprint.injection select r.run_id, i.step, i.fact, i.exposure, i.paraphrase
                from imprint.run r, imprint.injection i
                where i.run_id = {first} and r.run_id <> {first};
             insert into imprint.attempt
                    (run_id, attempt, host, pid, device, machine, lease_until)
                select r.run_id, a.attempt, a.host, a.pid, a.device, a.machine, a.lease_until
                from imprint.run r, imprint.attempt a
                where a.run_id = {first} and r.run_id <> {first};
             select imprint.ensure_partitions(first)
                from generate_series(0, {n} + 127, 128) first;
             insert into imprint.ingest_head select run_id, 1, {READINGS_BEFORE}, 0
                from imprint.run;
             insert into imprint.chunk_head select run_id, 0 from imprint.run;
             insert into imprint.step_reading select run_id, i, i, 1, {value}, {value}, {value}
                from imprint.run, generate_series(0, {last_reading}) i;
             insert into imprint.step_mean select run_id, 0, 0, false, i, i, 1, -1, -1, -1
                from imprint.run, generate_series(0, {last_reading}) i;
             analyze"
        );
        sqlx::raw_sql(AssertSqlSafe(statements))
            .execute(db.store.pool())
            .await
            .expect("fill the database");
    }

    /// Appends to runs from all over the range until `done`.
    async fn write(
        self,
        db: &TestDb,
        seed: &SeedRun,
        done: &AtomicBool,
    ) -> Vec<Result<u64, String>> {
        let mut stores = Vec::new();
        for _ in 0..self.n_writers.div_ceil(WRITERS_PER_STORE) {
            stores.push(Store::connect(&db.url).await.expect("connect a service"));
        }
        let every = self.n_runs as usize / self.n_writers;
        let writers = (0..self.n_writers).map(|i| {
            let store = &stores[i / WRITERS_PER_STORE];
            let run_id = (1 + i * every) as i32;
            async move {
                let why = |e: imprint_store::Error| format!("run {run_id}: {}", chain(&e));
                let (mut writer, at) = Writer::open(store, run_id, 1, 0, "machine")
                    .await
                    .map_err(why)?;
                let mut next = at.next_reading;
                while !done.load(Ordering::Relaxed) && next <= seed.n_updates {
                    let span = vec![-1.0; seed.n_probes() as usize];
                    let reading = StepReadings {
                        index: next,
                        step: next,
                        measured_by: 1,
                        first_sum_nats: span.clone(),
                        target_sum_nats: span.clone(),
                        full_sum_nats: span,
                    };
                    let appended = writer
                        .append(&[Message::Reading(reading)])
                        .await
                        .map_err(why)?;
                    next = appended.cursors.next_reading;
                }
                Ok(u64::from(next - at.next_reading))
            }
        });
        futures::future::join_all(writers).await
    }

    /// One session that asks every query, over and over.
    async fn ask(self, db: &TestDb, queries: &[Query]) -> Vec<(String, Result<f64, String>)> {
        let mut answers = Vec::new();
        let mut session = match db.store.pool().acquire().await {
            Ok(session) => session.detach(),
            Err(e) => return vec![("connect".to_owned(), Err(chain(&e)))],
        };
        for _ in 0..self.n_rounds {
            for query in queries {
                let began = Instant::now();
                let answer = query.bound().fetch_all(&mut session).await;
                let answer = answer
                    .map(|_| began.elapsed().as_secs_f64() * 1e3)
                    .map_err(|e| chain(&e));
                answers.push((query.name.clone(), answer));
            }
        }
        answers
    }
}

/// A query over one of the views for people.
#[derive(Clone, Debug)]
struct Query {
    name: String,
    sql: String,
    /// Else it is planned only.
    answers: bool,
    run_id: Option<i32>,
    label: Option<String>,
}

impl Query {
    fn bound(&self) -> sqlx::query::Query<'_, sqlx::Postgres, sqlx::postgres::PgArguments> {
        let query = match self.answers {
            true => sqlx::query(AssertSqlSafe(self.sql.as_str())),
            false => sqlx::query(AssertSqlSafe(format!("explain {}", self.sql))),
        };
        match (self.run_id, &self.label) {
            (Some(run_id), _) => query.bind(run_id),
            (None, Some(label)) => query.bind(label),
            (None, None) => query,
        }
    }
}

/// Every view, of all runs, of a run by its number, and by its name.
///
/// Few rows of each: locks and plans are the same. A view that is computed run by run is only planned
/// for all runs: it would go through every one of them.
async fn queries(db: &TestDb, n_runs: u32) -> Vec<Query> {
    let views: Vec<(String, bool, bool, bool)> = sqlx::query_as(
        "select c.relname::text, pg_get_viewdef(c.oid) ~ 'LATERAL imprint\\.',
             coalesce(bool_or(a.attname = 'run_id'), false),
             coalesce(bool_or(a.attname = 'run'), false)
         from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0
         where c.relnamespace = 'imprint'::regnamespace and c.relkind = 'v'
         group by c.oid, c.relname order by c.relname",
    )
    .fetch_all(db.store.pool())
    .await
    .expect("list the views");
    let mut queries = Vec::new();
    for (view, is_computed, has_run_id, has_run) in views {
        let mut add = |how: &str, condition: &str, run_id: Option<i32>, label: Option<String>| {
            queries.push(Query {
                name: format!("{view}, {how}"),
                sql: format!("select * from imprint.{view} {condition} limit 10"),
                answers: !is_computed || run_id.is_some() || label.is_some(),
                run_id,
                label,
            });
        };
        add("all runs", "", None, None);
        let middle = n_runs / 2;
        if has_run_id {
            add("run_id", "where run_id = $1", Some(middle as i32), None);
        }
        if has_run {
            let label = Some(format!("many/{middle}"));
            add("run", "where run = $1", None, label);
        }
    }
    queries
}

/// Planning in a new session, and in one that has planned it before.
async fn planning_ms(db: &TestDb, query: &Query) -> (f64, f64) {
    let sql = match (query.run_id, &query.label) {
        (Some(run_id), _) => query.sql.replace("$1", &run_id.to_string()),
        (None, Some(label)) => query.sql.replace("$1", &format!("'{label}'")),
        (None, None) => query.sql.clone(),
    };
    let explain = format!("explain (summary, format json) {sql}");
    let store = Store::connect(&db.url)
        .await
        .expect("connect a new session");
    let mut session = store.pool().acquire().await.expect("take a new session");
    let mut planned = Vec::new();
    for _ in 0..6 {
        let plan: serde_json::Value = sqlx::query_scalar(AssertSqlSafe(explain.as_str()))
            .fetch_one(&mut *session)
            .await
            .expect("plan a query");
        planned.push(plan[0]["Planning Time"].as_f64().expect("a planning time"));
    }
    let first = planned.remove(0);
    planned.sort_by(f64::total_cmp);
    (first, planned[planned.len() / 2])
}

async fn sample_locks(db: &TestDb, done: &AtomicBool) -> i64 {
    let mut peak = 0;
    while !done.load(Ordering::Relaxed) {
        // Fast-path locks are not in the shared table.
        let held: i64 = sqlx::query_scalar("select count(*) from pg_locks where not fastpath")
            .fetch_one(db.store.pool())
            .await
            .unwrap_or(0);
        peak = peak.max(held);
        tokio::time::sleep(SAMPLE_INTERVAL).await;
    }
    peak
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        line = format!("{line}: {cause}");
        source = cause.source();
    }
    line
}
