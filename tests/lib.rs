//! A whole laboratory for end-to-end tests: real processes, real Postgres, real gRPC.

pub mod locked_lab;
pub mod simulated;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use imprint_proto::Channel;
use imprint_proto::pb::{
    self, RunState, metrics_client::MetricsClient, orchestrator_client::OrchestratorClient,
};
use imprint_testkit::{ChildGuard, Home, Proxy, TestDb, bin, free_port, output, wait_until};
use imprint_world::{World, WorldConfig};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::timeout;

/// How long a service may take to answer after its process was started.
const START_WITHIN: Duration = Duration::from_secs(30);

/// How long whatever starts trainers may take to end with them.
pub const STOP_WITHIN: Duration = Duration::from_secs(40);

/// How long the client program may take: it may wait for runs.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(600);

/// Postgres, a metrics service and an orchestrator, each in a process of its own, and the files of
/// a small synthetic world.
pub struct Lab {
    // They end in this order.
    orchestrator: Option<ChildGuard>,
    metrics: Option<ChildGuard>,
    home: Home,
    pub db: TestDb,
    metrics_port: u16,
    orchestrator_port: u16,
    n_slots: u32,
    /// Where trainers deliver: the metrics service, or something before it.
    delivery_port: u16,
    trainer: PathBuf,
    /// In the place of slots on this machine.
    site: Option<PathBuf>,
    /// What services, and the trainers they start, find in their environment.
    env: Vec<(&'static str, PathBuf)>,
}

/// One stored reading, bit by bit.
#[derive(Clone, Debug, PartialEq, sqlx::FromRow)]
pub struct StoredReading {
    pub reading: i32,
    pub step: i32,
    pub attempt: i32,
    pub first_sum_nats: Vec<f32>,
    pub target_sum_nats: Vec<f32>,
    pub full_sum_nats: Vec<f32>,
}

impl StoredReading {
    /// What a reading of the same parameters has, whoever measured it.
    pub fn bits(&self) -> (i32, Vec<u32>) {
        let spans = [
            &self.first_sum_nats,
            &self.target_sum_nats,
            &self.full_sum_nats,
        ];
        (
            self.step,
            spans.into_iter().flatten().map(|v| v.to_bits()).collect(),
        )
    }
}

impl Lab {
    /// A laboratory whose database survives a kill.
    pub async fn start() -> Self {
        Self::start_with_slots(2).await
    }

    /// The same, with so many trainers at a time.
    pub async fn start_with_slots(n_slots: u32) -> Self {
        let mut lab = Self::new(TestDb::start_durable().await, bin("imprint-trainer"));
        lab.n_slots = n_slots;
        write_world(lab.dir());
        lab.start_metrics().await;
        lab.start_orchestrator().await;
        lab
    }

    /// A laboratory without services and without a world.
    pub fn new(db: TestDb, trainer: PathBuf) -> Self {
        let metrics_port = free_port();
        Self {
            orchestrator: None,
            metrics: None,
            home: Home::new(),
            db,
            metrics_port,
            orchestrator_port: free_port(),
            n_slots: 2,
            delivery_port: metrics_port,
            trainer,
            site: None,
            env: Vec::new(),
        }
    }

    /// Gives orchestrators that start from now on a site file in the place of slots.
    pub fn set_site(&mut self, toml: &str) {
        let path = self.dir().join("site.toml");
        std::fs::write(&path, toml).expect("write the site file");
        self.site = Some(path);
    }

    /// Sets an environment variable of services that start from now on, and of their trainers.
    pub fn set_env(&mut self, name: &'static str, value: PathBuf) {
        self.env.push((name, value));
    }

    /// A network of the test's choice between trainers that begin from now on and the metrics service.
    pub async fn deliver_through_proxy(&mut self) -> Proxy {
        let proxy = Proxy::start(([127, 0, 0, 1], self.metrics_port).into()).await;
        self.delivery_port = proxy.port();
        proxy
    }

