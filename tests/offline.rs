//! A trainer that never reaches the services: what it read is imported later, bit for bit.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use imprint_e2e::{Lab, SMALL, THRICE, experiment, training};
use imprint_testkit::{ChildGuard, bin, output};
use nix::sys::signal::Signal;

const LIMIT: Duration = Duration::from_secs(240);
const N_UPDATES: usize = 200;
const RUN: &str = "offline/scratch-paraphrase-b8-s0";

fn toml(name: &str) -> String {
    experiment(
        name,
        "scenarios = ['paraphrase']\nbatch_sizes = [8]",
        SMALL,
        &(training(N_UPDATES) + THRICE + "[saving]\nevery = 20"),
    )
}

fn lines(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Runs the client and returns what it said.
fn imprint(lab: &Lab, arguments: &[&str]) -> Result<String, String> {
    let output = lab.says(arguments);
    match output.status.success() {
        true => Ok(lines(&output)),
        false => Err(lines(&output)),
    }
}

fn trainer(ticket: &Path) -> Command {
    let mut command = Command::new(bin("imprint-trainer"));
    command
        .args(["run", "--ticket"])
        .arg(ticket)
        .stdin(Stdio::null())
        .env_remove("IMPRINT_ORCHESTRATOR");
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offline_run_is_imported_bit_for_bit() {
    let mut lab = Lab::start_with_slots(0).await;
    lab.submit(&toml("offline")).await.expect("submit");
    let run_id = lab.run_id(RUN).await;
    let take = |name: &str| {
        let ticket = lab.dir().join(name);
        let path = ticket.to_str().expect("a path of text");
        imprint(&lab, &["take", RUN, "--hours", "1", "--ticket", path]).map(|_| ticket)
    };
    let ticket = take("first").expect("take the run");
    let refused = take("second").expect_err("it is taken already");
    assert!(refused.contains("is running: attempt 1"), "{refused}");
    assert!(!lab.dir().join("second").exists());

    // The first trainer is killed half-way, with nobody there to hear of anything it did.
    lab.kill_metrics();
    lab.kill_orchestrator();
    let attempts = lab.dir().join(format!("data/runs/{run_id}/attempts"));
    let killed = ChildGuard::spawn(&mut trainer(&ticket));
    let saved = attempts.join("1/states/step-60");
    imprint_testkit::wait_until(LIMIT, "a state is saved", || async { saved.is_dir() }).await;
    let spool = attempts.join("1");
    let spool = spool.to_str().expect("a path of text");
    let in_use = imprint(&lab, &["import", spool]).expect_err("the trainer still writes");
    assert!(in_use.contains("a trainer still writes"), "{in_use}");
    killed.signal(Signal::SIGKILL);
    drop(killed);
    let absent = imprint(&lab, &["import", spool]).expect_err("no service is there");
    assert!(absent.contains("no metrics service answers"), "{absent}");

    lab.start_metrics().await;
    lab.start_orchestrator().await;
    let imported = imprint(&lab, &["import", spool]).expect("import the first spool");
    let what = format!("run {run_id}, attempt 1: ");
    assert!(imported.starts_with(&what), "{imported}");
    assert!(lab.n_stored(run_id).await.expect("stored") >= 60);

    // The second goes on from its last state, to the end.
    let take = |name: &str| {
        let ticket = lab.dir().join(name);
        let path = ticket.to_str().expect("a path of text");
        imprint(&lab, &["take", RUN, "--hours", "1", "--ticket", path]).map(|_| ticket)
    };
    let ticket = take("third").expect("take the run again");
    lab.kill_metrics();
    lab.kill_orchestrator();
    let output = output(&mut trainer(&ticket), LIMIT);
    assert!(output.status.success(), "{}", lines(&output));
    let n_states = std::fs::read_dir(attempts.join("2/states")).expect("list the states");
    assert_eq!(n_states.count(), 2, "the last two");
    lab.start_metrics().await;
    lab.start_orchestrator().await;
    let spool = attempts.join("2/spool");
    let spool = spool.to_str().expect("a path of text");
    imprint(&lab, &["import", spool]).expect("import the second spool");
    lab.all_complete("offline", LIMIT).await;
    imprint(&lab, &["import", spool]).expect_err("the run has ended");
    imprint(&lab, &["verify", "offline"]).expect("nothing is missing");
    let readings = lab.readings(run_id).await;
    let recorded = "select count(*) from imprint.run_record
                    where run_id = $1 and length(binary_sha256) = 64
                      and record ->> 'program' = 'imprint-trainer'";
    let recorded = sqlx::query_scalar(recorded).bind(run_id);
    let recorded: i64 = recorded.fetch_one(&lab.pool().await).await.expect("count");
    assert_eq!(recorded, 2, "both say what they were made with");

    // A run that nothing happened to.
    let undisturbed = Lab::start().await;
    undisturbed
        .complete("offline", &toml("offline"), LIMIT)
        .await;
    let want = undisturbed.readings(undisturbed.run_id(RUN).await).await;
    assert_eq!(readings.len(), N_UPDATES + 1);
    for (got, want) in readings.iter().zip(&want) {
        assert!(got.bits() == want.bits(), "reading {} differs", got.reading);
    }
    assert!(readings.is_sorted_by_key(|r| r.attempt));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_taken_offline_can_be_cancelled() {
    let lab = Lab::start_with_slots(0).await;
    lab.submit(&toml("offline")).await.expect("submit");
    let ticket = lab.dir().join("ticket");
    let path = ticket.to_str().expect("a path of text");
    imprint(&lab, &["take", RUN, "--hours", "1", "--ticket", path]).expect("take the run");
    imprint(&lab, &["cancel", "offline"]).expect("cancel the run");
    let runs = lab.wait("offline", Duration::from_secs(30)).await;
    assert_eq!(runs[0].state(), imprint_proto::pb::RunState::Cancelled);
    let output = output(&mut trainer(&ticket), LIMIT);
    assert!(
        output.status.success(),
        "it cannot know: {}",
        lines(&output)
    );
    let run_id = lab.run_id(RUN).await;
    let spool = lab.dir().join(format!("data/runs/{run_id}/attempts/1"));
    let spool = spool.to_str().expect("a path of text");
    let refused = imprint(&lab, &["import", spool]).expect_err("nobody wants it any more");
    let why = format!("attempt 1 of run {run_id} is not its current one");
    assert!(refused.contains(&why), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spool_is_imported_when_its_time_is_over_too() {
    let lab = Lab::start_with_slots(0).await;
    lab.submit(&toml("offline")).await.expect("submit");
    let run_id = lab.run_id(RUN).await;
    let ticket = lab.dir().join("ticket");
    let path = ticket.to_str().expect("a path of text");
    imprint(&lab, &["take", RUN, "--hours", "1", "--ticket", path]).expect("take the run");
    let other = lab.dir().join("other");
    let other = other.to_str().expect("a path of text");
    let again = ["take", RUN, "--hours", "1", "--ticket", other, "--force"];
    let refused = imprint(&lab, &again).expect_err("its time is not over");
    assert!(
        refused.contains("is taken offline by attempt 1"),
        "{refused}"
    );
    let output = output(&mut trainer(&ticket), LIMIT);
    assert!(output.status.success(), "{}", lines(&output));

    let pool = lab.pool().await;
    let over = "update imprint.attempt set lease_until = now() where run_id = $1";
    sqlx::query(over)
        .bind(run_id)
        .execute(&pool)
        .await
        .expect("let its time be over");
    imprint_testkit::wait_until(LIMIT, "the orchestrator says so", || async {
        let reason: String = sqlx::query_scalar("select reason from imprint.run where run_id = $1")
            .bind(run_id)
            .fetch_one(&pool)
            .await
            .expect("read why it waits");
        reason.starts_with("its time offline is over, import its spool")
    })
    .await;
    let spool = lab
        .dir()
        .join(format!("data/runs/{run_id}/attempts/1/spool"));
    let spool = spool.to_str().expect("a path of text");
    imprint(&lab, &["import", spool]).expect("import the spool");
    lab.all_complete("offline", LIMIT).await;
    assert_eq!(lab.n_attempts(run_id).await, 1);
}
