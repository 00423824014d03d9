//! Kills whatever can be killed in the middle of a run, and compares every bit with a run that
//! nothing happened to.

use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use imprint_e2e::{Lab, SMALL, StoredReading, THRICE, experiment, training};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

const LIMIT: Duration = Duration::from_secs(240);
const N_UPDATES: usize = 400;
const RUN: &str = "resume/scratch-paraphrase-b8-s0";

fn resume_experiment() -> String {
    experiment(
        "resume",
        "scenarios = ['paraphrase']\nbatch_sizes = [8]",
        SMALL,
        &(training(N_UPDATES) + THRICE + "[saving]\nevery = 25\n[probing]\nswap = true"),
    )
}

async fn undisturbed() -> Vec<StoredReading> {
    let lab = Lab::start().await;
    lab.complete("resume", &resume_experiment(), LIMIT).await;
    lab.readings(lab.run_id(RUN).await).await
}

/// No gap, no duplicate, no mixing, and the bits of an undisturbed run.
fn assert_same(disturbed: &[StoredReading], undisturbed: &[StoredReading]) {
    assert_eq!(disturbed.len(), N_UPDATES + 1);
    for (i, (got, want)) in disturbed.iter().zip(undisturbed).enumerate() {
        assert_eq!((got.reading, got.step), (i as i32, i as i32));
        assert!(
            got.bits() == want.bits(),
            "reading {i} differs (attempt {})",
            got.attempt
        );
    }
    assert!(
        disturbed.is_sorted_by_key(|r| r.attempt),
        "attempts are mixed on the step axis"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_services_trainers_and_databases_leave_no_trace() {
    let want = undisturbed().await;
    assert_eq!(want.len(), N_UPDATES + 1);

    // The trainer: killed, then asked to stop.
    let lab = Lab::start().await;
    lab.submit(&resume_experiment()).await.expect("submit");
    let run_id = lab.run_id(RUN).await;
    lab.stored_at_least(run_id, 60).await;
    lab.signal_trainer(run_id, Signal::SIGKILL).await;
    let killed_at = lab.n_stored(run_id).await.expect("the database answers");
    lab.stored_at_least(run_id, killed_at.max(120)).await;
    lab.signal_trainer(run_id, Signal::SIGTERM).await;
    lab.all_complete("resume", LIMIT).await;
    assert_same(&lab.readings(run_id).await, &want);
    assert_eq!(lab.n_attempts(run_id).await, 3);
    // What was stored beyond the state that the second attempt resumed from was measured twice.
    let (superseded, resumed_at): (i64, i32) = sqlx::query_as(
        "select (select count(*) from imprint.superseded_reading r
                 where r.run_id = s.run_id and r.superseded_by = s.attempt), first_step
         from imprint.segment s where run_id = $1 and attempt = 2",
    )
    .bind(run_id)
    .fetch_one(&lab.pool().await)
    .await
    .expect("find the second segment");
    assert!(
        resumed_at >= 50,
        "resumed at {resumed_at} though the state at 50 was there"
    );
    assert!(superseded >= i64::from(killed_at - resumed_at));
    drop(lab);

    // The services and the database: the trainer never stops.
    let mut lab = Lab::start().await;
    lab.submit(&resume_experiment()).await.expect("submit");
    let run_id = lab.run_id(RUN).await;
    lab.stored_at_least(run_id, 40).await;
    lab.kill_metrics();
    let acknowledged = lab.n_stored(run_id).await.expect("the database answers");
    lab.start_metrics().await;
    lab.stored_at_least(run_id, acknowledged + 20).await;
    lab.kill_orchestrator();
    lab.start_orchestrator().await;
    lab.db.kill_postmaster();
    lab.db.restart().await;
    lab.all_complete("resume", LIMIT).await;
    assert_same(&lab.readings(run_id).await, &want);
    assert_eq!(
        lab.n_attempts(run_id).await,
        1,
        "the trainer should never have stopped"
    );
}

/// An attempt that never reaches the metrics service leaves its line to the one that resumes from
/// it: what is stored of the line before is superseded from where they part.
#[tokio::test(flavor = "multi_thread")]
async fn lines_of_attempts_never_mix() {
    let mut lab = Lab::start().await;
    lab.submit(&resume_experiment()).await.expect("submit");
    let run_id = lab.run_id(RUN).await;
    lab.stored_at_least(run_id, 60).await;
    lab.kill_metrics();
    lab.signal_trainer(run_id, Signal::SIGKILL).await;
    let stored = lab.n_stored(run_id).await.expect("the database answers");
    saved_by_attempt(&lab, run_id, 2).await;
    lab.signal_trainer(run_id, Signal::SIGKILL).await;
    saved_by_attempt(&lab, run_id, 3).await;
    lab.start_metrics().await;
    lab.all_complete("resume", LIMIT).await;

    let readings = lab.readings(run_id).await;
    assert_eq!(readings.len(), N_UPDATES + 1);
    assert!(
        readings.is_sorted_by_key(|r| r.attempt),
        "attempts are mixed on the step axis"
    );
    let first_of_second = readings
        .iter()
        .find(|r| r.attempt == 2)
        .expect("the second attempt's");
    assert!(
        first_of_second.step < stored,
        "the second attempt went on from a state below {stored}, but its first stored reading is {}",
        first_of_second.step
    );
    assert_eq!(first_of_second.step % 25, 0, "it resumed at a saved state");
}

/// A failed attempt waits with its last words for an absent orchestrator, but a signal ends the wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_signal_is_heard_while_last_words_wait() {
    let mut lab = Lab::start().await;
    lab.submit(&resume_experiment()).await.expect("submit");
    let run_id = lab.run_id(RUN).await;
    lab.stored_at_least(run_id, 10).await;
    let pid = Pid::from_raw(lab.trainer_pid(run_id).await);
    lab.kill_orchestrator();
    let corpus = lab.dir().join("corpus.u16");
    let n_bytes = std::fs::metadata(&corpus).expect("find the corpus").len();
    let file = std::fs::File::options().write(true).open(&corpus);
    file.and_then(|file| file.write_all_at(&vec![0xff; n_bytes as usize], 0))
        .expect("put tokens into the corpus that the vocabulary does not have");
    imprint_testkit::wait_until(LIMIT, "the attempt has failed", || async {
        lab.trainer_log(run_id).contains("65535")
    })
    .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(is_running(pid), "it waits for the orchestrator");
    lab.signal_trainer(run_id, Signal::SIGTERM).await;
    let within = Duration::from_secs(15);
    imprint_testkit::wait_until(within, "the trainer has ended", || async {
        !is_running(pid)
    })
    .await;
}

/// A process that ended but that nobody has waited for does not count.
fn is_running(pid: Pid) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

async fn saved_by_attempt(lab: &Lab, run_id: i32, attempt: i32) {
    let pool = lab.pool().await;
    let what = format!("attempt {attempt} has saved a state");
    imprint_testkit::wait_until(Duration::from_secs(60), &what, || async {
        let sql =
            "select exists (select from imprint.saved_state where run_id = $1 and attempt = $2)";
        sqlx::query_scalar(sql)
            .bind(run_id)
            .bind(attempt)
            .fetch_one(&pool)
            .await
            .expect("look")
    })
    .await;
}