    /// Where the world's files and those of the runs are.
    pub fn dir(&self) -> &Path {
        self.home.path()
    }

    pub fn orchestrator_address(&self) -> String {
        format!("127.0.0.1:{}", self.orchestrator_port)
    }

    /// The client program, told where everything is.
    pub fn imprint(&self) -> Command {
        let mut command = Command::new(bin("imprint"));
        command
            .current_dir(self.dir())
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .env("DATABASE_URL", &self.db.url)
            .env("IMPRINT_DATA_DIR", self.home.data_dir())
            .env("IMPRINT_CACHE_DIR", self.dir().join("cache"))
            .env(
                "IMPRINT_METRICS",
                format!("http://127.0.0.1:{}", self.delivery_port),
            )
            .env(
                "IMPRINT_ORCHESTRATOR",
                format!("http://{}", self.orchestrator_address()),
            );
        command
    }

    /// What the client program answers.
    #[track_caller]
    pub fn says(&self, arguments: &[&str]) -> Output {
        output(self.imprint().args(arguments), ANSWER_WITHIN)
    }

    pub async fn start_metrics(&mut self) {
        self.spawn_metrics();
        answers(&format!("http://127.0.0.1:{}", self.metrics_port)).await;
    }

    fn spawn_metrics(&mut self) {
        let listen = format!("127.0.0.1:{}", self.metrics_port);
        self.metrics = Some(self.serve("metrics", &["--listen", &listen], Duration::ZERO));
    }

    pub async fn start_orchestrator(&mut self) {
        self.spawn_orchestrator();
        answers(&format!("http://{}", self.orchestrator_address())).await;
    }

    fn spawn_orchestrator(&mut self) {
        let listen = self.orchestrator_address();
        let trainer = self.trainer.to_str().expect("a path of text");
        let slots = self.n_slots.to_string();
        let where_to = match &self.site {
            Some(site) => ["--site", site.to_str().expect("a path of text")],
            None => ["--slots", &slots],
        };
        let arguments = [&["--listen", &listen, "--trainer", trainer], &where_to[..]].concat();
        self.orchestrator = Some(self.serve("orchestrator", &arguments, STOP_WITHIN));
    }

    /// Starts again whichever of the wanted services has ended, as a machine's supervisor would; one
    /// that finds no database ends again.
    pub fn supervise(&mut self, wants_metrics: bool, wants_orchestrator: bool) {
        let has_ended = |service: &mut Option<ChildGuard>| match service {
            Some(child) => !matches!(child.child().try_wait(), Ok(None)),
            None => true,
        };
        if wants_metrics && has_ended(&mut self.metrics) {
            self.spawn_metrics();
        }
        if wants_orchestrator && has_ended(&mut self.orchestrator) {
            self.spawn_orchestrator();
        }
    }

    /// The metrics service's process, while it runs.
    pub fn metrics(&self) -> Option<&ChildGuard> {
        self.metrics.as_ref()
    }

    fn serve(&self, role: &str, arguments: &[&str], patience: Duration) -> ChildGuard {
        let log = log(&self.dir().join(format!("{role}.log")));
        ChildGuard::spawn_patiently(
            self.imprint()
                .args(["serve", role])
                .args(arguments)
                .stdin(Stdio::null())
                .stdout(log.try_clone().expect("share the log"))
                .stderr(log),
            patience,
        )
    }

    /// Kills the metrics service with SIGKILL.
    pub fn kill_metrics(&mut self) {
        // Dropping it kills and collects it.
        self.metrics = None;
    }

    /// Kills the orchestrator with SIGKILL.
    pub fn kill_orchestrator(&mut self) {
        if let Some(mut orchestrator) = self.orchestrator.take() {
            orchestrator.kill();
        }
    }

