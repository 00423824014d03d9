//! The services over real gRPC with a real Postgres; shell scripts stand in for trainers.

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use imprint_access::Door;
use imprint_core::Settled;
use imprint_orchestrator::{Config, Limits, Site};
use imprint_proto::Channel;
use imprint_proto::pb;
use imprint_proto::pb::RunState;
use imprint_proto::pb::attempts_client::AttemptsClient;
use imprint_proto::pb::orchestrator_client::OrchestratorClient;
use imprint_telemetry::Vitals;
use imprint_testkit::{TestDb, wait_until};
use tempfile::TempDir;
use tonic::{Code, Status};

use self::common::{LIMIT, Serving};

/// An orchestrator with its database, a synthetic world, and clients.
struct Bench {
    db: TestDb,
    dir: TempDir,
    people: OrchestratorClient<Channel>,
    trainers: AttemptsClient<Channel>,
    channel: Channel,
    vitals: Vitals,
    serving: Serving,
    n_requests: u32,
}

/// Without a trainer script there are no slots, so that nothing starts.
async fn bench(trainer: Option<&str>) -> Bench {
    bench_on(TestDb::start().await, trainer, Limits::default().lease).await
}

async fn bench_on(db: TestDb, trainer: Option<&str>, lease: Duration) -> Bench {
    bench_behind(db, trainer, lease, |door| door).await
}

/// Behind a door that `lock` has locked.
async fn bench_behind(
    db: TestDb,
    trainer: Option<&str>,
    lease: Duration,
    lock: impl FnOnce(Door) -> Door,
) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    common::write_world(dir.path());
    let program = dir.path().join("trainer");
    std::fs::write(&program, format!("#!/bin/sh\n{}\n", trainer.unwrap_or(""))).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();

    let config = common::config(dir.path()).await;
    let config = Config {
        door: lock(config.door),
        trainer: program,
        site: Site::local(usize::from(trainer.is_some())),
        limits: Limits {
            lease,
            first_back_off: Duration::from_millis(10),
            stop_grace: Duration::from_secs(5),
            ..Limits::default()
        },
        ..config
    };
    let vitals = config.vitals.clone();
    let serving = Serving::start(config, db.store.clone());
    let channel = imprint_proto::connect("orchestrator", &serving.url)
        .await
        .unwrap();
    Bench {
        db,
        dir,
        people: OrchestratorClient::new(channel.clone()),
        trainers: AttemptsClient::new(channel.clone()),
        channel,
        vitals,
        serving,
        n_requests: 0,
    }
}

#[path = "service/hostile.rs"]
mod hostile;
#[path = "service/people.rs"]
mod people;
#[path = "service/watched.rs"]
mod watched;

/// An experiment of one run, `pre/scratch-none-b4-s0`.
const PRE: &str = r#"
name = "pre"
scenarios = ["none"]
batch_sizes = [4]

[data]
facts = "facts.json"
tokenizer = "tokenizer.json"
seq_len = 64

[data.corpus]
files = ["corpus.u16"]
format = "uint16"

[[checkpoint]]
name = "scratch"
init = { hidden_size = 16, intermediate_size = 32, num_hidden_layers = 1, num_attention_heads = 2 }

[training]
steps = 20
learning_rate = { kind = "constant", peak = 5e-3, warmup_steps = 3 }

[injection]
every = 5
count = 2

[saving]
every = 5
keep = [10]
"#;
const PRE_RUN: &str = "pre/scratch-none-b4-s0";

/// An experiment of two runs that start from `PRE_RUN`.
fn child() -> String {
    PRE.replace("name = \"pre\"", "name = \"child\"")
        .replace("[\"none\"]", "[\"duplication\", \"once\"]")
        .replace("name = \"scratch\"", "name = \"ten\"")
        .replace(
            "init = { hidden_size = 16, intermediate_size = 32, num_hidden_layers = 1, \
             num_attention_heads = 2 }",
            "run = \"pre/scratch-none-b4-s0\"\nstep = 10",
        )
}

impl Bench {
    fn request(&mut self, toml: &str) -> pb::SubmitExperimentRequest {
        self.n_requests += 1;
        pb::SubmitExperimentRequest {
            request_id: format!("request {}", self.n_requests),
            toml: toml.to_owned(),
            file: "experiment.toml".to_owned(),
            base_dir: self.dir.path().display().to_string(),
            dry_run: false,
            tokens_per_second: None,
        }
    }

    async fn submit(&mut self, toml: &str) -> Result<pb::SubmitExperimentResponse, Status> {
        let request = self.request(toml);
        self.people
            .submit_experiment(request)
            .await
            .map(tonic::Response::into_inner)
    }

    async fn refused(&mut self, toml: &str) -> String {
        let status = self.submit(toml).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        status.message().to_owned()
    }

