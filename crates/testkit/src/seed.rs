//! The rows that readings refer to, without the orchestrator.

use imprint_core::{
    Arm, ArmSteps, ArmText, FactRange, Placement, RunSpec, Scenario, Stagger, simulated,
};
use imprint_store::Store;

/// A run to put into the database: facts of three depths, the last of them held out.
#[derive(Clone, Debug)]
pub struct SeedRun {
    /// `experiment/cell`; the experiment is made if it is not there.
    pub label: String,
    pub n_facts: u32,
    /// Own probes of each fact, in turn mem, gen, hard_gen.
    pub probes_per_fact: u32,
    /// One swap probe for each own probe of an injected fact.
    pub swap: bool,
    pub n_updates: u32,
    /// Readings are taken at 0, at each multiple of it, and at the last step.
    pub read_every: u32,
    pub save_every: u32,
}

impl Default for SeedRun {
    fn default() -> Self {
        Self {
            label: "test/run".to_owned(),
            n_facts: 3,
            probes_per_fact: 3,
            swap: true,
            n_updates: 10,
            read_every: 1,
            save_every: 100,
        }
    }
}

impl SeedRun {
    /// The steps that the run declares as read.
    pub fn reading_steps(&self) -> Vec<u32> {
        (0..=self.n_updates)
            .filter(|t| t.is_multiple_of(self.read_every) || *t == self.n_updates)
            .collect()
    }

    /// The number of probes of the run.
    pub fn n_probes(&self) -> u32 {
        let own = self.n_facts * self.probes_per_fact;
        let injected = (self.n_facts - 1) * self.probes_per_fact;
        own + if self.swap { injected } else { 0 }
    }

    /// A configuration of this size, of a model that nobody trains.
    pub fn spec(&self) -> RunSpec {
        let scenario = Scenario {
            arm: vec![Arm {
                name: "duplication".to_owned(),
                facts: FactRange {
                    start: 0,
                    end: self.n_facts - 1,
                },
                text: ArmText::Original,
                steps: ArmSteps::every(0, 2, 2),
                stagger: Stagger::default(),
                placement: Placement::RowHead,
            }],
        };
        let mut spec = simulated::spec(&self.label, self.n_updates, "duplication", scenario);
        spec.saving.every = self.save_every;
        spec
    }
}

/// Puts a run with its experiment, probes, arms and injections into the database; returns its id.
pub async fn seed_run(store: &Store, run: &SeedRun) -> i32 {
    let pool = store.pool();
    let (experiment, _) = run.label.split_once('/').expect("a label has two parts");
    let experiment_id: i32 = sqlx::query_scalar(
        "insert into imprint.experiment (name, toml) values ($1, '')
         on conflict (name) do update set toml = '' returning experiment_id",
    )
    .bind(experiment)
    .fetch_one(pool)
    .await
    .expect("insert an experiment");
    let probe_set_id: i32 = sqlx::query_scalar(
        "insert into imprint.probe_set (sha256, n_probes) values ($1, $2) returning probe_set_id",
    )
    .bind(&run.label)
    .bind(run.n_probes() as i32)
    .fetch_one(pool)
    .await
    .expect("insert a probe set");

    let own = (0..run.n_facts).flat_map(|f| (0..run.probes_per_fact).map(move |k| (f, k, None)));
    let injected = run.n_facts - 1;
    let swapped = (0..if run.swap { injected } else { 0 }).flat_map(|f| {
        (0..run.probes_per_fact).map(move |k| (f, k, Some(((f + 1) % injected) as i32)))
    });
    for (probe, (fact, k, swap_fact)) in own.chain(swapped).enumerate() {
        sqlx::query(
            "insert into imprint.probe (probe_set_id, probe, fact, depth, ordinal, swap_fact,
                prompt, target, n_target_tokens, n_full_tokens)
             values ($1, $2, $3, $4, $5, $6, 'prompt', 'target', $7, $8)",
        )
        .bind(probe_set_id)
        .bind(probe as i32)
        .bind(fact as i32)
        .bind((k % 3) as i16)
        .bind((k / 3) as i16)
        .bind(swap_fact)
        .bind((1 + probe % 4) as i32)
        .bind((5 + probe % 7) as i32)
        .execute(pool)
        .await
        .expect("insert a probe");
    }

    let spec = run.spec();
    let steps: Vec<i32> = run.reading_steps().iter().map(|&s| s as i32).collect();
    let run_id: i32 = sqlx::query_scalar(
        "insert into imprint.run (hash, label, spec, probe_set_id, n_updates, reading_steps)
         values ($1, $1, $2, $3, $4, $5) returning run_id",
    )
    .bind(&run.label)
    .bind(sqlx::types::Json(&spec))
    .bind(probe_set_id)
    .bind(run.n_updates as i32)
    .bind(steps)
    .fetch_one(pool)
    .await
    .expect("insert a run");
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
        "insert into imprint.experiment_run (experiment_id, run_id, label)
            select {experiment_id}, run_id, label from imprint.run where run_id = {run_id};
         insert into imprint.run_arm (run_id, arm, name)
            values ({run_id}, -1, 'held_out'), ({run_id}, 0, 'duplication');
         insert into imprint.run_fact (run_id, fact, arm)
            select {run_id}, f, case when f = {injected} then -1 else 0 end
            from generate_series(0, {injected}) f;
         insert into imprint.injection (run_id, step, fact, exposure, paraphrase)
            select {run_id}, 2 * (e - 1), f, e, null
            from generate_series(0, {injected} - 1) f, generate_series(1, 2) e;"
    )))
    .execute(pool)
    .await
    .expect("insert what belongs to the run");
    run_id
}

/// Ends the run's attempt, if there is one, and begins the next; returns its number.
pub async fn begin_attempt(store: &Store, run_id: i32) -> u32 {
    let mut tx = store.pool().begin().await.expect("begin a transaction");
    sqlx::query(
        "update imprint.attempt set ended_at = now(), outcome = 'superseded'
         where run_id = $1 and ended_at is null",
    )
    .bind(run_id)
    .execute(&mut *tx)
    .await
    .expect("end an attempt");
    let attempt: i32 = sqlx::query_scalar(
        r#"insert into imprint.attempt (run_id, attempt, host, pid, device, machine, lease_until,
             record)
         select $1, coalesce(max(attempt), 0) + 1, 'host', 1, 'cpu', 'machine',
             now() + interval '1 minute',
             '{"program": "simulated", "version": "0.1.0", "revision": "none",
               "binary_sha256": "none"}'
         from imprint.attempt where run_id = $1 returning attempt"#,
    )
    .bind(run_id)
    .fetch_one(&mut *tx)
    .await
    .expect("begin an attempt");
    tx.commit().await.expect("commit an attempt");
    attempt as u32
}

/// Lets a run that is queued or running go through its states until it is complete.
pub async fn complete_run(store: &Store, run_id: i32) {
    for (from, to) in [
        ("queued", "running"),
        ("running", "delivering"),
        ("delivering", "complete"),
    ] {
        sqlx::query(
            "update imprint.run
             set state = $3, finished_at = case when $3 = 'complete' then now() end
             where run_id = $1 and state = $2",
        )
        .bind(run_id)
        .bind(from)
        .bind(to)
        .execute(store.pool())
        .await
        .expect("go to the next state of a run");
    }
}