    pub async fn client(&self) -> OrchestratorClient<Channel> {
        let url = format!("http://{}", self.orchestrator_address());
        OrchestratorClient::new(
            imprint_proto::connect("orchestrator", &url)
                .await
                .expect("reach the orchestrator"),
        )
    }

    /// Writes an experiment file and submits it.
    pub async fn submit(&self, toml: &str) -> Result<pb::SubmitExperimentResponse, tonic::Status> {
        let request = pb::SubmitExperimentRequest {
            request_id: toml.to_owned(),
            toml: toml.to_owned(),
            file: "experiment.toml".to_owned(),
            base_dir: self.dir().display().to_string(),
            dry_run: false,
            ..Default::default()
        };
        let mut client = self.client().await;
        let submitted = timeout(ANSWER_WITHIN, client.submit_experiment(request)).await;
        submitted
            .expect("the orchestrator answers")
            .map(tonic::Response::into_inner)
    }

    /// What the metrics service says of a run's completeness.
    pub async fn verify(&self, label: &str) -> pb::VerifyRunResponse {
        let url = format!("http://127.0.0.1:{}", self.metrics_port);
        let channel = imprint_proto::connect("metrics", &url)
            .await
            .expect("reach the metrics service");
        let request = pb::VerifyRunRequest {
            run: label.to_owned(),
        };
        let mut client = MetricsClient::new(channel);
        let verified = timeout(ANSWER_WITHIN, client.verify_run(request)).await;
        let verified = verified.expect("the metrics service answers");
        verified.expect("verify a run").into_inner()
    }

    /// Watches an experiment until all its runs have ended.
    pub async fn wait(&self, experiment: &str, limit: Duration) -> Vec<pb::Run> {
        let watching = async {
            let request = pb::WatchExperimentRequest {
                name: experiment.to_owned(),
            };
            let mut client = self.client().await;
            let mut updates = client
                .watch_experiment(request)
                .await
                .expect("watch")
                .into_inner();
            let mut runs = BTreeMap::new();
            while let Some(update) = updates.message().await.expect("go on watching") {
                let changed = update.experiment.expect("an experiment").runs;
                runs.extend(changed.into_iter().map(|run| (run.run_id, run)));
            }
            runs.into_values().collect()
        };
        match timeout(limit, watching).await {
            Ok(runs) => runs,
            Err(_) => panic!(
                "{experiment} did not end within {limit:?}: {:#?}",
                self.unfinished().await
            ),
        }
    }

    /// What runs that have not ended wait for, and the state of their jobs.
    async fn unfinished(&self) -> Vec<String> {
        sqlx::query_scalar(
            "select concat_ws(' | ', r.label, r.state, r.reason, j.*) from imprint.run r
             left join imprint.job j on j.run_id = r.run_id and j.ended_at is null
             where r.state in ('queued', 'running', 'delivering') or j.run_id is not null
             order by r.run_id",
        )
        .fetch_all(&self.pool().await)
        .await
        .expect("look at the runs")
    }

    /// Submits an experiment and waits until all its runs are complete.
    ///
    /// # Panics
    /// When a run ends otherwise, with its reason and the end of its log.
    pub async fn complete(&self, experiment: &str, toml: &str, limit: Duration) {
        self.submit(toml).await.expect("submit");
        self.all_complete(experiment, limit).await;
    }

    pub async fn all_complete(&self, experiment: &str, limit: Duration) {
        for run in self.wait(experiment, limit).await {
            assert_eq!(
                run.state(),
                RunState::Complete,
                "{}: {}\n{}",
                run.run,
                run.reason,
                self.trainer_log(run.run_id)
            );
        }
    }

    /// Everything that the trainers of a run have said.
    pub fn trainer_log(&self, run_id: i32) -> String {
        let logs = self
            .dir()
            .join("data/runs")
            .join(run_id.to_string())
            .join("logs");
        let mut paths: Vec<PathBuf> = std::fs::read_dir(logs)
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect();
        paths.sort();
        paths
            .iter()
            .filter_map(|path| std::fs::read_to_string(path).ok())
            .collect()
    }