    async fn runs(&self, name: &str) -> Vec<pb::Run> {
        let request = pb::GetExperimentRequest {
            name: name.to_owned(),
        };
        let answer = self.people.clone().get_experiment(request).await.unwrap();
        answer.into_inner().experiment.unwrap().runs
    }

    /// Waits until an experiment's first run is as it should be, and returns it.
    async fn wait_for(&self, name: &str, what: &str, holds: impl Fn(&pb::Run) -> bool) -> pb::Run {
        wait_until(LIMIT, what, || async { holds(&self.runs(name).await[0]) }).await;
        self.runs(name).await.swap_remove(0)
    }

    async fn wait_for_state(&self, name: &str, state: RunState) -> pb::Run {
        let what = format!("{name} is {}", state.as_str_name());
        self.wait_for(name, &what, |run| run.state() == state).await
    }

    async fn begin(&self, run_id: i32) -> Result<pb::BeginAttemptResponse, Status> {
        let request = pb::BeginAttemptRequest {
            run_id,
            // Not here: its process is not looked for.
            host: "elsewhere".to_owned(),
            pid: 1,
            machine: "x86".to_owned(),
            offline_seconds: None,
            ..Default::default()
        };
        let begun = self.trainers.clone().begin_attempt(request).await;
        begun.map(tonic::Response::into_inner)
    }

    async fn heartbeat(&self, run_id: i32, attempt: u32, step: u32) -> Result<bool, Status> {
        let request = pb::HeartbeatRequest {
            run_id,
            attempt,
            step,
            steps_per_second: 2.5,
            undelivered_since_step: Some(1),
        };
        let answer = self.trainers.clone().heartbeat(request).await;
        answer.map(|a| a.into_inner().stop)
    }

    async fn settle(
        &self,
        run_id: i32,
        attempt: u32,
        settled: &Settled,
    ) -> Result<Settled, Status> {
        let request = pb::SettleRunRequest {
            run_id,
            attempt,
            settled_json: serde_json::to_string(settled).unwrap(),
            ..Default::default()
        };
        let answer = self.trainers.clone().settle_run(request).await?;
        Ok(serde_json::from_str(&answer.into_inner().settled_json).unwrap())
    }

    /// Records a state and returns the steps of those that became obsolete.
    async fn record(&self, run_id: i32, attempt: u32, step: u32) -> Result<Vec<u32>, Status> {
        let request = pb::RecordStateRequest {
            run_id,
            attempt,
            state: Some(pb::SavedState {
                step,
                attempt,
                path: format!("/runs/{run_id}/attempts/{attempt}/states/step-{step}"),
                sha256: "sha".to_owned(),
                global_step: u64::from(step),
            }),
            keep: false,
        };
        let answer = self.trainers.clone().record_state(request).await?;
        Ok(answer
            .into_inner()
            .obsolete
            .iter()
            .map(|s| s.step)
            .collect())
    }

    async fn end(
        &self,
        run_id: i32,
        attempt: u32,
        outcome: pb::AttemptOutcome,
        reason: &str,
    ) -> Result<(), Status> {
        let request = pb::EndAttemptRequest {
            run_id,
            attempt,
            outcome: outcome.into(),
            reason: reason.to_owned(),
            step: 20,
        };
        self.trainers.clone().end_attempt(request).await.map(drop)
    }

    /// Its trainer was asked to stop.
    async fn stop(&self, run_id: i32, attempt: u32) {
        let outcome = pb::AttemptOutcome::Stopped;
        (self.end(run_id, attempt, outcome, "SIGUSR1"))
            .await
            .unwrap();
    }

    /// Readings and updates below these are durable.
    async fn deliver(&self, run_id: i32, next_reading: i32, next_update: i32) {
        sqlx::query(
            "insert into imprint.ingest_head (run_id, attempt, next_reading, next_update)
             values ($1, 1, $2, $3)
             on conflict (run_id) do update
             set next_reading = excluded.next_reading, next_update = excluded.next_update",
        )
        .bind(run_id)
        .bind(next_reading)
        .bind(next_update)
        .execute(self.db.store.pool())
        .await
        .unwrap();
    }

    async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql)
            .fetch_one(self.db.store.pool())
            .await
            .unwrap()
    }

    async fn cancel(&self, name: &str) -> Vec<String> {
        let request = pb::CancelExperimentRequest {
            name: name.to_owned(),
            ..Default::default()
        };
        let answer = self
            .people
            .clone()
            .cancel_experiment(request)
            .await
            .unwrap();
        answer.into_inner().cancelled
    }

    async fn retry(&self, name: &str) -> Vec<String> {
        let request = pb::RetryExperimentRequest {
            name: name.to_owned(),
            ..Default::default()
        };
        self.people
            .clone()
            .retry_experiment(request)
            .await
            .unwrap()
            .into_inner()
            .queued
    }

    async fn shut_down(self) {
        self.serving.shut_down().await;
    }
}

