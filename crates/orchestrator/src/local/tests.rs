use std::os::unix::fs::PermissionsExt as _;

use tempfile::TempDir;

use super::*;

const DEADLINE: Duration = Duration::from_secs(20);

/// A directory, and an executor whose trainer is this shell script.
fn executor(script: &str) -> (TempDir, Local) {
    let dir = tempfile::tempdir().unwrap();
    let trainer = dir.path().join("trainer");
    fs::write(&trainer, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&trainer, fs::Permissions::from_mode(0o755)).unwrap();
    let local = Local::new(unlocked(trainer), dir.path().join("runs"));
    (dir, local)
}

fn unlocked(program: PathBuf) -> Trainer {
    Trainer {
        program,
        environment: Vec::new(),
        orchestrator_url: "http://127.0.0.1:1".to_owned(),
        certificates: TrainerCertificates::default(),
        signer: None,
        token_lasts: Duration::from_secs(60),
    }
}

#[test]
fn a_trainer_finds_its_token_in_a_file_and_nowhere_else() {
    let dir = tempfile::tempdir().unwrap();
    let signer = GrantSigner::of_file(&dir.path().join("key")).unwrap();
    let trainer = Trainer {
        certificates: TrainerCertificates {
            ca: Some("ca.pem".into()),
            identity: Some(("client.pem".into(), "client.key".into())),
        },
        signer: Some(Arc::new(signer)),
        ..unlocked("trainer".into())
    };
    let command = trainer.command(5, dir.path()).unwrap();
    let token = imprint_proto::Secret::read(&dir.path().join("token")).unwrap();
    let mode = fs::metadata(dir.path().join("token"))
        .unwrap()
        .permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
    let shown: Vec<_> = command.get_args().map(|a| a.to_str().unwrap()).collect();
    let path = dir.path().join("token");
    assert_eq!(
        shown,
        [
            "run",
            "--run-id",
            "5",
            "--orchestrator",
            "http://127.0.0.1:1",
            "--ca",
            "ca.pem",
            "--client-cert",
            "client.pem",
            "--client-key",
            "client.key",
            "--token-file",
            path.to_str().unwrap(),
        ]
    );
    assert!(!format!("{command:?}").contains(token.expose()));
    let mut environment = command.get_envs();
    assert!(environment.all(|(_, value)| value.is_none()), "{command:?}");
}

/// The line that says why, whatever a log looks like.
#[test]
fn the_reason_of_an_end_is_the_last_line_of_the_log() {
    for (script, want) in [
        ("echo first; echo; echo last >&2; exit 1", "last"),
        (
            r#"echo '{"level":"ERROR","message":"last \"word\""}'; exit 1"#,
            "last \"word\"",
        ),
        (r#"echo '{"odd": 1}'; exit 1"#, r#"{"odd": 1}"#),
    ] {
        let (_dir, mut local) = executor(script);
        local.start(1);
        let exit = wait_for_exit(&mut local, 1);
        assert_eq!(exit, format!("ended with exit code 1: {want}"));
    }
}

#[test]
fn trainers_are_told_what_the_orchestrator_is_told() {
    let (dir, mut local) = executor("echo $IMPRINT_LOG_FORMAT; exit 1");
    local.trainer.environment = vec![("IMPRINT_LOG_FORMAT", "json".to_owned())];
    local.start(1);
    assert!(wait_for_exit(&mut local, 1).ends_with(": json"));
    drop(dir);
}

#[track_caller]
fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(
            Instant::now() < deadline,
            "nothing happened in {DEADLINE:?}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[track_caller]
fn wait_for_exit(local: &mut Local, run_id: i32) -> String {
    wait_for(|| {
        local.observe();
        local.processes()[&run_id].exit.clone()
    })
}

/// Waits until the script says that it is ready.
#[track_caller]
fn wait_for_ready(dir: &TempDir, run_id: i32) {
    let log = dir.path().join(format!("runs/{run_id}/logs/trainer-1.log"));
    wait_for(|| {
        fs::read_to_string(&log)
            .ok()
            .filter(|text| text.contains("ready"))
    });
}

#[test]
fn a_trainer_gets_its_run_and_its_log() {
    let (dir, mut local) = executor("echo \"$@\"; echo out of luck >&2; exit 7");
    local.start(12);
    let exit = wait_for_exit(&mut local, 12);
    assert_eq!(exit, "ended with exit code 7: out of luck");
    let logs = dir.path().join("runs/12/logs");
    let log = fs::read_to_string(logs.join("trainer-1.log")).unwrap();
    assert_eq!(
        log,
        "run --run-id 12 --orchestrator http://127.0.0.1:1\nout of luck\n"
    );
    local.forget(12);
    assert!(local.processes().is_empty());
    local.start(12);
    wait_for_exit(&mut local, 12);
    assert!(
        logs.join("trainer-2.log").exists(),
        "every process has a log of its own"
    );
}

#[test]
fn a_trainer_that_is_not_there_counts_as_ended() {
    let (dir, mut local) = executor("");
    fs::remove_file(dir.path().join("trainer")).unwrap();
    local.start(1);
    let exit = wait_for_exit(&mut local, 1);
    assert!(exit.starts_with("could not be started: "), "{exit}");
    assert!(exit.contains("trainer: No such file"), "{exit}");
}

#[test]
fn stopping_asks_and_killing_does_not() {
    let patient = "trap 'echo saved; exit 0' TERM; echo ready; while :; do sleep 0.01; done";
    let (dir, mut local) = executor(patient);
    local.start(1);
    wait_for_ready(&dir, 1);
    local.stop(1);
    assert_eq!(
        wait_for_exit(&mut local, 1),
        "ended with exit code 0: saved"
    );

    let (dir, mut local) = executor("trap '' TERM; echo ready; while :; do sleep 0.01; done");
    local.start(1);
    wait_for_ready(&dir, 1);
    local.stop(1);
    assert!(local.processes()[&1].stopping_for.is_some());
    local.kill(1);
    assert_eq!(wait_for_exit(&mut local, 1), "was ended by SIGKILL: ready");
}

#[test]
fn a_trainer_of_an_earlier_orchestrator_is_observed_and_stopped() {
    let (dir, mut earlier) = executor("echo ready; while :; do sleep 0.01; done");
    earlier.start(5);
    wait_for_ready(&dir, 5);
    let pid = earlier.processes()[&5].pid;

    let trainer = dir.path().join("trainer");
    let mut local = Local::new(unlocked(trainer), dir.path().join("runs"));
    local.adopt(5, pid);
    assert_eq!(local.processes()[&5].exit, None);
    local.adopt(6, pid);
    assert_eq!(
        local.processes()[&6].exit.as_deref(),
        Some("is gone"),
        "the process is not the trainer of run 6"
    );
    local.stop(5);
    wait_for_exit(&mut earlier, 5);
    assert_eq!(wait_for_exit(&mut local, 5), "is gone: ready");
}

#[tokio::test]
async fn shutting_down_leaves_no_process() {
    let (dir, mut local) = executor("trap '' TERM; echo ready; while :; do sleep 0.01; done");
    local.start(1);
    wait_for_ready(&dir, 1);
    let pid = local.processes()[&1].pid;
    local.shut_down(Duration::from_millis(50)).await;
    assert!(!is_trainer_of(pid, 1));
}
