//! What is submitted, over real gRPC with a real Postgres: matrices, sites, estimates.

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use imprint_orchestrator::{Config, Site};
use imprint_proto::Channel;
use imprint_proto::pb;
use imprint_proto::pb::orchestrator_client::OrchestratorClient;
use imprint_testkit::{TestDb, complete_run};
use sqlx::AssertSqlSafe;
use tempfile::TempDir;
use tonic::{Code, Status};

use self::common::Serving;

/// An orchestrator that starts nothing, with a synthetic world in the directory `world`.
struct Lab {
    db: TestDb,
    dir: TempDir,
    people: OrchestratorClient<Channel>,
    serving: Serving,
    n_requests: u32,
}

/// A site file's text, in which `DIR` is the lab's directory, makes the site.
async fn lab(site: &str) -> Lab {
    let db = TestDb::start().await;
    let dir = tempfile::tempdir().unwrap();
    common::write_world(&dir.path().join("world"));
    fs::create_dir(dir.path().join("experiments")).unwrap();
    let site_file = dir.path().join("site.toml");
    let site = site.replace("DIR", &dir.path().display().to_string());
    fs::write(&site_file, site).unwrap();
    let config = Config {
        site: Site::read(&site_file, 0).unwrap(),
        ..common::config(dir.path()).await
    };
    let serving = Serving::start(config, db.store.clone());
    let channel = imprint_proto::connect("orchestrator", &serving.url).await;
    Lab {
        db,
        dir,
        people: OrchestratorClient::new(channel.unwrap()),
        serving,
        n_requests: 0,
    }
}

/// Nothing is started here: each executor has no slot.
const TWO_EXECUTORS: &str = "default = 'small'
    [executor.small]\nkind = 'local'\nslots = 0
    [executor.large]\nkind = 'local'\nslots = 0";

/// An experiment of one run, `tiny/scratch-duplication-b4-s0`, in the directory `experiments`.
const TINY: &str = r#"
name = "tiny"
scenarios = ["duplication"]
batch_sizes = [4]

[data]
facts = "../world/facts.json"
tokenizer = "../world/tokenizer.json"
seq_len = 64

[data.corpus]
files = ["../world/corpus.u16"]
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
"#;

/// The model from scratch in `TINY`, as its checkpoint.
const INIT: &str = "init = { hidden_size = 16, intermediate_size = 32, num_hidden_layers = 1, \
                    num_attention_heads = 2 }";

impl Lab {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    async fn ask(
        &mut self,
        toml: &str,
        dry_run: bool,
        tokens_per_second: Option<f64>,
    ) -> Result<pb::SubmitExperimentResponse, Status> {
        self.n_requests += 1;
        let request = pb::SubmitExperimentRequest {
            request_id: format!("request {}", self.n_requests),
            toml: toml.replace("DIR", &self.dir.path().display().to_string()),
            file: "experiment.toml".to_owned(),
            base_dir: self.path("experiments").display().to_string(),
            dry_run,
            tokens_per_second,
        };
        let answer = self.people.submit_experiment(request).await;
        answer.map(tonic::Response::into_inner)
    }

    async fn submit(&mut self, toml: &str) -> Vec<pb::SubmittedRun> {
        let answer = self.ask(toml, false, None).await.unwrap();
        assert_eq!(answer.estimate, None, "of a dry run only");
        answer.runs
    }

    async fn estimate(&mut self, toml: &str, tokens_per_second: Option<f64>) -> pb::Estimate {
        let answer = self.ask(toml, true, tokens_per_second).await.unwrap();
        answer.estimate.unwrap()
    }

    async fn refused(&mut self, toml: &str) -> String {
        let status = self.ask(toml, false, None).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        let dir = self.dir.path().display().to_string();
        status.message().replace(&dir, "DIR")
    }

    /// Runs are complete, with as many updates as they have, each of so many milliseconds.
    async fn complete(&self, label: &str, duration_ms: f32) {
        let pool = self.db.store.pool();
        let run_id: i32 = sqlx::query_scalar(
            "select run_id from imprint.run, imprint.ensure_partitions(run_id) where label = $1",
        )
        .bind(label)
        .fetch_one(pool)
        .await
        .unwrap();
        complete_run(&self.db.store, run_id).await;
        sqlx::query(
            "insert into imprint.update_stats
             select run_id, step, 1, 3.0, 1e-3, 1.0, 1.0, 256, 0, $2
             from imprint.run, generate_series(0, n_updates - 1) step where label = $1",
        )
        .bind(label)
        .bind(duration_ms)
        .execute(pool)
        .await
        .unwrap();
    }

