//! Real training runs on a real Slurm cluster: a matrix where everything that can fail does, and a run
//! behind locked doors.

use std::fs;
use std::path::Path;
use std::time::Duration;

use imprint_e2e::locked_lab::Locked;
use imprint_e2e::{Lab, THRICE, TINY, experiment, succeeds, training, write_world};
use imprint_testkit::slurm::{Cluster, Options};
use imprint_testkit::{TestDb, bin, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const LIMIT: Duration = Duration::from_secs(420);
const STEP_LIMIT: Duration = Duration::from_secs(240);
const N_UPDATES: usize = 500;
const N_RUNS: usize = 24;

/// 2 scenarios × 2 batch sizes × 6 seeds.
fn matrix() -> String {
    experiment(
        "matrix",
        "scenarios = ['duplication', 'once']\nbatch_sizes = [4, 8]\nseeds = [0, 1, 2, 3, 4, 5]",
        TINY,
        &(training(N_UPDATES) + THRICE + "[saving]\nevery = 25\n"),
    )
}

/// Every reading of every run, bit by bit.
async fn bits(lab: &Lab) -> Vec<(String, Vec<(i32, Vec<u32>)>)> {
    let labels: Vec<String> = sqlx::query_scalar("select label from imprint.run order by label")
        .fetch_all(&lab.pool().await)
        .await
        .expect("list the runs");
    let mut all = Vec::new();
    for label in labels {
        let readings = lab.readings(lab.run_id(&label).await).await;
        assert!(
            readings.is_sorted_by_key(|r| r.attempt),
            "{label}: attempts are mixed on the step axis"
        );
        all.push((label, readings.iter().map(|r| r.bits()).collect()));
    }
    all
}

async fn undisturbed() -> Vec<(String, Vec<(i32, Vec<u32>)>)> {
    let lab = Lab::start().await;
    lab.complete("matrix", &matrix(), LIMIT).await;
    bits(&lab).await
}

async fn count(lab: &Lab, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql)
        .fetch_one(&lab.pool().await)
        .await
        .expect("count")
}

/// Waits until so many trainers are at work and so many readings are stored.
async fn goes_on(lab: &Lab, n_running: i64, n_stored: i64) {
    let what = format!("{n_running} runs go on and {n_stored} readings are stored");
    wait_until(STEP_LIMIT, &what, || async {
        let running = "select count(*) from imprint.run r join imprint.ingest_head h using (run_id)
                       where r.state = 'running' and h.next_reading > 0";
        let stored = "select coalesce(sum(next_reading), 0) from imprint.ingest_head";
        count(lab, running).await >= n_running && count(lab, stored).await >= n_stored
    })
    .await;
}

/// Kills the trainers of two runs that go on.
async fn kill_two_trainers(lab: &Lab) {
    let pids: Vec<i32> = sqlx::query_scalar(
        "select a.pid from imprint.attempt a join imprint.run r using (run_id)
         where a.ended_at is null and r.state = 'running' order by a.began_at limit 2",
    )
    .fetch_all(&lab.pool().await)
    .await
    .expect("find trainers");
    for pid in pids {
        // One may have ended meanwhile.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_matrix_survives_whatever_happens_to_a_cluster() {
    let want = undisturbed().await;
    assert_eq!(want.len(), N_RUNS);

    let mut cluster = Cluster::with(&Options {
        n_nodes: 3,
        // Jobs on every node, and not one full node after the other.
        lines: vec![
            "SelectTypeParameters=CR_Core,CR_LLN".to_owned(),
            // A machine with two cores is slow with so many jobs.
            "BatchStartTimeout=60".to_owned(),
            "MessageTimeout=30".to_owned(),
        ],
        ..Options::default()
    });
    let mut lab = Lab::new(TestDb::start_durable().await, bin("imprint-trainer"));
    write_world(lab.dir());
    lab.set_env("SLURM_CONF", cluster.conf());
    lab.set_site(
        "[executor.cluster]
kind = 'slurm'
partition = 'low'
max_jobs = 8
poll_seconds = 1
loopback = true
",
    );
    lab.start_metrics().await;
    lab.start_orchestrator().await;
    let file = lab.dir().join("matrix.toml");
    fs::write(&file, matrix()).expect("write the experiment");
    let file = file.to_str().expect("a path of text");
    succeeds(lab.imprint().args(["submit", file]));
    let again = lab.says(&["submit", file]);
    let said = String::from_utf8_lossy(&again.stderr);
    assert!(
        said.contains("nothing new: all 24 runs are there"),
        "{said}"
    );

    goes_on(&lab, 4, 200).await;
    let urgent = cluster.submit(["--partition=high", "--exclusive", "--nodes=3"], "sleep 2");
    cluster.wait_for(urgent, "has run", |job| job.state == "COMPLETED");

    goes_on(&lab, 3, 1200).await;
    kill_two_trainers(&lab).await;

    goes_on(&lab, 3, 2200).await;
    cluster.kill_node(1);
    goes_on(&lab, 2, 3200).await;
    cluster.start_node(1);

    goes_on(&lab, 3, 4200).await;
    cluster.kill_slurmctld();
    kill_two_trainers(&lab).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    cluster.start_slurmctld();

    goes_on(&lab, 3, 6000).await;
    lab.kill_orchestrator();
    kill_two_trainers(&lab).await;
    lab.start_orchestrator().await;

    lab.all_complete("matrix", LIMIT).await;
    assert_eq!(bits(&lab).await, want);
    for (label, _) in &want {
        let verified = lab.verify(label).await;
        assert_eq!(
            verified.readings_stored, verified.readings_expected,
            "{label}"
        );
        assert!(
            verified.readings_missing.is_empty(),
            "{label}: {verified:?}"
        );
        assert!(
            verified.readings_damaged.is_empty(),
            "{label}: {verified:?}"
        );
        assert!(verified.updates_missing.is_empty(), "{label}: {verified:?}");
    }
    // What happened to the cluster did happen to the runs.
    let stopped = "select count(*) from imprint.attempt where outcome = 'stopped'";
    assert!(count(&lab, stopped).await > 0, "no run was preempted");
    let lost = "select count(*) from imprint.attempt where outcome = 'lost'";
    assert!(count(&lab, lost).await >= 4, "hardly a run was killed");
    let open = "select count(*) from imprint.job where ended_at is null";
    wait_until(STEP_LIMIT, "every job ends", || async {
        count(&lab, open).await == 0
    })
    .await;
    let n_of_run = "select coalesce(max(n), 0) from (
                        select count(*) as n from imprint.event
                        where kind = 'complete' group by run_id) e";
    assert_eq!(count(&lab, n_of_run).await, 1, "a run ends once");
}

