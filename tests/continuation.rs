//! Saved states: a run that is killed and goes on is, bit for bit, the run that was not; and runs
//! start from states of other runs, the very early ones too.

use std::path::{Path, PathBuf};
use std::time::Duration;

use imprint_e2e::{Lab, SMALL, StoredReading, THRICE, experiment, succeeds, write_world};
use imprint_testkit::bin;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(240);

/// A run with everything that could be forgotten: uneven micro-batches, a schedule that moves at
/// every step, a clip that changes in mid-run, injections.
fn moving(name: &str, n_updates: u32, save_every: u32) -> String {
    let max_tokens = 64 * 8 * n_updates;
    experiment(
        name,
        "scenarios = ['paraphrase']\nbatch_sizes = [8]",
        SMALL,
        &format!(
            "[training]\nsteps = {n_updates}\nmicro_batch_rows = 3\n\
             learning_rate = {{ kind = 'cosine', peak = 7e-3, warmup_steps = 10, \
                                max_tokens = {max_tokens} }}\n\
             [training.optimizer]\nclip_warmup = {{ factor = 10, steps = 60 }}\n\
             {THRICE}[saving]\nevery = {save_every}\nkeep_last = 3\n"
        ),
    )
}

/// Everything that a run leaves behind.
#[derive(Debug, PartialEq)]
struct Outcome {
    readings: Vec<(i32, Vec<u32>)>,
    /// Loss, learning rate, norms of gradient and change, by their bits.
    updates: Vec<[u64; 4]>,
    weights: Vec<(Value, Vec<u8>)>,
}

async fn outcome(lab: &Lab, label: &str, n_updates: u32) -> Outcome {
    let run_id = lab.run_id(label).await;
    let pool = lab.pool().await;
    let updates: Vec<(f64, f64, f64, f64)> = sqlx::query_as(
        "select loss_nats, learning_rate, grad_norm, update_norm from imprint.update_stats
         where run_id = $1 order by step",
    )
    .bind(run_id)
    .fetch_all(&pool)
    .await
    .expect("read the updates");
    let last = state_path(lab, run_id, n_updates).await;
    let readings = lab.readings(run_id).await;
    assert_eq!(readings.len(), n_updates as usize + 1);
    assert!(
        readings.is_sorted_by_key(|r| r.attempt),
        "attempts are mixed on the step axis"
    );
    Outcome {
        readings: readings.iter().map(StoredReading::bits).collect(),
        updates: updates
            .into_iter()
            .map(|(a, b, c, d)| [a, b, c, d].map(f64::to_bits))
            .collect(),
        weights: ["model.safetensors", "optimizer.safetensors"]
            .map(|name| tensors(&last.join(name)))
            .to_vec(),
    }
}

/// The newest kept state of a run at a step.
async fn state_path(lab: &Lab, run_id: i32, step: u32) -> PathBuf {
    let path: String = sqlx::query_scalar(
        "select path from imprint.saved_state where run_id = $1 and step = $2 and keep
         order by attempt desc limit 1",
    )
    .bind(run_id)
    .bind(step as i32)
    .fetch_one(&lab.pool().await)
    .await
    .expect("find the state");
    path.into()
}

/// The header of a safetensors file, whose keys are in any order, and its values.
fn tensors(path: &Path) -> (Value, Vec<u8>) {
    let bytes = std::fs::read(path).expect("read the weights");
    let (length, rest) = bytes.split_first_chunk().expect("a header");
    let (header, values) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let header = serde_json::from_slice(header).expect("a header of JSON");
    (header, values.to_vec())
}

#[track_caller]
fn assert_same(disturbed: &Outcome, undisturbed: &Outcome) {
    let pairs = disturbed.readings.iter().zip(&undisturbed.readings);
    for (i, (got, want)) in pairs.enumerate() {
        assert!(got == want, "reading {i} differs");
    }
    assert_eq!(disturbed.updates, undisturbed.updates);
    assert!(
        disturbed.weights == undisturbed.weights,
        "weights or moments differ at the end"
    );
}