    /// Executor, device and threads of every run.
    async fn resources(&self) -> Vec<String> {
        sqlx::query_scalar(
            "select format('%s %s %s', coalesce(spec #>> '{resources,executor}', '–'),
                 spec #>> '{resources,device}', spec #>> '{resources,threads}')
             from imprint.run order by run_id",
        )
        .fetch_all(self.db.store.pool())
        .await
        .unwrap()
    }

    async fn shut_down(self) {
        self.serving.shut_down().await;
    }
}

fn new(runs: &[pb::SubmittedRun]) -> Vec<&str> {
    let new = runs.iter().filter(|run| run.new);
    new.map(|run| run.run.as_str()).collect()
}

#[tokio::test]
async fn a_matrix_grows_by_what_is_missing() {
    let mut lab = lab("").await;
    let with = |peaks: &str, seeds: &str| {
        format!(
            "seeds = {seeds}\n{TINY}\n[matrix.product]\n'training.learning_rate.peak' = {peaks}"
        )
    };
    let first = lab.submit(&with("[1e-3, 5e-3]", "[0]")).await;
    assert_eq!(
        new(&first),
        [
            "tiny/scratch-duplication-b4-s0-peak1e-3",
            "tiny/scratch-duplication-b4-s0-peak5e-3"
        ]
    );
    let again = lab.submit(&with("[1e-3, 5e-3]", "[0]")).await;
    assert_eq!(new(&again), [""; 0], "the same file changes nothing");
    assert!(again.iter().all(|run| run.state() == pb::RunState::Queued));
    let value = lab.submit(&with("[1e-3, 2e-3, 5e-3]", "[0]")).await;
    assert_eq!(new(&value), ["tiny/scratch-duplication-b4-s0-peak2e-3"]);
    let seed = lab.submit(&with("[5e-3]", "[0, 1]")).await;
    assert_eq!(new(&seed), ["tiny/scratch-duplication-b4-s1-peak5e-3"]);
    // An axis more: runs that are there keep the labels under which `status` finds them.
    let axis = with("[5e-3]", "[0, 1]") + "\n'training.optimizer.beta2' = [0.95, 0.9]";
    let dry = lab.ask(&axis, true, None).await.unwrap().runs;
    let more = lab.submit(&axis).await;
    assert_eq!(dry, more, "a dry run names them alike");
    let labels: Vec<&str> = more.iter().map(|run| run.run.as_str()).collect();
    let cell = |seed, rest| format!("tiny/scratch-duplication-b4-s{seed}-peak5e-3{rest}");
    let want = [
        cell(0, ""),
        cell(1, ""),
        cell(0, "-beta2-0.9"),
        cell(1, "-beta2-0.9"),
    ];
    assert_eq!(labels, want);
    for label in labels {
        let request = pb::GetRunRequest {
            run: label.to_owned(),
            ..Default::default()
        };
        let answer = lab.people.get_run(request).await;
        assert_eq!(answer.unwrap().into_inner().run.unwrap().run, label);
    }
    // The same runs in other words and another experiment.
    let other = TINY.replace("\"tiny\"", "\"other\"");
    let shared = lab.submit(&other).await;
    assert_eq!(new(&shared), [""; 0]);
    assert_eq!(shared[0].hash, first[1].hash);

    let same = "[matrix.product]\n'injection.every' = [5, 6]";
    let spaced =
        "[[scenario.mine.arm]]\nname = 'm'\nfacts = '0..2'\ntext = 'original'\nsteps = [1]";
    let file = TINY.replace("[\"duplication\"]", "[\"mine\"]") + same + "\n" + spaced;
    let said = lab.refused(&file).await;
    assert_eq!(
        said,
        "`tiny/scratch-mine-b4-s0-every5` and `tiny/scratch-mine-b4-s0-every6` are the same run: \
         what differs between them changes no number of it; leave one of them out"
    );
    let said = lab
        .refused(&(TINY.to_owned() + "[matrix.product]\n'training.stps' = [1]"))
        .await;
    assert!(
        said.contains("line 27") && said.contains("unknown field `stps`"),
        "{said}"
    );
    lab.shut_down().await;
}

