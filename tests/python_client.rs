//! Clients in Python: one that knows nothing of imprint and learns the protocol by reflection, and the
//! package `imprint_client`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use imprint_e2e::{Lab, TINY, User, experiment, log, succeeds, training, write_world};
use imprint_testkit::{Authority, ChildGuard, Home, TestDb, bin, free_port, output, wait_until};

const LIMIT: Duration = Duration::from_secs(240);

/// Where the package and its tests are.
const PACKAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../python");

/// A Python with what the tests need, made once below the target directory and again when that
/// changes.
fn python() -> Command {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let venv = dir.join("python-client");
    let program = venv.join("bin/python");
    let requirements = Path::new(PACKAGE).join("requirements.txt");
    let wanted = fs::read(&requirements).expect("read the requirements");
    let ready = venv.join("ready");
    // Tests are processes of their own, and the first makes it for all.
    let lock = File::create(dir.join("python-client.lock")).expect("make a lock");
    lock.lock().expect("wait for the lock");
    if fs::read(&ready).ok().as_ref() != Some(&wanted) {
        succeeds(
            Command::new("python3")
                .args(["-m", "venv", "--clear"])
                .arg(&venv),
        );
        succeeds(
            Command::new(&program)
                .args(["-m", "pip", "install", "--quiet"])
                .args(["--disable-pip-version-check", "--requirement"])
                .arg(&requirements),
        );
        fs::write(&ready, &wanted).expect("mark the environment ready");
    }
    let mut command = Command::new(program);
    command
        .env("PYTHONPATH", PACKAGE)
        .env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// The tests of a file or directory of the package.
fn pytest(tests: &str) -> Command {
    let mut command = python();
    command
        .args(["-m", "pytest", "-q", "-p", "no:cacheprovider", tests])
        .current_dir(PACKAGE);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_knows_nothing_submits_and_watches_by_reflection() {
    let mut python = python();
    let lab = Lab::start().await;
    let file = lab.dir().join("third-party.toml");
    let toml = experiment(
        "third-party",
        "scenarios = ['once']\nbatch_sizes = [4, 2]",
        TINY,
        "[training]\nsteps = 12\nlearning_rate = { kind = 'constant', peak = 1e-3 }\n\
         [injection]\nstart = 1\nevery = 5\ncount = 1\nstagger = { groups = 10, every = 1 }",
    );
    fs::write(&file, toml).expect("write the experiment");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/third_party_client.py");
    let (address, base) = (lab.orchestrator_address(), lab.dir().display().to_string());
    let out = succeeds(python.arg(script).arg(address).arg(file).arg(base));
    let said: serde_json::Value = serde_json::from_str(&out).expect("one JSON object");
    let services: Vec<&str> = said["services"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|s| s.as_str())
        .collect();
    assert!(
        services.contains(&"imprint.v1.Orchestrator"),
        "{services:?}"
    );
    assert!(services.contains(&"grpc.health.v1.Health"), "{services:?}");
    assert_eq!(
        said["states"],
        serde_json::json!({
            "third-party/scratch-once-b2-s0": "RUN_STATE_COMPLETE",
            "third-party/scratch-once-b4-s0": "RUN_STATE_COMPLETE",
        })
    );
    assert_eq!(said["new"].as_array().map(Vec::len), Some(2));
}

#[test]
fn the_package_installs_and_its_types_and_stubs_hold() {
    let home = Home::new();
    let target = home.path().join("site-packages");
    succeeds(
        python()
            .args(["-m", "pip", "install", "--quiet", "--no-deps"])
            .args(["--disable-pip-version-check", "--no-build-isolation"])
            .arg("--target")
            .arg(&target)
            .arg(PACKAGE),
    );
    assert!(target.join("imprint_client/py.typed").exists());
    let said = succeeds(
        python()
            .env("PYTHONPATH", &target)
            .current_dir(home.path())
            .args(["-c", "import imprint_client as i; print(i.__file__)"]),
    );
    assert_eq!(
        PathBuf::from(said.trim()),
        target.join("imprint_client/__init__.py")
    );
    let cache = home.path().join("mypy");
    succeeds(
        python()
            .current_dir(PACKAGE)
            .args(["-m", "mypy", "--cache-dir"])
            .arg(cache),
    );
    succeeds(&mut pytest("tests"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_package_works_with_what_imprint_up_serves() {
    let user = User::new();
    let mut tests = pytest("tests/laboratory.py");
    let _up = user.up(&["--tokens", "--slots", "2"]).await;
    let data_dir = user.dir().join("data");
    succeeds(
        tests
            .env("IMPRINT_DATA_DIR", &data_dir)
            .env("IMPRINT_WORLD", user.dir()),
    );
    let imprint = bin("imprint");
    let programs = imprint.parent().expect("a program is in a directory");
    let path = std::env::var("PATH").expect("there is a PATH");
    let said = succeeds(
        python()
            .arg(Path::new(PACKAGE).join("examples/first_experiment.py"))
            .current_dir(user.dir())
            .env("PATH", format!("{}:{path}", programs.display()))
            .env("IMPRINT_DATA_DIR", &data_dir)
            .env("IMPRINT_WORLD", user.dir()),
    );
    assert!(said.contains("held_out"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_and_a_followed_log_go_on_when_the_orchestrator_was_away() {
    const WATCH: &str = "import imprint_client\n\
        for seen in imprint_client.connect().watch('away'):\n    \
        print(*[run.state for run in seen.runs], flush=True)";
    const LOG: &str = "import imprint_client\n\
        for text in imprint_client.connect().log('away/scratch-none-b4-s0', follow=True):\n    \
        print(text, end='', flush=True)";
    let mut lab = Lab::start().await;
    let head = "scenarios = ['none']\nbatch_sizes = [4]";
    let toml = experiment("away", head, TINY, &training(100));
    // The run cannot end before its readings are delivered, however late those who watch it start.
    lab.kill_metrics();
    lab.submit(&toml).await.expect("submit");
    let run_id = lab.run_id("away/scratch-none-b4-s0").await;
    let spawn = |mut program: Command, name: &str| {
        let url = format!("http://{}", lab.orchestrator_address());
        ChildGuard::spawn(
            program
                .env("IMPRINT_ORCHESTRATOR", url)
                .stdin(Stdio::null())
                .stdout(log(&lab.dir().join(name)))
                .stderr(log(&lab.dir().join(format!("{name}.err")))),
        )
    };
    let script = |script: &str| {
        let mut python = python();
        python.args(["-c", script]);
        python
    };
    let mut by_program = lab.imprint();
    by_program.args(["logs", "away/scratch-none-b4-s0", "--follow"]);
    let mut all = [
        ("watch", spawn(script(WATCH), "watch")),
        ("log", spawn(script(LOG), "log")),
        ("logs", spawn(by_program, "logs")),
    ];
    let dir = lab.dir().to_owned();
    let said = |name: &str| fs::read_to_string(dir.join(name)).unwrap_or_default();
    wait_until(LIMIT, "the run is seen running", || async {
        said("watch").contains("running") && !said("log").is_empty() && !said("logs").is_empty()
    })
    .await;
    lab.kill_orchestrator();
    wait_until(LIMIT, "its trainer says so", || async {
        lab.trainer_log(run_id).contains("cannot send heartbeats")
    })
    .await;
    lab.start_orchestrator().await;
    lab.start_metrics().await;
    for (name, program) in &mut all {
        let ended = program.wait(LIMIT);
        let why = said(&format!("{name}.err"));
        assert!(
            ended.is_some_and(|status| status.success()),
            "{name}: {why}"
        );
    }
    assert_eq!(said("watch").lines().last(), Some("complete"));
    let whole = lab.trainer_log(run_id);
    assert_eq!(said("log"), whole);
    assert_eq!(said("logs"), whole);
}

/// With a certificate and a token it may do what the token says; without either, nothing.
const BEHIND_LOCKS: &str = "
import os, sys
from imprint_client import NotPermitted, Unreachable, connect

def refusal(call):
    try:
        return 'none: %s' % call()
    except NotPermitted as refused:
        return refused.reason
    except Unreachable:
        return 'unreachable'

with connect(token_file='anna.token') as anna:
    assert list(anna.experiments()) == []
with connect(token_file='ben.token') as ben:
    assert list(ben.experiments()) == []
    assert refusal(lambda: ben.cancel('mine')) == 'SCOPE_MISSING'
with connect() as nobody:
    assert refusal(lambda: list(nobody.experiments())) == 'TOKEN_MISSING'
with connect(token_file='anna.token', ca='other.pem') as elsewhere:
    assert refusal(lambda: list(elsewhere.experiments())) == 'unreachable'
del os.environ['IMPRINT_CLIENT_CERT'], os.environ['IMPRINT_CLIENT_KEY']
with connect(token_file='anna.token') as bare:
    assert refusal(lambda: list(bare.experiments())) == 'unreachable'
";

#[tokio::test(flavor = "multi_thread")]
async fn the_package_passes_locked_doors_with_certificate_and_token_only() {
    let mut python = python();
    let home = Home::new();
    write_world(home.path());
    let db = TestDb::start().await;
    let authority = Authority::new(home.path(), "authority");
    let _other = Authority::new(home.path(), "other");
    let (server, client) = (authority.issue("server"), authority.issue("client"));
    let port = free_port();
    let somebody = |command: &mut Command| {
        command
            .current_dir(home.path())
            .env("DATABASE_URL", &db.url)
            .env("IMPRINT_DATA_DIR", home.data_dir())
            .env("IMPRINT_ORCHESTRATOR", format!("https://localhost:{port}"))
            .env("IMPRINT_CA", &authority.path)
            .env("IMPRINT_CLIENT_CERT", &client.path)
            .env("IMPRINT_CLIENT_KEY", &client.key);
    };
    let imprint = |arguments: &[&str]| {
        let mut command = Command::new(bin("imprint"));
        somebody(&mut command);
        command.args(arguments);
        command
    };
    let said = log(&home.path().join("orchestrator.log"));
    let _orchestrator = ChildGuard::spawn(
        imprint(&["serve", "orchestrator", "--tokens", "--slots", "0"])
            .arg("--listen")
            .arg(format!("127.0.0.1:{port}"))
            .arg("--trainer")
            .arg(bin("imprint-trainer"))
            .env("IMPRINT_TLS_CERT", &server.path)
            .env("IMPRINT_TLS_KEY", &server.key)
            .env("IMPRINT_CLIENT_CA", &authority.path)
            .stdin(Stdio::null())
            .stdout(said.try_clone().expect("share the log"))
            .stderr(said),
    );
    let token = |arguments: &[&str]| imprint(&[&["token", "create"], arguments].concat());
    wait_until(LIMIT, "there are tokens", || async {
        let made = output(&mut token(&["anna", "--out", "anna.token"]), LIMIT);
        made.status.success()
    })
    .await;
    succeeds(&mut token(&[
        "ben",
        "--scope",
        "read",
        "--out",
        "ben.token",
    ]));
    wait_until(LIMIT, "the orchestrator answers", || async {
        let listed = output(&mut imprint(&["list", "--token-file", "anna.token"]), LIMIT);
        listed.status.success()
    })
    .await;
    somebody(&mut python);
    succeeds(python.args(["-c", BEHIND_LOCKS]));
}