/// A generator of random numbers (splitmix64): the same kills whenever the test runs.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % n
    }
}

/// Kills a run's trainers with SIGKILL at random moments, `n_kills` times.
///
/// Every third dies soon after it began, whatever it was doing; the others after some progress, so
/// that the run is not given up.
async fn kill_at_random(lab: &Lab, run_id: i32, n_kills: u32, random: &mut Random) {
    let mut furthest = 0;
    let mut killed = 0;
    let mut last_pid = 0;
    while killed < n_kills {
        imprint_testkit::wait_until(LIMIT, "the next attempt has begun", || async {
            lab.newest_pid(run_id)
                .await
                .is_some_and(|pid| pid != last_pid)
        })
        .await;
        if killed % 3 != 2 {
            lab.stored_at_least(run_id, furthest + 1 + random.below(5) as i32)
                .await;
        }
        // A moment is random when nothing waits for it.
        let pause = random.below(if killed % 3 == 2 { 500 } else { 40 });
        tokio::time::sleep(Duration::from_millis(pause)).await;
        last_pid = lab.newest_pid(run_id).await.expect("an attempt");
        match kill(Pid::from_raw(last_pid), Signal::SIGKILL) {
            Ok(()) => killed += 1,
            // It has finished, which too many steps a second would do.
            Err(Errno::ESRCH) => panic!("the run ended after {killed} of {n_kills} kills"),
            Err(e) => panic!("kill the trainer: {e}"),
        }
        furthest = furthest.max(lab.n_stored(run_id).await.unwrap_or_default());
    }
}