/// Each cell is planned, and not only the first.
#[tokio::test]
async fn every_cell_of_a_matrix_is_checked() {
    let mut lab = lab("").await;
    for (axis, want) in [
        ("'training.steps' = [20, 3]", "-steps3: fact"),
        (
            "'training.steps' = [20, 90000]",
            "-steps90000: the corpus is shorter",
        ),
        ("'data.seq_len' = [64, 16]", "-seq_len16: "),
        (
            "'training.learning_rate' = [{ kind = 'constant', peak = 1e-3 }, \
           { kind = 'linear', peak = 1e-3, max_tokens = 100, warmup_steps = 5 }]",
            "training.learning_rate: `max_tokens`",
        ),
        ("'injection.count' = [2, 20]", "-count20: "),
    ] {
        let said = lab
            .refused(&format!("{TINY}\n[matrix.product]\n{axis}"))
            .await;
        assert!(said.contains(want), "{axis}: {said}");
    }
    // Runs that differ in their seeds and rates only have one plan, and all that follows from it.
    let file = format!(
        "seeds = [0, 1, 2]\n{TINY}\n[[matrix.zip]]\n'training.learning_rate.peak' = [1e-3, 5e-3]\n\
         'injection.every' = [3, 5]"
    );
    let runs = lab.submit(&file).await;
    assert_eq!(runs.len(), 6);
    let last: Vec<i32> = sqlx::query_scalar(
        "select max(step) from imprint.injection join imprint.run using (run_id)
         group by run_id order by run_id",
    )
    .fetch_all(lab.db.store.pool())
    .await
    .unwrap();
    assert_eq!(last, [3, 3, 3, 5, 5, 5]);
    lab.shut_down().await;
}

/// A run is known by what its files hold, however they are named.
#[tokio::test]
async fn a_run_is_the_same_wherever_its_files_are() {
    let mut lab = lab("[roots]\nworld = 'DIR/world'").await;
    let order: Vec<u8> = (0..300_u32).flat_map(u32::to_le_bytes).collect();
    fs::write(lab.path("world/order"), order).unwrap();
    symlink(lab.path("world"), lab.path("alias")).unwrap();
    fs::create_dir(lab.path("copy")).unwrap();
    for name in ["facts.json", "tokenizer.json", "corpus.u16", "order"] {
        fs::copy(lab.path("world").join(name), lab.path("copy").join(name)).unwrap();
    }
    let file = |forms: [&str; 4]| {
        let [facts, tokenizer, corpus, order] = forms;
        TINY.replace("../world/facts.json", &format!("{facts}facts.json"))
            .replace(
                "../world/tokenizer.json",
                &format!("{tokenizer}tokenizer.json"),
            )
            .replace("../world/corpus.u16", &format!("{corpus}corpus.u16"))
            .replace(
                "format = \"uint16\"",
                &format!(
                    "format = \"uint16\"\norder = {{ kind = \"file\", path = \"{order}order\" }}"
                ),
            )
    };
    let forms = [
        "../world/",
        "DIR/world/",
        "world:",
        "DIR/alias/",
        "../copy/",
    ];
    let first = lab.submit(&file([forms[0]; 4])).await;
    assert!(first[0].new);
    // Each file in each form, and all in the same.
    for form in forms {
        for which in 0..4 {
            let mut mixed = [forms[0]; 4];
            mixed[which] = form;
            let again = lab.submit(&file(mixed)).await;
            assert!(!again[0].new && again[0].hash == first[0].hash, "{mixed:?}");
        }
        let again = lab.submit(&file([form; 4])).await;
        assert!(!again[0].new, "{form}");
    }
    let said = lab.refused(&file(["world:../world/"; 4])).await;
    assert!(
        said.starts_with(
            "experiment.toml: `data.facts`: `world:../world/facts.json` leaves the root"
        ),
        "{said}"
    );
    lab.shut_down().await;
}

