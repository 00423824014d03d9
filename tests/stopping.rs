//! By its exit code a trainer tells a batch system whether it is to be started again.

use std::process::{Command, Stdio};
use std::time::Duration;

use imprint_e2e::{Lab, THRICE, TINY, experiment, log, training};
use imprint_testkit::{ChildGuard, bin, wait_until};
use nix::sys::signal::Signal;

const LIMIT: Duration = Duration::from_secs(120);
const AGAIN: i32 = 85;

fn toml(name: &str, n_updates: usize) -> String {
    let head = "scenarios = ['paraphrase']\nbatch_sizes = [8]";
    experiment(name, head, TINY, &(training(n_updates) + THRICE))
}

/// A trainer that nobody but this test starts and stops.
fn trainer(lab: &Lab, run_id: i32) -> ChildGuard {
    ChildGuard::spawn(&mut command(lab, run_id))
}

fn command(lab: &Lab, run_id: i32) -> Command {
    let mut command = Command::new(bin("imprint-trainer"));
    command
        .args(["run", "--run-id", &run_id.to_string()])
        .arg(format!(
            "--orchestrator=http://{}",
            lab.orchestrator_address()
        ))
        .arg(format!("--stopped-exit-code={AGAIN}"))
        .stdin(Stdio::null());
    command
}

fn exit_code(mut trainer: ChildGuard) -> i32 {
    let status = trainer.wait(LIMIT).expect("the trainer ends");
    status.code().expect("it ends by itself")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trainer_asks_to_be_started_again_only_after_the_signals_of_a_batch_system() {
    let lab = Lab::start_with_slots(0).await;
    lab.submit(&toml("long", 2000)).await.expect("submit");
    let run_id = lab.run_id("long/scratch-paraphrase-b8-s0").await;
    let mut n_stored = 0;
    for (signal, want) in [
        (Signal::SIGTERM, AGAIN),
        (Signal::SIGUSR1, AGAIN),
        (Signal::SIGINT, 0),
    ] {
        let trainer = trainer(&lab, run_id);
        lab.stored_at_least(run_id, n_stored + 1).await;
        trainer.signal(signal);
        assert_eq!(exit_code(trainer), want, "{signal}");
        n_stored = lab.n_stored(run_id).await.expect("readings are stored");
    }

    // Cancelled, it is asked by the orchestrator.
    let trainer = trainer(&lab, run_id);
    lab.stored_at_least(run_id, n_stored + 1).await;
    let cancelled = lab.says(&["cancel", "long"]);
    assert!(cancelled.status.success(), "{cancelled:?}");
    assert_eq!(exit_code(trainer), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trainer_waits_for_an_orchestrator_that_is_away() {
    let mut lab = Lab::start_with_slots(0).await;
    lab.submit(&toml("short", 70)).await.expect("submit");
    let run_id = lab.run_id("short/scratch-paraphrase-b8-s0").await;
    lab.kill_orchestrator();
    let said = lab.dir().join("trainer.log");
    let waiting = || async {
        let _ = std::fs::remove_file(&said);
        let trainer = ChildGuard::spawn(command(&lab, run_id).stderr(log(&said)));
        let waits = format!(
            "cannot begin an attempt at http://{}",
            lab.orchestrator_address()
        );
        wait_until(LIMIT, "the trainer says that it waits", || async {
            std::fs::read_to_string(&said).is_ok_and(|said| said.contains(&waits))
        })
        .await;
        trainer
    };
    // A batch system may start it again meanwhile; a person ends it.
    for (signal, want) in [
        (Signal::SIGTERM, AGAIN),
        (Signal::SIGUSR1, AGAIN),
        (Signal::SIGINT, 0),
    ] {
        let trainer = waiting().await;
        trainer.signal(signal);
        assert_eq!(exit_code(trainer), want, "{signal}");
    }
    let trainer = waiting().await;
    lab.start_orchestrator().await;
    assert_eq!(exit_code(trainer), 0);
    lab.all_complete("short", LIMIT).await;
    assert_eq!(lab.n_attempts(run_id).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trainer_that_has_done_all_is_not_started_again() {
    let lab = Lab::start_with_slots(0).await;
    lab.submit(&toml("short", 70)).await.expect("submit");
    let run_id = lab.run_id("short/scratch-paraphrase-b8-s0").await;
    assert_eq!(exit_code(trainer(&lab, run_id)), 0);
    lab.all_complete("short", LIMIT).await;
}