#[tokio::test]
async fn a_request_is_answered_once_and_a_run_stored_once() {
    let mut bench = bench(None).await;
    let request = bench.request(PRE);
    let first = bench
        .people
        .submit_experiment(request.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(first.experiment, "pre");
    let run = &first.runs[0];
    assert_eq!((run.run.as_str(), run.new), (PRE_RUN, true));
    assert_eq!(
        (run.n_updates, run.n_readings, run.n_tokens),
        (20, 21, 20 * 4 * 64)
    );
    assert_eq!(run.max_injected_share, 0.0);

    let repeated = bench
        .people
        .submit_experiment(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(repeated, first, "the same request gets the same answer");
    let again = bench.submit(PRE).await.unwrap();
    assert!(!again.runs[0].new, "the same file changes nothing");

    let wider = bench
        .submit(&format!("seeds = [0, 1]\n{PRE}"))
        .await
        .unwrap();
    let new: Vec<bool> = wider.runs.iter().map(|r| r.new).collect();
    assert_eq!(
        new,
        [false, true],
        "a further seed queues only what is missing"
    );

    let other = bench
        .submit(&PRE.replace("\"pre\"", "\"other\""))
        .await
        .unwrap();
    assert_eq!(other.runs[0].run, "other/scratch-none-b4-s0");
    assert!(!other.runs[0].new, "experiments share runs");
    assert_eq!(
        bench.runs("other").await[0].run_id,
        bench.runs("pre").await[0].run_id
    );
    assert_eq!(bench.count("select count(*) from imprint.run").await, 2);
    let experiments = bench
        .people
        .list_experiments(pb::ListExperimentsRequest::default())
        .await
        .unwrap();
    let experiments = experiments.into_inner().experiments;
    let names: Vec<&str> = experiments.iter().map(|e| e.name.as_str()).collect();
    assert_eq!(names, ["other", "pre"]);
    assert_eq!(experiments[1].runs_by_state["queued"], 2);
    bench.shut_down().await;
}

#[tokio::test]
async fn a_plan_is_stored_for_queries() {
    let mut bench = bench(None).await;
    let toml = PRE.replace("[\"none\"]", "[\"paraphrase\"]") + "\n[probing]\nswap = true\n";
    let answer = bench.submit(&toml).await.unwrap();
    assert!(answer.runs[0].max_injected_share > 0.5, "{answer:?}");
    let n_probes = i64::from(answer.runs[0].n_probes);
    assert_eq!(
        bench.count("select count(*) from imprint.probe").await,
        n_probes
    );
    let swaps = "select count(*) from imprint.probe where swap_fact is not null";
    assert!(bench.count(swaps).await > 0);
    assert_eq!(
        bench.count("select count(*) from imprint.injection").await,
        4 * 2
    );
    let second = "select count(*) from imprint.injection
                  where exposure = 2 and step = 5 and paraphrase = 0";
    assert_eq!(bench.count(second).await, 4);
    let held_out = "select count(*) from imprint.run_fact f join imprint.run_arm a
                    using (run_id, arm) where a.name = 'held_out'";
    assert_eq!(bench.count(held_out).await, 2);
    bench.shut_down().await;
}

/// A schedule that ends after so many tokens.
fn until(max_tokens: u64) -> String {
    format!("{{ kind = \"linear\", peak = 5e-3, warmup_steps = 3, max_tokens = {max_tokens} }}")
}

/// An experiment of one run, `NAME/start-none-b4-s0`, of 20 updates of 256 tokens.
fn starting_from(name: &str, checkpoint: &str, learning_rate: &str) -> String {
    let (before, rest) = PRE.split_once("[[checkpoint]]").unwrap();
    let (_, after) = rest.split_once("[training]").unwrap();
    let before = before.replace("name = \"pre\"", &format!("name = \"{name}\""));
    let after = after.replace(
        "{ kind = \"constant\", peak = 5e-3, warmup_steps = 3 }",
        learning_rate,
    );
    format!("{before}[[checkpoint]]\nname = \"start\"\n{checkpoint}\n[training]{after}")
}

const CONSTANT: &str = "{ kind = \"constant\", peak = 5e-3 }";

#[tokio::test]
async fn a_schedule_in_tokens_is_settled_before_anything_starts() {
    let mut bench = bench(None).await;
    let write = |dir: &str, name: &str, content: &str| {
        let dir = bench.dir.path().join(dir);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(name), content).unwrap();
    };
    for dir in ["hf", "saved"] {
        write(dir, "config.json", r#"{"vocab_size": 60000}"#);
        write(dir, "model.safetensors", dir);
    }
    let manifest = r#"{"global_step": 50, "tokens_seen": 12800}"#;
    write("saved", "state.json", manifest);
    write("native", "config.yaml", "");
    write("native", "model.pt", "weights");
    write("native", "train.pt", "state");

    let unknown = "checkpoint `start`: training.learning_rate: `max_tokens` needs to know how many \
                   tokens the checkpoint has seen, and the checkpoint does not say; give its \
                   `tokens_seen`, or `max_steps` in place of `max_tokens`";
    let used_up = |seen: u64| {
        format!(
            "checkpoint `start`: training.learning_rate: the checkpoint has seen {seen} tokens, \
             which is all of the schedule's `max_tokens` ({seen}); raise it, or give `max_steps` \
             in its place"
        )
    };
    // A directory knows what it says, or what is said of it.
    let file = |checkpoint: &str, max_tokens| starting_from("new", checkpoint, &until(max_tokens));
    assert_eq!(bench.refused(&file("path = 'hf'", 9000)).await, unknown);
    let told = "path = 'hf'\ntokens_seen = 2560";
    assert_eq!(bench.refused(&file(told, 2560)).await, used_up(2560));
    assert_eq!(
        bench.refused(&file("path = 'saved'", 12800)).await,
        used_up(12800)
    );
    assert_eq!(
        bench.refused(&file(told, 2560 + 256)).await,
        "checkpoint `start`: training.learning_rate: `max_tokens` 2816 at 256 tokens an update \
         ends the schedule at global step 1, but `max_steps` 1 is not after the warm-up of 3 steps"
    );
    bench
        .submit(&starting_from("told", told, &until(9000)))
        .await
        .unwrap();
    bench
        .submit(&starting_from("saved", "path = 'saved'", &until(14000)))
        .await
        .unwrap();

    // So does a run, whatever it starts from, and before it begins.
    for (name, checkpoint) in [("hf", "path = 'hf'"), ("native", "path = 'native'")] {
        bench
            .submit(&starting_from(name, checkpoint, CONSTANT))
            .await
            .unwrap();
    }
    let of = |parent: &str| format!("run = '{parent}/start-none-b4-s0'\nstep = 10");
    for (parent, seen) in [("told", 5120), ("saved", 12800 + 2560)] {
        let child = of(parent);
        assert_eq!(bench.refused(&file(&child, seen)).await, used_up(seen));
        // Its own child adds its own updates.
        bench
            .submit(&starting_from(
                &format!("{parent}-child"),
                &child,
                &until(seen + 256),
            ))
            .await
            .unwrap();
        let grandchild = of(&format!("{parent}-child"));
        let seen = seen + 2560;
        assert_eq!(bench.refused(&file(&grandchild, seen)).await, used_up(seen));
    }
    assert_eq!(bench.refused(&file(&of("hf"), 9000)).await, unknown);
    let told = of("hf") + "\ntokens_seen = 7680";
    assert_eq!(bench.refused(&file(&told, 7680)).await, used_up(7680));
    bench.submit(&file(&told, 7936)).await.unwrap();

    // What only a trainer can read is not held against anyone, until one has.
    let child = starting_from("later", &of("native"), &until(9000));
    bench.submit(&child).await.unwrap();
    let native = bench.runs("native").await[0].run_id;
    let attempt = bench.begin(native).await.unwrap().attempt;
    let settled = Settled {
        first_global_step: 50,
        tokens_seen: Some(6440),
        learning_rate: serde_json::from_str(r#"{"kind":"constant","peak":5e-3}"#).unwrap(),
        micro_batch_rows: 4,
    };
    bench.settle(native, attempt, &settled).await.unwrap();
    assert_eq!(
        bench.refused(&file(&of("native"), 9000)).await,
        used_up(9000)
    );
    bench.shut_down().await;
}

#[tokio::test]
async fn a_dry_run_stores_nothing() {
    let mut bench = bench(None).await;
    let mut request = bench.request(PRE);
    request.dry_run = true;
    let answer = bench
        .people
        .submit_experiment(request)
        .await
        .unwrap()
        .into_inner();
    assert!(answer.runs[0].new);
    for sql in [
        "select count(*) from imprint.experiment",
        "select count(*) from imprint.run",
        "select count(*) from imprint.submission",
        "select count(*) from imprint.probe_set",
    ] {
        assert_eq!(bench.count(sql).await, 0, "{sql}");
    }
    bench.shut_down().await;
}

#[tokio::test]
async fn what_cannot_work_is_refused_in_one_line_and_stores_nothing() {
    let mut bench = bench(None).await;
    let dir = bench.dir.path().display().to_string();
    for (from, to, want) in [
        (
            "steps = 20",
            "steps = 0",
            "experiment.toml: `training.steps`: must be 1 at least",
        ),
        ("facts.json", "nothing.json", "cannot read DIR/nothing.json"),
        (
            "steps = 20",
            "steps = 5000",
            "the corpus is shorter than the run",
        ),
        (
            "[\"none\"]",
            "[\"paper\"]",
            "scenario `paper` needs the 130-item layout",
        ),
        (
            "seq_len = 64",
            "seq_len = 64\neos = \"<eos>\"",
            "`<eos>` is not a token of",
        ),
    ] {
        assert!(PRE.contains(from));
        let said = bench.refused(&PRE.replacen(from, to, 1)).await;
        assert!(said.contains(&want.replace("DIR", &dir)), "{said}");
        assert!(!said.contains('\n'), "{said}");
    }
    let crowded = PRE
        .replace("[\"none\"]", "[\"duplication\"]")
        .replace("batch_sizes = [4]", "batch_sizes = [1]");
    let said = bench.refused(&crowded).await;
    assert!(
        said.starts_with("run pre/scratch-duplication-b1-s0: step 0 injects 4 texts"),
        "{said}"
    );

    let said = bench.refused(&child()).await;
    assert_eq!(
        said,
        format!(
            "checkpoint `ten`: there is no run `{PRE_RUN}`; \
                 submit the experiment that makes it first"
        )
    );
    let mut relative = bench.request(PRE);
    relative.base_dir = "here".to_owned();
    let status = bench.people.submit_experiment(relative).await.unwrap_err();
    assert_eq!(
        status.message(),
        "base_dir: `here` is not an absolute directory"
    );
    assert_eq!(
        bench.count("select count(*) from imprint.experiment").await,
        0
    );

    bench.submit(PRE).await.unwrap();
    let said = bench
        .refused(&PRE.replace("steps = 20", "steps = 21"))
        .await;
    assert!(
        said.contains("is there already with another configuration"),
        "{said}"
    );
    let status = bench.begin(77).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::NotFound, "there is no run 77")
    );
    bench.shut_down().await;
}

#[tokio::test]
async fn a_child_starts_from_a_state_that_its_parent_keeps() {
    let mut bench = bench(None).await;
    bench.submit(&PRE.replace("keep = [10]", "")).await.unwrap();
    let said = bench.refused(&child()).await;
    assert_eq!(
        said,
        format!(
            "checkpoint `ten`: run `{PRE_RUN}` does not keep its state at step 10; add 10 to \
             `saving.keep` in its experiment file and submit that again first"
        )
    );
    // Not begun yet, so it can still be told to keep more.
    assert!(!bench.submit(PRE).await.unwrap().runs[0].new);
    bench.submit(&child()).await.unwrap();
    let parent = bench.runs("pre").await[0].run_id;
    let waiting = bench
        .wait_for("child", "the child waits", |run| !run.reason.is_empty())
        .await;
    assert_eq!(waiting.reason, format!("waits for step 10 of {PRE_RUN}"));
    assert_eq!(
        bench.begin(waiting.run_id).await.unwrap_err().code(),
        Code::FailedPrecondition
    );

    let attempt = bench.begin(parent).await.unwrap().attempt;
    bench.record(parent, attempt, 10).await.unwrap();
    let waiting = bench
        .wait_for("child", "the child waits for a slot", |run| {
            run.reason.contains("slot")
        })
        .await;
    assert_eq!(
        waiting.reason,
        "waits for a free slot (0 of 0 busy on local)"
    );
    let begun = bench.begin(waiting.run_id).await.unwrap();
    assert!(begun.parents[0].path.ends_with("attempts/1/states/step-10"));

    let said = bench.refused(&PRE.replace("[10]", "[10, 15]")).await;
    assert!(
        said.contains("has begun without keeping its state at step 15"),
        "{said}"
    );
    let said = bench
        .refused(&child().replace("step = 10", "step = 15"))
        .await;
    assert!(said.contains("it keeps steps 10, 20"), "{said}");
    bench.shut_down().await;
}

#[tokio::test]
async fn the_first_word_on_what_is_open_stands() {
    let mut bench = bench(None).await;
    bench.submit(PRE).await.unwrap();
    let run_id = bench.runs("pre").await[0].run_id;
    let begun = bench.begin(run_id).await.unwrap();
    assert_eq!(begun.settled_json, "");
    let spec: imprint_core::RunSpec = serde_json::from_str(&begun.spec_json).unwrap();
    let rate = &spec.identity.training.learning_rate;
    let settled = |micro_batch_rows| Settled {
        first_global_step: 0,
        tokens_seen: Some(0),
        learning_rate: rate.settle(0, Some(0), 64).unwrap(),
        micro_batch_rows,
    };
    let first = settled(2);
    assert_eq!(bench.settle(run_id, 1, &first).await.unwrap(), first);
    let begun = bench.begin(run_id).await.unwrap();
    let known: Settled = serde_json::from_str(&begun.settled_json).unwrap();
    assert_eq!(known, first);
    assert_eq!(bench.settle(run_id, 2, &settled(3)).await.unwrap(), first);
    let stale = bench.settle(run_id, 1, &first).await.unwrap_err();
    assert_eq!(stale.code(), Code::Aborted);
    bench.shut_down().await;
}

#[tokio::test]
async fn as_many_states_stay_as_were_asked_for() {
    let mut bench = bench(None).await;
    let file = PRE.replace("keep = [10]", "keep = [10]\nkeep_last = 3");
    bench.submit(&file).await.unwrap();
    let run_id = bench.runs("pre").await[0].run_id;
    bench.begin(run_id).await.unwrap();
    for step in [2, 4, 6, 10] {
        assert_eq!(
            bench.record(run_id, 1, step).await.unwrap(),
            if step < 10 { vec![] } else { vec![2] }
        );
    }
    // A kept step that two attempts saved: a child is offered both, the newest first.
    bench.begin(run_id).await.unwrap();
    bench.record(run_id, 2, 10).await.unwrap();
    bench.submit(&child()).await.unwrap();
    let child = bench.runs("child").await[0].run_id;
    let parents = bench.begin(child).await.unwrap().parents;
    let attempts: Vec<u32> = parents.iter().map(|state| state.attempt).collect();
    assert_eq!(attempts, [2, 1]);
    bench.shut_down().await;
}

#[tokio::test]
async fn the_attempt_is_the_fence() {
    let mut bench = bench(None).await;
    bench.submit(PRE).await.unwrap();
    let run_id = bench.runs("pre").await[0].run_id;
    let first = bench.begin(run_id).await.unwrap();
    assert_eq!(first.attempt, 1);
    let spec: imprint_core::RunSpec = serde_json::from_str(&first.spec_json).unwrap();
    assert_eq!(spec.label, PRE_RUN);
    let answer = bench.submit(PRE).await.unwrap();
    assert_eq!(
        spec.identity.hash().0,
        answer.runs[0].hash,
        "the database changes no number"
    );
    let runs_dir = bench.dir.path().join("data/runs").canonicalize().unwrap();
    assert_eq!(
        PathBuf::from(first.run_dir),
        runs_dir.join(run_id.to_string())
    );

    assert!(!bench.heartbeat(run_id, 1, 7).await.unwrap());
    let run = bench.runs("pre").await.swap_remove(0);
    assert_eq!(
        (run.state(), run.step, run.attempts),
        (RunState::Running, 7, 1)
    );
    assert_eq!(
        (run.steps_per_second, run.undelivered_since_step),
        (2.5, Some(1))
    );
    bench.deliver(run_id, 7, 7).await;
    assert_eq!(bench.record(run_id, 1, 5).await.unwrap(), [0; 0]);
    // 10 and the last are kept; of the others the two newest, and 5, from where all is durable.
    assert_eq!(bench.record(run_id, 1, 10).await.unwrap(), [0; 0]);
    assert_eq!(bench.record(run_id, 1, 12).await.unwrap(), [0; 0]);
    assert_eq!(bench.record(run_id, 1, 15).await.unwrap(), [0; 0]);
    assert_eq!(bench.record(run_id, 1, 17).await.unwrap(), [12]);
    bench.deliver(run_id, 16, 16).await;
    assert_eq!(bench.record(run_id, 1, 18).await.unwrap(), [5]);

    let second = bench.begin(run_id).await.unwrap();
    assert_eq!(
        (second.attempt, second.next_reading, second.next_update),
        (2, 16, 16)
    );
    let states: Vec<u32> = second.states.iter().map(|s| s.step).collect();
    assert_eq!(states, [18, 17, 15, 10]);
    for status in [
        bench.heartbeat(run_id, 1, 8).await.unwrap_err(),
        bench.record(run_id, 1, 19).await.unwrap_err(),
        bench
            .end(run_id, 1, pb::AttemptOutcome::Finished, "")
            .await
            .unwrap_err(),
    ] {
        assert_eq!(status.code(), Code::Aborted, "{status}");
    }
    bench.heartbeat(run_id, 2, 8).await.unwrap();
    bench
        .end(run_id, 2, pb::AttemptOutcome::Stopped, "asked to stop")
        .await
        .unwrap();
    assert_eq!(bench.runs("pre").await[0].state(), RunState::Queued);
    bench.begin(run_id).await.unwrap();
    bench
        .end(
            run_id,
            3,
            pb::AttemptOutcome::Failed,
            "the loss is NaN at step 9",
        )
        .await
        .unwrap();
    let run = bench.wait_for_state("pre", RunState::Failed).await;
    assert_eq!(
        (run.reason.as_str(), run.attempts),
        ("the loss is NaN at step 9", 3)
    );
    assert_eq!(
        bench.begin(run_id).await.unwrap_err().code(),
        Code::FailedPrecondition
    );
    bench.shut_down().await;
}

#[tokio::test]
async fn a_finished_run_is_complete_once_all_is_durable() {
    let mut bench = bench(None).await;
    bench.submit(PRE).await.unwrap();
    let run_id = bench.runs("pre").await[0].run_id;
    let request = pb::WatchExperimentRequest {
        name: "pre".to_owned(),
    };
    let mut watched = bench
        .people
        .watch_experiment(request)
        .await
        .unwrap()
        .into_inner();
    bench.begin(run_id).await.unwrap();
    bench.deliver(run_id, 19, 20).await;
    bench
        .end(run_id, 1, pb::AttemptOutcome::Finished, "")
        .await
        .unwrap();
    // Its answer may have been lost.
    bench
        .end(run_id, 1, pb::AttemptOutcome::Finished, "")
        .await
        .unwrap();
    let run = bench
        .wait_for("pre", "it says what is missing", |r| !r.reason.is_empty())
        .await;
    assert_eq!(run.state(), RunState::Delivering);
    assert!(
        run.reason
            .starts_with("undelivered since step 19; next attempt in "),
        "{}",
        run.reason
    );
    assert_eq!(run.step, 20);
    bench.deliver(run_id, 21, 20).await;
    let run = bench.wait_for_state("pre", RunState::Complete).await;
    assert_eq!((run.readings_expected, run.readings_stored), (21, 21));

    let mut last = None;
    while let Some(message) = watched.message().await.unwrap() {
        assert_ne!(Some(&message), last.as_ref(), "only changes are sent");
        last = Some(message);
    }
    let last = last.unwrap().experiment.unwrap();
    assert_eq!(last.runs, [run], "the stream ends with the last run");
    bench.shut_down().await;
}

#[tokio::test]
async fn cancelling_ends_only_what_nobody_else_wants() {
    let mut bench = bench(None).await;
    bench.submit(PRE).await.unwrap();
    bench
        .submit(&PRE.replace("\"pre\"", "\"other\""))
        .await
        .unwrap();
    let run_id = bench.runs("pre").await[0].run_id;
    assert_eq!(
        bench.cancel("pre").await,
        [""; 0],
        "the other experiment wants it"
    );
    bench.begin(run_id).await.unwrap();
    assert_eq!(bench.cancel("other").await, ["other/scratch-none-b4-s0"]);
    assert!(
        bench.heartbeat(run_id, 1, 3).await.unwrap(),
        "the trainer is asked to stop"
    );
    bench
        .end(run_id, 1, pb::AttemptOutcome::Stopped, "")
        .await
        .unwrap();
    bench.wait_for_state("pre", RunState::Cancelled).await;
    assert!(!bench.submit(PRE).await.unwrap().runs[0].new);
    assert_eq!(
        bench.runs("pre").await[0].state(),
        RunState::Cancelled,
        "only retry restarts"
    );
    assert_eq!(bench.retry("pre").await, [PRE_RUN]);
    assert_eq!(bench.runs("pre").await[0].state(), RunState::Queued);
    assert_eq!(bench.cancel("pre").await, [PRE_RUN]);
    bench.wait_for_state("pre", RunState::Cancelled).await;
    bench.shut_down().await;
}

#[tokio::test]
async fn a_trainer_that_keeps_failing_fails_its_run_with_its_last_words() {
    let mut bench = bench(Some("echo starting; echo 'no such device' >&2; exit 1")).await;
    bench.submit(PRE).await.unwrap();
    let run = bench.wait_for_state("pre", RunState::Failed).await;
    assert_eq!(
        run.reason,
        "3 attempts in a row got no further; in the last the trainer ended with exit code 1: \
         no such device"
    );
    bench.shut_down().await;
}

#[tokio::test]
async fn shutting_down_stops_trainers_and_ends_watching() {
    let script = "trap 'echo $1 > \"$0.stopped\"; exit 0' TERM; echo > \"$0.ready\"; \
                  while :; do sleep 0.01; done";
    let mut bench = bench(Some(script)).await;
    bench.submit(PRE).await.unwrap();
    let (ready, stopped) = (
        bench.dir.path().join("trainer.ready"),
        bench.dir.path().join("trainer.stopped"),
    );
    wait_until(LIMIT, "the trainer runs", || async { ready.exists() }).await;
    let request = pb::WatchExperimentRequest {
        name: "pre".to_owned(),
    };
    let mut watched = bench
        .people
        .watch_experiment(request)
        .await
        .unwrap()
        .into_inner();
    watched.message().await.unwrap();
    let Bench {
        db: _db,
        dir: _dir,
        serving,
        ..
    } = bench;
    let shut_down = tokio::spawn(serving.shut_down());
    let status = loop {
        match watched.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it ended as if all runs had"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.message(), "the orchestrator is shutting down");
    shut_down.await.unwrap();
    assert_eq!(std::fs::read_to_string(stopped).unwrap(), "run\n");
}

#[tokio::test]
async fn without_a_database_calls_say_so_and_the_orchestrator_goes_on() {
    let mut bench = bench_on(TestDb::start_durable().await, None, Duration::from_secs(60)).await;
    bench.submit(PRE).await.unwrap();
    let run_id = bench.runs("pre").await[0].run_id;
    bench.begin(run_id).await.unwrap();
    bench.db.kill_postmaster();
    let status = bench.heartbeat(run_id, 1, 3).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert_eq!(status.message(), "the database cannot be reached");
    let status = bench.submit(PRE).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    bench.db.restart().await;
    wait_until(LIMIT, "the attempt goes on", || async {
        bench.heartbeat(run_id, 1, 4).await.is_ok()
    })
    .await;
    assert_eq!(bench.cancel("pre").await, [PRE_RUN]);
    assert!(bench.heartbeat(run_id, 1, 5).await.unwrap());
    bench.shut_down().await;
}

#[tokio::test]
async fn a_silent_attempt_is_written_off_and_counts_as_barren_unless_it_got_further() {
    let lease = Duration::from_millis(300);
    let mut bench = bench_on(TestDb::start().await, None, lease).await;
    bench.submit(PRE).await.unwrap();
    let run_id = bench.runs("pre").await[0].run_id;
    let barren = "select barren_attempts::int8 from imprint.run";
    // Readings stored when the attempt is lost, and the count of barren ones after it.
    for (attempt, stored, want) in [(1, 0, 1), (2, 4, 0), (3, 4, 1), (4, 2, 2)] {
        assert_eq!(bench.begin(run_id).await.unwrap().attempt, attempt);
        bench.deliver(run_id, stored, stored).await;
        bench.wait_for_state("pre", RunState::Queued).await;
        assert_eq!(bench.count(barren).await, want, "after attempt {attempt}");
        let status = bench.heartbeat(run_id, attempt, 1).await.unwrap_err();
        assert_eq!(status.code(), Code::Aborted);
    }
    // A later state than any before is progress too.
    bench.begin(run_id).await.unwrap();
    bench.record(run_id, 5, 5).await.unwrap();
    bench.wait_for_state("pre", RunState::Queued).await;
    assert_eq!(bench.count(barren).await, 0);
    for _ in 0..3 {
        bench.begin(run_id).await.unwrap();
        bench
            .wait_for("pre", "it is lost", |run| run.state() != RunState::Running)
            .await;
    }
    let run = bench.wait_for_state("pre", RunState::Failed).await;
    assert_eq!(
        run.reason,
        "3 attempts in a row got no further; in the last the trainer sent no heartbeat before its \
         lease ran out"
    );
    bench.shut_down().await;
}

#[tokio::test]
async fn a_run_that_gets_no_time_fails_and_one_that_is_cancelled_never_does() {
    let mut bench = bench(None).await;
    bench.submit(PRE).await.unwrap();
    let run_id = bench.runs("pre").await[0].run_id;
    for attempt in 1..=9 {
        bench.begin(run_id).await.unwrap();
        bench.stop(run_id, attempt).await;
    }
    // One that got further: the count begins anew.
    bench.begin(run_id).await.unwrap();
    bench.record(run_id, 10, 5).await.unwrap();
    bench.stop(run_id, 10).await;
    for attempt in 11..=20 {
        assert_eq!(bench.runs("pre").await[0].state(), RunState::Queued);
        bench.begin(run_id).await.unwrap();
        bench.stop(run_id, attempt).await;
    }
    let run = bench.wait_for_state("pre", RunState::Failed).await;
    assert_eq!(
        run.reason,
        "stopped 10 times in a row before it got any further, the last time: SIGUSR1; give its jobs \
         more time, then retry it"
    );

    assert_eq!(bench.retry("pre").await.len(), 1);
    let attempt = bench.begin(run_id).await.unwrap().attempt;
    bench.cancel("pre").await;
    (bench.end(run_id, attempt, pb::AttemptOutcome::Failed, "no space left"))
        .await
        .unwrap();
    let run = bench.wait_for_state("pre", RunState::Cancelled).await;
    assert_eq!(run.reason, "cancelled");
    bench.shut_down().await;
}