#[tokio::test]
async fn where_only_roots_are_open_nothing_else_is_read() {
    let mut lab = lab("[roots]\nworld = 'DIR/world'\nonly_roots = true").await;
    lab.submit(&TINY.replace("../world/", "world:")).await;
    // The same files by another name are below the root all the same.
    assert_eq!(new(&lab.submit(TINY).await), [""; 0]);

    fs::copy(lab.path("world/facts.json"), lab.path("facts.json")).unwrap();
    let said = lab
        .refused(&TINY.replace("../world/facts", "../facts"))
        .await;
    assert_eq!(
        said,
        "experiment.toml: `data.facts`: DIR/experiments/../facts.json (which is DIR/facts.json) is \
         below no root of this site, and only files below roots may be named; there are: world"
    );

    // A checkpoint below the root whose files lead out of it.
    let model = |name: &str| lab.path("world").join(name);
    for name in ["linked", "sharded"] {
        fs::create_dir(model(name)).unwrap();
        fs::write(model(name).join("config.json"), r#"{"vocab_size": 60000}"#).unwrap();
    }
    fs::write(lab.path("weights"), "weights").unwrap();
    symlink(lab.path("weights"), model("linked/model.safetensors")).unwrap();
    let index = r#"{"weight_map": {"a": "../../weights"}}"#;
    fs::write(model("sharded/model.safetensors.index.json"), index).unwrap();
    for name in ["linked", "sharded"] {
        let file = TINY.replace(INIT, &format!("path = 'world:{name}'"));
        assert_ne!(file, TINY);
        let said = lab.refused(&file).await;
        assert!(
            said.starts_with("checkpoint `scratch`: ") && said.contains("(which is DIR/weights)"),
            "{said}"
        );
    }
    lab.shut_down().await;
}

#[tokio::test]
async fn an_executor_is_named_and_is_no_part_of_a_run() {
    let mut lab = lab(TWO_EXECUTORS).await;
    let first = lab.submit(TINY).await;
    let named = format!("{TINY}\n[resources]\nexecutor = 'large'");
    let dry = lab.ask(&named, true, None).await.unwrap().runs;
    assert!(dry[0].updated && !dry[0].new);
    let again = lab.submit(&named).await;
    assert_eq!(again[0].hash, first[0].hash);
    assert!(again[0].updated && !again[0].new);
    assert_eq!(lab.resources().await, ["large cpu 1"]);
    assert!(!lab.submit(&named).await[0].updated, "nothing is new to it");
    assert_eq!(
        lab.refused(&named.replace("large", "largest")).await,
        "experiment.toml: `resources.executor`: there is no executor `largest` at this site; there \
         are: large, small"
    );
    let axis = format!(
        "{}\n[[matrix.zip]]\nbatch_size = [4, 8]\nresources.executor = ['small', 'moon']",
        TINY.replace("batch_sizes = [4]\n", "")
    );
    let said = lab.refused(&axis).await;
    assert!(said.contains("no executor `moon`"), "{said}");
    lab.submit(&axis.replace("moon", "large")).await;
    let executors: Vec<Option<String>> = sqlx::query_scalar(
        "select spec #>> '{resources,executor}' from imprint.run order by run_id",
    )
    .fetch_all(lab.db.store.pool())
    .await
    .unwrap();
    assert_eq!(
        executors,
        [Some("small".to_owned()), Some("large".to_owned())]
    );
    lab.shut_down().await;
}

#[tokio::test]
async fn no_gpu_is_left_unused_without_a_word() {
    let mut lab = lab("[executor.gpus]\nkind = 'local'\ngpus = [0]").await;
    assert_eq!(
        lab.refused(TINY).await,
        "experiment.toml: `resources.device`: \"cpu\": the executor `gpus` gives each trainer a GPU, \
         and this one would train on the CPU: write \"cuda:0\", or name an executor without GPUs"
    );
    lab.shut_down().await;
}

/// What a run is given is corrected until somebody works with it, and again when it has failed.
#[tokio::test]
async fn resources_are_corrected_while_nothing_uses_them() {
    let mut lab = lab(TWO_EXECUTORS).await;
    let with = |resources: &str| format!("{TINY}\n[resources]\n{resources}");
    lab.submit(TINY).await;
    let state = async |lab: &Lab, change: &str| {
        let sql = format!("update imprint.run set {change}");
        let changed = sqlx::query(AssertSqlSafe(sql)).execute(lab.db.store.pool());
        changed.await.unwrap();
    };
    // A job that waits in a cluster's queue was asked for with what the run had.
    let job = "insert into imprint.job (run_id, job, executor, request_id)
               select run_id, 1, 'small', 'x' from imprint.run";
    sqlx::query(job).execute(lab.db.store.pool()).await.unwrap();
    assert!(!lab.submit(&with("threads = 2")).await[0].updated);
    state(&lab, "state = 'running'").await;
    assert!(!lab.submit(&with("threads = 2")).await[0].updated);
    assert_eq!(lab.resources().await, ["– cpu 1"]);
    state(&lab, "state = 'failed'").await;
    let resources = "executor = 'large'\ndevice = 'cuda:0'\nmemory_gib = 8\nthreads = 2";
    let updated = lab.submit(&with(resources)).await;
    assert!(updated[0].updated && updated[0].state() == pb::RunState::Failed);
    assert_eq!(lab.resources().await, ["large cuda:0 2"]);
    let (executor, event): (String, String) = sqlx::query_as(
        "select r.executor, e.detail from imprint.run r join imprint.event e using (run_id)
         where e.kind = 'resources'",
    )
    .fetch_one(lab.db.store.pool())
    .await
    .unwrap();
    assert_eq!(executor, "large");
    assert!(event.contains("\"memory_gib\": 8.0"), "{event}");
    lab.shut_down().await;
}

#[tokio::test]
async fn a_dry_run_says_what_the_new_runs_take() {
    let mut lab = lab(TWO_EXECUTORS).await;
    let estimate = lab.estimate(TINY, None).await;
    assert_eq!((estimate.n_runs, estimate.n_readings), (1, 21));
    assert_eq!(estimate.n_tokens, 20 * 4 * 64);
    assert!(estimate.n_probe_tokens > 21 * 4 * 3, "{estimate:?}");
    let n_probes = lab.ask(TINY, true, None).await.unwrap().runs[0].n_probes;
    let bytes = 21.0 * f64::from(n_probes) * 3.0 * 9.36;
    assert_eq!(estimate.database_bytes, bytes as u64);
    assert_eq!(estimate.device_hours, None, "nobody knows");
    let [group] = estimate.groups.as_slice() else {
        panic!("{estimate:?}");
    };
    assert_eq!(
        (
            group.run.as_str(),
            group.n_runs,
            group.executor.as_str(),
            group.device.as_str()
        ),
        ("tiny/scratch-duplication-b4-s0", 1, "small", "cpu")
    );
    assert_eq!((group.problem.as_str(), group.micro_batch_rows), ("", None));
    // Embedding, output matrix, four projections of attention, three of the feed-forward layer.
    let vocabulary = fs::read_to_string(lab.path("world/tokenizer.json")).unwrap();
    let vocabulary: serde_json::Value = serde_json::from_str(&vocabulary).unwrap();
    let n_words = vocabulary["model"]["vocab"].as_object().unwrap().len() as u64;
    assert_eq!(
        group.n_parameters,
        Some(2 * 16 * n_words + 4 * 16 * 16 + 3 * 16 * 32)
    );
    assert!(group.memory_bytes.unwrap() > 16 * group.n_parameters.unwrap());

    let stated = lab.estimate(TINY, Some(1000.0)).await;
    let work = stated.n_tokens as f64 + stated.n_probe_tokens as f64 / 3.0;
    let hours = stated.device_hours.unwrap();
    assert!((hours - work / 1000.0 / 3600.0).abs() < 1e-12, "{stated:?}");
    assert_eq!(stated.groups[0].n_measured_runs, 0);
    for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let status = lab.ask(TINY, true, Some(rate)).await.unwrap_err();
        assert!(
            status.message().starts_with("tokens_per_second: "),
            "{status}"
        );
    }

    // What is there is left out; memory and time go by model, batch and device.
    lab.submit(TINY).await;
    let wider = format!(
        "seeds = [0, 1]\n{}\n[training.optimizer]\n[resources]\nmemory_gib = 0.5",
        TINY.replace("[4]", "[4, 8]")
    );
    let estimate = lab.estimate(&wider, None).await;
    let groups: Vec<_> = (estimate.groups.iter())
        .map(|g| (g.n_runs, g.batch_size, g.micro_batch_rows))
        .collect();
    assert_eq!(groups, [(1, 4, Some(4)), (2, 8, Some(8))]);
    assert_eq!(estimate.n_runs, 3);
    let nothing = lab.estimate(TINY, None).await;
    assert_eq!((nothing.n_runs, nothing.groups.len()), (0, 0));
    assert_eq!(nothing.device_hours, Some(0.0));
    lab.shut_down().await;
}

