//! A laboratory with its doors locked, as on a cluster: mutual TLS and tokens.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use imprint_testkit::{
    Authority, Certificate, ChildGuard, Home, TestDb, bin, free_port, output, wait_until,
};

use crate::{ANSWER_WITHIN, STOP_WITHIN, log, write_world};

/// How long services may take to answer after their processes were started.
const START_WITHIN: Duration = Duration::from_secs(120);

/// Postgres, and what it takes to serve behind locked doors.
pub struct Locked {
    // They end in this order.
    pub home: Home,
    pub db: TestDb,
    authority: Authority,
    pub server: Certificate,
    client: Certificate,
    metrics_port: u16,
    orchestrator_port: u16,
    /// What services, and the trainers they start, find in their environment.
    env: Vec<(&'static str, PathBuf)>,
}

impl Locked {
    /// A laboratory without services, with the files of a small synthetic world.
    pub async fn new() -> Self {
        let home = Home::new();
        write_world(home.path());
        let authority = Authority::new(home.path(), "authority");
        Self {
            db: TestDb::start().await,
            server: authority.issue("server"),
            client: authority.issue("client"),
            authority,
            home,
            metrics_port: free_port(),
            orchestrator_port: free_port(),
            env: Vec::new(),
        }
    }

    /// Sets an environment variable of services that start from now on, and of their trainers.
    pub fn set_env(&mut self, name: &'static str, value: PathBuf) {
        self.env.push((name, value));
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// A command of somebody who has a certificate.
    fn imprint(&self) -> Command {
        let mut command = Command::new(bin("imprint"));
        command
            .current_dir(self.home.path())
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .env("DATABASE_URL", &self.db.url)
            .env("IMPRINT_DATA_DIR", self.home.data_dir())
            .env(
                "IMPRINT_METRICS",
                format!("https://127.0.0.1:{}", self.metrics_port),
            )
            .env(
                "IMPRINT_ORCHESTRATOR",
                format!("https://127.0.0.1:{}", self.orchestrator_port),
            )
            .env("IMPRINT_CA", &self.authority.path)
            .env("IMPRINT_CLIENT_CERT", &self.client.path)
            .env("IMPRINT_CLIENT_KEY", &self.client.key);
        command
    }

    /// What the client program answers to whoever has a token, in a file of the home.
    #[track_caller]
    pub fn says(&self, token: Option<&str>, arguments: &[&str]) -> Output {
        let mut command = self.imprint();
        if let Some(name) = token {
            command.env("IMPRINT_TOKEN_FILE", self.path(name));
        }
        output(command.args(arguments), ANSWER_WITHIN)
    }

    /// The same of a command that ends well.
    #[track_caller]
    pub fn prints(&self, token: Option<&str>, arguments: &[&str]) -> String {
        let out = self.says(token, arguments);
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "imprint {arguments:?}: {stderr}");
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// Both services, with a trainer and what else the orchestrator is told; the metrics service is
    /// the second.
    pub async fn serve_all(&self, more: &[&str]) -> [ChildGuard; 2] {
        let trainer = bin("imprint-trainer");
        let trainer = trainer.to_str().expect("a path of text");
        let arguments = [more, &["--trainer", trainer]].concat();
        let orchestrator = self.serve("orchestrator", self.orchestrator_port, &arguments);
        // The key is made by whoever signs with it.
        wait_until(START_WITHIN, "the public key is there", || async {
            self.path("data/token-key.pem.pub").exists()
        })
        .await;
        [orchestrator, self.serve("metrics", self.metrics_port, &[])]
    }

    /// Waits until both services answer to whoever has a token.
    pub async fn answers(&self, token: &str) {
        wait_until(START_WITHIN, "the services answer", || async {
            self.says(Some(token), &["list"]).status.success()
                && self
                    .says(Some(token), &["verify", "none/none"])
                    .status
                    .code()
                    == Some(2)
        })
        .await;
    }

    fn serve(&self, role: &str, port: u16, more: &[&str]) -> ChildGuard {
        let log = log(&self.path(&format!("{role}.log")));
        ChildGuard::spawn_patiently(
            self.imprint()
                .args(["serve", role, "--tokens", "--listen"])
                .arg(format!("127.0.0.1:{port}"))
                .args(more)
                .env("IMPRINT_TLS_CERT", &self.server.path)
                .env("IMPRINT_TLS_KEY", &self.server.key)
                .env("IMPRINT_CLIENT_CA", &self.authority.path)
                .env("RUST_LOG", "trace")
                .stdin(Stdio::null())
                .stdout(log.try_clone().expect("share the log"))
                .stderr(log),
            STOP_WITHIN,
        )
    }
}
