//! A laboratory with its doors locked, as on a cluster: mutual TLS, tokens, and every secret in its
//! file and nowhere else.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use imprint_e2e::locked_lab::Locked;
use imprint_e2e::{ANSWER_WITHIN, STOP_WITHIN, TINY, experiment, training};
use imprint_testkit::{Home, bin, output, wait_until};
use nix::sys::signal::Signal;

const LIMIT: Duration = Duration::from_secs(120);

/// Everything that lies on the disk.
fn files(home: &Home) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    let mut look_in = vec![home.path().to_owned()];
    while let Some(dir) = look_in.pop() {
        for entry in fs::read_dir(dir).expect("list a directory") {
            let path = entry.expect("list a directory").path();
            if path.is_dir() {
                look_in.push(path);
            } else {
                let bytes = fs::read(&path).expect("read a file");
                files.push((path, bytes));
            }
        }
    }
    files
}

/// The arguments and the environment of every process, which others on the machine may see.
fn processes(home: &Home) -> Vec<(PathBuf, Vec<u8>)> {
    let pids = home.pids().into_iter();
    pids.flat_map(|pid| ["cmdline", "environ"].map(|what| format!("/proc/{pid}/{what}").into()))
        // It may have ended this very moment.
        .filter_map(|path: PathBuf| fs::read(&path).ok().map(|bytes| (path, bytes)))
        .collect()
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
    let services = lab.serve_all(&["--slots", "1"]).await;

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
    lab.answers("anna.token").await;

    let toml = experiment(
        "locked",
        "scenarios = ['duplication']\nbatch_sizes = [8]",
        TINY,
        &(training(40)
            + "[injection]\nstart = 5\nevery = 10\ncount = 2\nstagger = { groups = 5, every = 2 }\n\
               [saving]\nevery = 20"),
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

    lab.prints(Some("anna.token"), &["submit", "locked.toml"]);
    let mut in_view = Vec::new();
    wait_until(LIMIT, "a trainer runs", || {
        in_view = processes(&lab.home);
        let runs = in_view.iter().any(|(_, bytes)| contains(bytes, "--run-id"));
        async move { runs }
    })
    .await;
    lab.prints(Some("anna.token"), &["submit", "locked.toml", "--wait"]);
    let run = "locked/scratch-duplication-b8-s0";
    let verified = lab.prints(Some("ben.token"), &["verify", run]);
    let row = verified.lines().find(|line| line.starts_with(run));
    let row: Vec<&str> = row.unwrap_or_default().split_whitespace().collect();
    // Expected, stored, missing, damaged, superseded; the same of the updates.
    let readings = ["41", "41", "none", "none", "0"];
    let whole = [&readings[..], &["40", "40", "none", "clean"]].concat();
    assert!(row.ends_with(&whole), "{verified}");
    lab.prints(None, &["token", "revoke", "ben"]);
    let refused = lab.says(Some("ben.token"), &["verify", run]);
    let stderr = String::from_utf8_lossy(&refused.stderr);
    assert!(stderr.contains("revoked"), "{stderr}");

    for mut service in services {
        service.signal(Signal::SIGTERM);
        assert!(
            service.wait(STOP_WITHIN).is_some(),
            "a service does not end"
        );
    }
    let places = [
        "data/runs/1/token",
        "data/token-key.pem",
        "anna.token",
        "ben.token",
    ];
    let places = places.map(|name| lab.path(name));
    let [run_token, key, anna, ben] = places.each_ref().map(|path| secret(path));
    let key_line = key.lines().nth(1).expect("a key has a line");
    // The last two are in any signed token, attempts' too, and in what any user sends.
    let secrets = [
        &run_token,
        key_line,
        &anna,
        &ben,
        &shown,
        "imprint-run.",
        "Bearer imprint",
    ];
    let files = files(&lab.home);
    let is_log = |path: &Path| path.extension().is_some_and(|e| e == "log");
    let logs = files.iter().filter(|(path, _)| is_log(path));
    assert!(logs.clone().count() >= 3, "a log of each program");
    for (path, log) in logs {
        let says_something = contains(log, "TRACE") || contains(log, "INFO");
        assert!(says_something, "{} says nothing", path.display());
    }
    let elsewhere = files.iter().filter(|(path, _)| !places.contains(path));
    for (path, bytes) in elsewhere.chain(&in_view) {
        for secret in secrets {
            assert!(
                !contains(bytes, secret),
                "a secret is in {}",
                path.display()
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_service_listens_beyond_this_machine_unlocked() {
    let lab = Locked::new().await;
    let unlocked = |arguments: &[&str]| {
        let serve = ["serve", "metrics", "--listen", "0.0.0.0:0"];
        let out = lab.says(None, &[&serve, arguments].concat());
        (
            out.status.code(),
            String::from_utf8_lossy(&out.stderr).into_owned(),
        )
    };
    // The key that tokens are checked with comes from the orchestrator.
    let (code, stderr) = unlocked(&[]);
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.contains("token-key.pem.pub"), "{stderr}");
    let mut command = Command::new(bin("imprint"));
    command
        .env("DATABASE_URL", &lab.db.url)
        .env("IMPRINT_DATA_DIR", lab.home.data_dir())
        .env("IMPRINT_TRAINER", "/bin/true")
        .args(["serve", "orchestrator", "--listen", "0.0.0.0:0"]);
    let orchestrator = output(&mut command, ANSWER_WITHIN);
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