#[tokio::test]
async fn rates_are_measured_on_runs_that_are_like_the_new_ones() {
    let mut lab = lab(TWO_EXECUTORS).await;
    let seeded = |seed: u32, rest: &str| format!("seeds = [{seed}]\n{TINY}\n{rest}");
    lab.submit(&seeded(0, "")).await;
    lab.submit(&seeded(1, "")).await;
    // 256 tokens in 100 ms and in 300 ms.
    lab.complete("tiny/scratch-duplication-b4-s0", 100.0).await;
    lab.complete("tiny/scratch-duplication-b4-s1", 300.0).await;
    let estimate = lab.estimate(&seeded(2, ""), None).await;
    let group = &estimate.groups[0];
    assert_eq!(group.n_measured_runs, 2);
    let rate = group.tokens_per_second.unwrap();
    assert!((rate - 256.0 / 0.2).abs() < 0.01, "{rate}");

    // A run that starts from the state of another has the model that the other has.
    let child = TINY
        .replace("\"tiny\"", "\"child\"")
        .replace(INIT, "run = 'tiny/scratch-duplication-b4-s0'\nstep = 20");
    let of_child = lab.estimate(&child, None).await;
    assert_eq!(of_child.groups[0].n_measured_runs, 2);
    assert_eq!(of_child.groups[0].n_parameters, group.n_parameters);
    lab.submit(&child).await;
    lab.complete("child/scratch-duplication-b4-s0", 200.0).await;
    let again = lab.estimate(&seeded(2, ""), None).await;
    assert_eq!(again.groups[0].n_measured_runs, 3, "and counts like it");

    for (what, file) in [
        (
            "another model",
            TINY.replace("hidden_size = 16", "hidden_size = 32"),
        ),
        (
            "a longer row",
            TINY.replace("seq_len = 64", "seq_len = 128"),
        ),
        (
            "another executor",
            seeded(2, "[resources]\nexecutor = 'large'"),
        ),
        ("more threads", seeded(2, "[resources]\nthreads = 2")),
        (
            "another device",
            seeded(2, "[resources]\ndevice = 'cuda:0'\nmemory_gib = 80"),
        ),
        (
            "rounded products",
            TINY.replace("steps = 20", "steps = 20\nprecision = 'bfloat16'"),
        ),
    ] {
        let file = file.replace("\"tiny\"", "\"else\"");
        let estimate = lab.estimate(&file, None).await;
        assert_eq!(estimate.groups[0].tokens_per_second, None, "{what}");
        assert_eq!(estimate.device_hours, None, "{what}");
    }
    let bigger = lab
        .estimate(&seeded(2, "").replace("[4]", "[8]"), None)
        .await;
    assert!(
        bigger.device_hours.is_some(),
        "another batch is no other model"
    );
    lab.shut_down().await;
}