fn label(name: &str) -> String {
    format!("{name}/scratch-paraphrase-b8-s0")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_steps_are_fifty_and_fifty() {
    let file = moving("halves", 100, 50);
    let label = label("halves");
    let undisturbed = {
        let lab = Lab::start().await;
        lab.complete("halves", &file, LIMIT).await;
        outcome(&lab, &label, 100).await
    };

    let lab = Lab::start().await;
    lab.submit(&file).await.expect("submit");
    let run_id = lab.run_id(&label).await;
    let pool = lab.pool().await;
    imprint_testkit::wait_until(LIMIT, "the state at step 50 is recorded", || async {
        let sql = "select exists (select from imprint.saved_state where run_id = $1 and step = 50)";
        let is_there: bool = sqlx::query_scalar(sql)
            .bind(run_id)
            .fetch_one(&pool)
            .await
            .expect("look");
        is_there
    })
    .await;
    lab.signal_trainer(run_id, Signal::SIGKILL).await;
    lab.all_complete("halves", LIMIT).await;
    assert_same(&outcome(&lab, &label, 100).await, &undisturbed);
    assert_eq!(lab.n_attempts(run_id).await, 2);
    let log = lab.trainer_log(run_id);
    assert!(log.contains("resuming at step 50 of attempt 1"), "{log}");

    // What the configuration left open was settled once, and is in the run's record.
    let settled: Value = sqlx::query_scalar("select settled from imprint.run where run_id = $1")
        .bind(run_id)
        .fetch_one(&pool)
        .await
        .expect("read what was settled");
    assert_eq!(settled["micro_batch_rows"], 3);
    assert_eq!(settled["learning_rate"]["max_steps"], 100);
    // Each segment tells its machine; this one is the first attempt's.
    let machines: Vec<(String, bool)> = sqlx::query_as(
        "select machine, same_machine from imprint.segment where run_id = $1 order by attempt",
    )
    .bind(run_id)
    .fetch_all(&pool)
    .await
    .expect("read the segments");
    assert!(
        machines
            .iter()
            .all(|(machine, same)| { *same && machine.ends_with("; cpu; 1 thread(s)") })
    );
    assert_eq!(machines.len(), 2);
}

async fn random_kills_leave_no_trace(n_updates: u32, n_kills: u32, seed: u64) {
    let file = moving("random", n_updates, 7);
    let label = label("random");
    let undisturbed = {
        let lab = Lab::start().await;
        lab.complete("random", &file, 3 * LIMIT).await;
        outcome(&lab, &label, n_updates).await
    };
    let lab = Lab::start().await;
    lab.submit(&file).await.expect("submit");
    let run_id = lab.run_id(&label).await;
    kill_at_random(&lab, run_id, n_kills, &mut Random(seed)).await;
    lab.all_complete("random", 3 * LIMIT).await;
    assert_same(&outcome(&lab, &label, n_updates).await, &undisturbed);
    assert!(lab.n_attempts(run_id).await > i64::from(n_kills));

    // Nothing is left of what was saved and not recorded, or half saved.
    let pool = lab.pool().await;
    let recorded: Vec<String> =
        sqlx::query_scalar("select path from imprint.saved_state where run_id = $1")
            .bind(run_id)
            .fetch_all(&pool)
            .await
            .expect("read the states");
    let attempts = lab.dir().join(format!("data/runs/{run_id}/attempts"));
    let mut found = 0;
    for attempt in std::fs::read_dir(attempts).expect("list the attempts") {
        let states = attempt.expect("an attempt").path().join("states");
        for state in std::fs::read_dir(states).expect("list the states") {
            let state = state.expect("a state").path();
            assert!(
                recorded.iter().any(|path| path.ends_with(
                    state
                        .strip_prefix(lab.dir())
                        .expect("below")
                        .to_str()
                        .expect("text")
                )),
                "{} is left over",
                state.display()
            );
            found += 1;
        }
    }
    assert_eq!(found, recorded.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_random_kills_leave_no_trace() {
    random_kills_leave_no_trace(240, 10, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: `cargo xtask soak` runs it"]
async fn a_hundred_random_kills_leave_no_trace() {
    for seed in 2..5 {
        random_kills_leave_no_trace(2400, 100, seed).await;
    }
}

/// The readings of a run at its first step, and what made its first updates.
async fn beginning(lab: &Lab, label: &str) -> (Vec<u32>, Vec<f64>) {
    let run_id = lab.run_id(label).await;
    let rates = sqlx::query_scalar(
        "select learning_rate from imprint.update_stats where run_id = $1 order by step",
    )
    .bind(run_id)
    .fetch_all(&lab.pool().await)
    .await
    .expect("read the rates");
    (lab.readings(run_id).await[0].bits().1, rates)
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_start_from_very_early_states() {
    let lab = Lab::start().await;
    let table = "{ kind = 'table', points = [[0, 1e-3], [10, 6e-3]] }";
    let parent = experiment(
        "pre",
        "scenarios = ['none']\nbatch_sizes = [8]",
        SMALL,
        &format!(
            "[training]\nsteps = 10\nlearning_rate = {table}\n\
             [saving]\nkeep = {{ powers_of_two_up_to = 8 }}\n"
        ),
    );
    lab.complete("pre", &parent, LIMIT).await;
    let parent_run = "pre/scratch-none-b8-s0";
    let parent_id = lab.run_id(parent_run).await;
    let of_parent = lab.readings(parent_id).await;

    let children: String = [1, 2, 4, 8]
        .map(|step| {
            format!("name = 'at{step}'\nrun = '{parent_run}'\nstep = {step}\n\n[[checkpoint]]\n")
        })
        .concat();
    let path = state_path(&lab, parent_id, 4).await;
    let file = experiment(
        "child",
        "scenarios = ['none']\nbatch_sizes = [8]",
        &format!(
            "{children}name = 'warmed'\nrun = '{parent_run}'\nstep = 8\n\
             optimizer = {{ reset = {{ warmup_steps = 4 }} }}\n\n\
             [[checkpoint]]\nname = 'copied'\npath = '{}'\n",
            path.display()
        ),
        &format!("[training]\nsteps = 3\nlearning_rate = {table}\n"),
    );
    lab.complete("child", &file, LIMIT).await;
    let rate_at = |global_step: u32| 1e-3 + 5e-4 * f64::from(global_step);
    for (name, step, shares) in [
        ("at1", 1, [1.0, 1.0, 1.0]),
        ("at2", 2, [1.0, 1.0, 1.0]),
        ("at4", 4, [1.0, 1.0, 1.0]),
        ("copied", 4, [1.0, 1.0, 1.0]),
        ("at8", 8, [1.0, 1.0, 1.0]),
        ("warmed", 8, [0.0, 0.25, 0.5]),
    ] {
        let (reading, rates) = beginning(&lab, &format!("child/{name}-none-b8-s0")).await;
        assert!(
            reading == of_parent[step as usize].bits().1,
            "{name} does not begin where its parent was"
        );
        for (update, (rate, share)) in (1..).zip(rates.iter().zip(shares)) {
            let want = share * rate_at((step + update).min(10));
            assert!((rate - want).abs() < 1e-15, "{name}: {rate} against {want}");
        }
    }
    // The copy says of itself where it stands: it is the same start as its parent's state.
    let seen: Vec<(String, Value)> = sqlx::query_as(
        "select e.label, r.settled from imprint.run r join imprint.experiment_run e using (run_id)
         where e.label in ('child/at4-none-b8-s0', 'child/copied-none-b8-s0')",
    )
    .fetch_all(&lab.pool().await)
    .await
    .expect("read what was settled");
    for (label, settled) in &seen {
        assert_eq!(settled["first_global_step"], 4, "{label}");
        assert_eq!(settled["tokens_seen"], 4 * 8 * 64, "{label}");
    }
    assert_eq!(seen.len(), 2);

    // Moments that are not there cannot be loaded, and that is said before anything starts.
    let bare = lab.dir().join("bare");
    std::fs::create_dir(&bare).expect("make a directory");
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(path.join(name), bare.join(name)).expect("copy the weights");
    }
    let refused = |checkpoint: &str, rate: &str| {
        let file = experiment(
            "bare",
            "scenarios = ['none']\nbatch_sizes = [8]",
            &format!("name = 'bare'\npath = 'bare'\n{checkpoint}"),
            &format!("[training]\nsteps = 3\nlearning_rate = {rate}\n"),
        );
        let lab = &lab;
        async move { lab.submit(&file).await.unwrap_err().message().to_owned() }
    };
    let said = refused("optimizer = 'load'", table).await;
    assert!(said.contains("has no optimizer moments to load"), "{said}");
    let by_tokens = "{ kind = 'linear', peak = 1e-3, max_tokens = 1_000_000 }";
    let said = refused("", by_tokens).await;
    assert!(said.contains("give its `tokens_seen`"), "{said}");
}

/// What an update trains on does not depend on how the batch goes through the model.
#[test]
fn rows_are_the_same_however_a_batch_is_cut() {
    let dir = tempfile::tempdir().expect("make a directory");
    write_world(dir.path());
    let inspect = |file: &str, step: &str| {
        std::fs::write(dir.path().join("cut.toml"), file).expect("write the experiment");
        succeeds(
            std::process::Command::new(bin("imprint-trainer"))
                .current_dir(dir.path())
                .args(["inspect", "cut.toml", "--all", "--step", step]),
        )
    };
    let whole = moving("cut", 100, 50);
    for step in ["5", "6", "45"] {
        let want = inspect(&whole, step);
        for (rows, threads) in [(1, 1), (2, 2), (8, 3)] {
            let cut = whole.replace(
                "micro_batch_rows = 3",
                &format!("micro_batch_rows = {rows}"),
            ) + &format!("[resources]\nthreads = {threads}\n");
            assert!(
                inspect(&cut, step) == want,
                "step {step}, micro-batches of {rows} rows, {threads} threads"
            );
        }
    }
}