/// TLS, tokens and copies on the node reach a trainer through `sbatch`, as a cluster's do.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_finds_its_way_through_locked_doors() {
    let cluster = Cluster::start(1);
    let mut lab = Locked::new().await;
    lab.set_env("SLURM_CONF", cluster.conf());
    let stage = lab.path("node");
    let site = format!(
        "[executor.cluster]
kind = 'slurm'
partition = 'low'
poll_seconds = 1
loopback = true
stage_dir = '{}'
stage_gib = 0.5
",
        stage.display()
    );
    fs::write(lab.path("site.toml"), site).expect("write the site file");
    let _services = lab.serve_all(&["--site", "site.toml"]).await;
    lab.prints(None, &["token", "create", "anna", "--out", "anna.token"]);
    lab.answers("anna.token").await;
    // What changed just now is not copied.
    wait_until(STEP_LIMIT, "the corpus is old enough", || async {
        let written = lab.path("corpus.u16").metadata().and_then(|m| m.modified());
        let age = written.expect("look at the corpus").elapsed();
        age.is_ok_and(|age| age > Duration::from_secs(2))
    })
    .await;

    let toml = experiment(
        "locked",
        "scenarios = ['duplication']\nbatch_sizes = [8]",
        TINY,
        &(training(62) + THRICE),
    );
    fs::write(lab.path("locked.toml"), toml).expect("write an experiment");
    lab.prints(Some("anna.token"), &["submit", "locked.toml", "--wait"]);
    let run = "locked/scratch-duplication-b8-s0";
    let verified = lab.prints(Some("anna.token"), &["verify", run]);
    let row = verified.lines().find(|line| line.starts_with(run));
    let row: Vec<&str> = row.unwrap_or_default().split_whitespace().collect();
    // Expected, stored, missing, damaged, superseded; the same of the updates.
    let whole = ["63", "63", "none", "none", "0", "62", "62", "none", "clean"];
    assert!(row.ends_with(&whole), "{verified}");

    let run_dir = lab.path("data/runs/1");
    let script = fs::read_to_string(run_dir.join("jobs/1.sh")).expect("read the job's script");
    for option in ["--ca", "--client-cert", "--client-key", "--token-file"] {
        assert!(script.contains(option), "{script}");
    }
    let said = lab.prints(Some("anna.token"), &["logs", run]);
    for name in ["corpus.u16", "tokenizer.json"] {
        let copied = format!("copied {} (", lab.path(name).display());
        assert_eq!(said.matches(&copied).count(), 1, "{said}");
    }
    assert!(is_copied(&stage, &lab.path("corpus.u16")), "{said}");
}

/// Whether the bytes of a file lie anywhere in a directory.
fn is_copied(dir: &Path, file: &Path) -> bool {
    let want = fs::read(file).expect("read a file");
    let entries = fs::read_dir(dir).expect("list the copies");
    entries.flatten().any(|entry| match entry.path() {
        path if path.is_dir() => is_copied(&path, file),
        path => fs::read(path).is_ok_and(|bytes| bytes == want),
    })
}