/// A checkpoint whose configuration the trainer cannot read has no size, and says why.
#[tokio::test]
async fn a_size_that_cannot_be_told_is_said() {
    let mut lab = lab("").await;
    let model = lab.path("model");
    fs::create_dir(&model).unwrap();
    fs::write(
        model.join("config.json"),
        r#"{"model_type": "other", "vocab_size": 60000}"#,
    )
    .unwrap();
    fs::write(model.join("model.safetensors"), "weights").unwrap();
    let file = TINY.replace(INIT, "path = '../model'");
    let estimate = lab.estimate(&file, Some(100.0)).await;
    let group = &estimate.groups[0];
    assert_eq!((group.n_parameters, group.memory_bytes), (None, None));
    assert!(group.problem.contains("model_type"), "{}", group.problem);
    assert!(
        estimate.device_hours.is_some(),
        "the stated rate holds all the same"
    );
    lab.shut_down().await;
}

/// Planned once, stored in bulk, answered in one message.
#[tokio::test]
async fn a_file_may_have_thousands_of_runs() {
    let mut lab = lab("").await;
    let seeds: Vec<String> = (0..2000).map(|seed: u32| seed.to_string()).collect();
    let file = format!(
        "seeds = [{}]\n{TINY}\n[matrix.product]\n'training.learning_rate.peak' = [1e-3, 2e-3]",
        seeds.join(", ")
    );
    let runs = lab.submit(&file).await;
    assert_eq!(new(&runs).len(), 4000);
    let again = lab.submit(&file).await;
    assert_eq!(new(&again), [""; 0]);
    let estimate = lab
        .estimate(
            &file
                .replace("\"tiny\"", "\"other\"")
                .replace("steps = 20", "steps = 30"),
            None,
        )
        .await;
    assert_eq!(estimate.n_runs, 4000);
    lab.shut_down().await;
}