    /// The number of a run by its label.
    pub async fn run_id(&self, label: &str) -> i32 {
        let pool = self.pool().await;
        sqlx::query_scalar("select run_id from imprint.experiment_run where label = $1")
            .bind(label)
            .fetch_one(&pool)
            .await
            .expect("find the run")
    }

    /// A connection of the test's own: what a user of SQL sees.
    pub async fn pool(&self) -> sqlx::PgPool {
        sqlx::PgPool::connect(&self.db.url)
            .await
            .expect("connect to the database")
    }

    /// All stored readings of a run, by index.
    pub async fn readings(&self, run_id: i32) -> Vec<StoredReading> {
        sqlx::query_as(
            "select reading, step, attempt, first_sum_nats, target_sum_nats, full_sum_nats \
             from imprint.step_reading where run_id = $1 order by reading",
        )
        .bind(run_id)
        .fetch_all(&self.pool().await)
        .await
        .expect("read the readings")
    }

    /// How many readings of a run are stored; `None` while the database does not answer.
    pub async fn n_stored(&self, run_id: i32) -> Option<i32> {
        let pool = sqlx::PgPool::connect(&self.db.url).await.ok()?;
        sqlx::query_scalar("select next_reading from imprint.ingest_head where run_id = $1")
            .bind(run_id)
            .fetch_optional(&pool)
            .await
            .ok()
            .map(Option::unwrap_or_default)
    }

    /// Waits until at least `n` readings of a run are stored.
    pub async fn stored_at_least(&self, run_id: i32, n: i32) {
        wait_until(
            Duration::from_secs(120),
            &format!("{n} readings are stored"),
            || async {
                self.n_stored(run_id)
                    .await
                    .is_some_and(|stored| stored >= n)
            },
        )
        .await;
    }

    /// How often the run was begun.
    pub async fn n_attempts(&self, run_id: i32) -> i64 {
        sqlx::query_scalar("select count(*) from imprint.attempt where run_id = $1")
            .bind(run_id)
            .fetch_one(&self.pool().await)
            .await
            .expect("count the attempts")
    }

    /// The process of the run's newest attempt, if there is one.
    pub async fn newest_pid(&self, run_id: i32) -> Option<i32> {
        sqlx::query_scalar(
            "select pid from imprint.attempt where run_id = $1 order by attempt desc limit 1",
        )
        .bind(run_id)
        .fetch_optional(&self.pool().await)
        .await
        .expect("find the attempt")
    }

    /// The process of the run's newest attempt.
    pub async fn trainer_pid(&self, run_id: i32) -> i32 {
        self.newest_pid(run_id).await.expect("the run was begun")
    }

    /// Sends a signal to the trainer of the run's newest attempt.
    pub async fn signal_trainer(&self, run_id: i32, signal: Signal) {
        let pid = self.trainer_pid(run_id).await;
        kill(Pid::from_raw(pid), signal).expect("signal the trainer");
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Asked to stop, it stops its trainers; those of a killed one end with their home.
        self.orchestrator = None;
        if std::thread::panicking() {
            for role in ["metrics", "orchestrator"] {
                let log = std::fs::read_to_string(self.dir().join(format!("{role}.log")));
                eprintln!("--- {role} ---\n{}", log.unwrap_or_default());
            }
        }
    }
}

/// Somebody with one machine, a small synthetic world, and the database that `imprint up` brings.
pub struct User(Home);

impl User {
    #[expect(clippy::new_without_default, reason = "it makes a directory")]
    pub fn new() -> Self {
        let home = Home::new();
        write_world(home.path());
        Self(home)
    }

    /// Where the user works.
    pub fn dir(&self) -> &Path {
        self.0.path()
    }

