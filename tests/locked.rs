//! A laboratory with its doors locked, as on a cluster: mutual TLS, tokens, and every secret in its
//! file and nowhere else.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use imprint_e2e::experiment;
use imprint_testkit::{Authority, Certificate, ChildGuard, TestDb, bin, free_port, wait_until};
use imprint_world::{World, WorldConfig};
use nix::sys::signal::Signal;

const LIMIT: Duration = Duration::from_secs(120);

struct Locked {
    db: TestDb,
    dir: tempfile::TempDir,
    authority: Authority,
    server: Certificate,
    client: Certificate,
    metrics_port: u16,
    orchestrator_port: u16,
}

impl Locked {
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("make a directory");
        World::generate(WorldConfig::ci())
            .and_then(|world| world.write(dir.path()))
            .expect("write a world");
        let authority = Authority::new(dir.path(), "authority");
        Self {
            db: TestDb::start().await,
            server: authority.issue("server"),
            client: authority.issue("client"),
            authority,
            dir,
            metrics_port: free_port(),
            orchestrator_port: free_port(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A command of somebody who has a certificate.
    fn imprint(&self) -> Command {
        let mut command = Command::new(bin("imprint"));
        command
            .current_dir(self.dir.path())
            .env("DATABASE_URL", &self.db.url)
            .env("IMPRINT_DATA_DIR", self.path("data"))
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

    fn says(&self, token: Option<&str>, arguments: &[&str]) -> Output {
        let mut command = self.imprint();
        if let Some(name) = token {
            command.env("IMPRINT_TOKEN_FILE", self.path(name));
        }
        command.args(arguments).output().expect("run imprint")
    }

    #[track_caller]
    fn prints(&self, token: Option<&str>, arguments: &[&str]) -> String {
        let out = self.says(token, arguments);
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "imprint {arguments:?}: {stderr}");
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    fn serve(&self, role: &str, port: u16, more: &[&str]) -> ChildGuard {
        let log = fs::File::create(self.path(&format!("{role}.log"))).expect("open a log");
        ChildGuard::spawn(
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
        )
    }

    /// Everything that any process has said.
    fn logs(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut logs = Vec::new();
        let mut look_in = vec![self.dir.path().to_owned()];
        while let Some(dir) = look_in.pop() {
            for entry in fs::read_dir(dir).expect("list a directory") {
                let path = entry.expect("list a directory").path();
                if path.is_dir() {
                    look_in.push(path);
                } else if path.extension().is_some_and(|e| e == "log") {
                    logs.push((path.clone(), fs::read(&path).expect("read a log")));
                }
            }
        }
        logs
    }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|w| w == text.as_bytes())
}

fn secret(path: &Path) -> String {
    let mode = fs::metadata(path)
        .expect("the secret is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600, "{}", path.display());
    fs::read_to_string(path)
        .expect("read a secret")
        .trim()
        .to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_behind_locked_doors_leaves_no_secret_anywhere() {
    let lab = Locked::new().await;
    let trainer = bin("imprint-trainer");
    let orchestrator = lab.serve(
        "orchestrator",
        lab.orchestrator_port,
        &[
            "--slots",
            "1",
            "--trainer",
            trainer.to_str().expect("a path of text"),
        ],
    );
    // The key is made by whoever signs with it.
    wait_until(LIMIT, "the public key is there", || async {
        lab.path("data/token-key.pem.pub").exists()
    })
    .await;
    let metrics = lab.serve("metrics", lab.metrics_port, &[]);

    lab.prints(None, &["token", "create", "anna", "--out", "anna.token"]);
    lab.prints(
        None,
        &[
            "token",
            "create",
            "ben",
            "--scope",
            "read",
            "--out",
            "ben.token",
        ],
    );
    let shown = lab
        .prints(None, &["token", "create", "eve"])
        .trim()
        .to_owned();
    let listed = lab.prints(None, &["token", "list"]);
    assert!(
        listed.contains("anna") && listed.contains("read,submit"),
        "{listed}"
    );
    assert!(!listed.contains(&shown), "{listed}");
    wait_until(LIMIT, "the services answer", || async {
        lab.says(Some("anna.token"), &["list"]).status.success()
            && lab
                .says(Some("anna.token"), &["verify", "none/none"])
                .status
                .code()
                == Some(2)
    })
    .await;

    let toml = experiment(
        "locked",
        "scenarios = ['duplication']\nbatch_sizes = [8]",
        "name = 'scratch'\ninit = { hidden_size = 16, intermediate_size = 32, \
         num_hidden_layers = 1, num_attention_heads = 2 }",
        "[training]\nsteps = 40\nlearning_rate = { kind = 'constant', peak = 5e-3, \
         warmup_steps = 5 }\n[injection]\nstart = 5\nevery = 10\ncount = 2\nstagger = { groups = 5, every = 2 }\n\
         [saving]\nevery = 20",
    );
    fs::write(lab.path("locked.toml"), toml).expect("write an experiment");
    for (token, said) in [
        (None, "asks for a token"),
        (Some("ben.token"), "lacks the scope `submit`"),
    ] {
        let refused = lab.says(token, &["submit", "locked.toml"]);
        let stderr = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(said), "{stderr}");
    }
    fs::set_permissions(lab.path("ben.token"), fs::Permissions::from_mode(0o644)).expect("chmod");
    let refused = lab.says(Some("ben.token"), &["list"]);
    let stderr = String::from_utf8_lossy(&refused.stderr);
    assert!(stderr.contains("chmod 600"), "{stderr}");
    fs::set_permissions(lab.path("ben.token"), fs::Permissions::from_mode(0o600)).expect("chmod");

    lab.prints(Some("anna.token"), &["submit", "locked.toml", "--wait"]);
    let run = "locked/scratch-duplication-b8-s0";
    let verified = lab.prints(Some("ben.token"), &["verify", run]);
    assert!(verified.contains("41"), "{verified}");
    lab.prints(None, &["token", "revoke", "ben"]);
    let refused = lab.says(Some("ben.token"), &["verify", run]);
    let stderr = String::from_utf8_lossy(&refused.stderr);
    assert!(stderr.contains("revoked"), "{stderr}");

    orchestrator.signal(Signal::SIGTERM);
    metrics.signal(Signal::SIGTERM);
    let run_token = secret(&lab.path("data/runs/1/token"));
    let key = secret(&lab.path("data/token-key.pem"));
    let key_line = key.lines().nth(1).expect("a key has a line").to_owned();
    let anna = secret(&lab.path("anna.token"));
    let logs = lab.logs();
    assert!(logs.len() >= 3, "a log of each program");
    for (path, log) in &logs {
        let has = |text: &str| contains(log, text);
        assert!(
            contains(log, "TRACE") || contains(log, "INFO"),
            "{} says nothing",
            path.display()
        );
        for token in [&run_token, &key_line, &anna, &shown] {
            assert!(!has(token), "a secret is in {}", path.display());
        }
        // Any signed token, attempts' too, and any user's.
        assert!(!has("imprint-run."), "a token is in {}", path.display());
        assert!(!has("Bearer imprint"), "a token is in {}", path.display());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_service_listens_beyond_this_machine_unlocked() {
    let lab = Locked::new().await;
    let unlocked = |arguments: &[&str]| {
        let out = lab
            .imprint()
            .args(["serve", "metrics", "--listen", "0.0.0.0:0"])
            .args(arguments)
            .output()
            .expect("run imprint");
        (
            out.status.code(),
            String::from_utf8_lossy(&out.stderr).into_owned(),
        )
    };
    // The key that tokens are checked with comes from the orchestrator.
    let (code, stderr) = unlocked(&[]);
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.contains("token-key.pem.pub"), "{stderr}");
    let orchestrator = Command::new(bin("imprint"))
        .env("DATABASE_URL", &lab.db.url)
        .env("IMPRINT_DATA_DIR", lab.path("data"))
        .env("IMPRINT_TRAINER", "/bin/true")
        .args(["serve", "orchestrator", "--listen", "0.0.0.0:0"])
        .output()
        .expect("run imprint");
    let stderr = String::from_utf8_lossy(&orchestrator.stderr);
    assert_eq!(orchestrator.status.code(), Some(2), "{stderr}");
    assert!(
        stderr.contains("without TLS")
            && stderr.contains("--tls-cert")
            && stderr.contains("--insecure"),
        "{stderr}"
    );
    let (code, stderr) = unlocked(&[]);
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.contains("without TLS"), "{stderr}");

    fs::set_permissions(&lab.server.key, fs::Permissions::from_mode(0o640)).expect("chmod");
    let certificate = lab.server.path.to_str().expect("a path of text");
    let key = lab.server.key.to_str().expect("a path of text");
    let (code, stderr) = unlocked(&["--tls-cert", certificate, "--tls-key", key]);
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.contains("chmod 600"), "{stderr}");
}