    pub fn imprint(&self) -> Command {
        let mut command = Command::new(bin("imprint"));
        command
            .current_dir(self.dir())
            .env_remove("DATABASE_URL")
            .env_remove("RUST_LOG")
            .env("IMPRINT_DATA_DIR", self.0.data_dir());
        command
    }

    #[track_caller]
    pub fn says(&self, arguments: &[&str]) -> Output {
        output(self.imprint().args(arguments), ANSWER_WITHIN)
    }

    /// What a command prints that ends well.
    #[track_caller]
    pub fn prints(&self, arguments: &[&str]) -> String {
        succeeds(self.imprint().args(arguments))
    }

    /// `imprint up`, once it serves; it prints to `up.out` and logs to `up.log`.
    pub async fn up(&self, arguments: &[&str]) -> ChildGuard {
        let open = |name| log(&self.dir().join(name));
        let up = ChildGuard::spawn_patiently(
            self.imprint()
                .arg("up")
                .args(arguments)
                .stdin(Stdio::null())
                .stdout(open("up.out"))
                .stderr(open("up.log")),
            STOP_WITHIN,
        );
        wait_until(Duration::from_secs(60), "imprint up serves", || async {
            self.says(&["list"]).status.success()
        })
        .await;
        up
    }
}

/// What a program prints that ends well.
#[track_caller]
pub fn succeeds(command: &mut Command) -> String {
    let out = output(command, ANSWER_WITHIN);
    let (stdout, stderr) = (
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr),
    );
    assert!(
        out.status.success(),
        "{command:?}: {}\n{stdout}\n{stderr}",
        out.status
    );
    stdout.into_owned()
}

/// Waits until a service answers.
async fn answers(url: &str) {
    wait_until(START_WITHIN, &format!("{url} answers"), || async {
        imprint_proto::connect("service", url).await.is_ok()
    })
    .await;
}

/// Writes the files of a small synthetic world.
pub fn write_world(dir: &Path) {
    World::generate(WorldConfig::ci())
        .and_then(|world| world.write(dir))
        .expect("write a world");
}

/// A file to whose end a program writes what it says.
pub fn log(path: &Path) -> File {
    let mut options = File::options();
    options
        .create(true)
        .append(true)
        .open(path)
        .expect("open a log")
}

/// The smallest model there is, of random weights.
pub const TINY: &str = "name = 'scratch'\n\
    init = { hidden_size = 16, intermediate_size = 32, num_hidden_layers = 1, \
             num_attention_heads = 2, tie_word_embeddings = true }";

/// A model of random weights with enough room to learn.
pub const SMALL: &str = "name = 'scratch'\n\
    init = { hidden_size = 32, intermediate_size = 80, num_hidden_layers = 2, \
             num_attention_heads = 4, tie_word_embeddings = true }";

/// Three exposures of each fact, a few facts at a time.
pub const THRICE: &str = "[injection]\nstart = 5\nevery = 20\ncount = 3\n\
    stagger = { groups = 5, every = 4 }\n";

/// The table `[training]` of so many updates, at a rate that moves small models.
pub fn training(n_updates: usize) -> String {
    format!(
        "[training]\nsteps = {n_updates}\n\
         learning_rate = {{ kind = 'constant', peak = 5e-3, warmup_steps = 5 }}\n"
    )
}

/// An experiment over the world of [`write_world`].
///
/// `head` gives `scenarios`, `batch_sizes` and what else comes before the tables; `rest` comes from
/// `[training]` on.
pub fn experiment(name: &str, head: &str, checkpoint: &str, rest: &str) -> String {
    format!(
        r#"
name = "{name}"
{head}

[data]
facts = "facts.json"
tokenizer = "tokenizer.json"
seq_len = 64

[data.corpus]
files = ["corpus.u16"]
format = "uint16"
max_epochs = 4

[[checkpoint]]
{checkpoint}

{rest}
"#
    )
}
