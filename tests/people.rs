//! What somebody sees and says at a terminal while runs wait, run and end.

use std::time::Duration;

use imprint_e2e::{Lab, THRICE, TINY, experiment, training};
use imprint_testkit::wait_until;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(120);

fn run(seed: u32) -> String {
    format!("mine/scratch-paraphrase-b8-s{seed}")
}

#[track_caller]
fn prints(lab: &Lab, arguments: &[&str]) -> String {
    let out = lab.says(arguments);
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{arguments:?}: {stderr}");
    String::from_utf8(out.stdout).expect("text")
}

#[track_caller]
fn json(lab: &Lab, arguments: &[&str]) -> Value {
    let arguments = [arguments, &["--output", "json"]].concat();
    serde_json::from_str(&prints(lab, &arguments)).expect("JSON")
}

#[track_caller]
fn fails(lab: &Lab, arguments: &[&str], code: i32, want: &str) {
    let out = lab.says(arguments);
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(code), "{arguments:?}: {stderr}");
    assert!(stderr.contains(want), "{arguments:?}: {stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_are_watched_and_steered_from_a_terminal() {
    let lab = Lab::start_with_slots(1).await;
    let head = "scenarios = ['paraphrase']\nbatch_sizes = [8]\nseeds = [0, 1, 2]";
    let toml = experiment("mine", head, TINY, &(training(300) + THRICE));
    lab.submit(&toml).await.expect("submit");
    let [first, second, third] = [0, 1, 2].map(run);

    wait_until(LIMIT, "the first runs", || async {
        json(&lab, &["status", "mine"])[0]["state"] == "running"
    })
    .await;

    // Of those that wait the third is to be next, and the second not at all.
    let said = prints(&lab, &["priority", &third, "5"]);
    assert_eq!(said, format!("{third}  priority 5\n"));
    wait_until(LIMIT, "the second says why it waits", || async {
        prints(&lab, &["status", "mine", "--state", "queued"]).contains("waits for a free slot")
    })
    .await;
    let rows = json(&lab, &["status", "mine"]);
    assert_eq!(rows[2]["priority"], 5);
    fails(
        &lab,
        &["logs", &second],
        2,
        "has no log here: queued, waits for",
    );
    assert_eq!(
        prints(&lab, &["cancel", &second]),
        format!("{second}  cancelled\n")
    );
    assert_eq!(prints(&lab, &["cancel", &second]), "nothing to cancel\n");
    let listed = prints(&lab, &["list"]);
    assert!(
        listed.contains("mine") && listed.contains("1 cancelled"),
        "{listed}"
    );

    fails(&lab, &["status", "mien"], 2, "did you mean `mine`?");
    let wrong = format!("{first}9");
    let near = format!("there is no run `{wrong}`; did you mean `{first}`");
    fails(&lab, &["status", &wrong], 2, &near);
    fails(&lab, &["retry", &wrong], 2, "did you mean");

    // It ends with the run.
    let log = prints(&lab, &["logs", &first, "--follow"]);
    assert!(!log.is_empty());
    assert_eq!(prints(&lab, &["logs", &first]), log);
    assert_eq!(prints(&lab, &["logs", &first, "--attempt", "1"]), log);
    let last_line = log.lines().last().expect("a line");
    assert_eq!(
        prints(&lab, &["logs", &first, "-n", "1"]),
        format!("{last_line}\n")
    );
    fails(
        &lab,
        &["logs", &first, "--attempt", "2"],
        2,
        "there is no attempt 2",
    );

    let told = format!("1 of 3 runs did not complete; {second} cancelled");
    fails(&lab, &["watch", "mine"], 1, &told);
    assert_eq!(
        prints(&lab, &["retry", "mine", "--failed"]),
        "no run has failed\n"
    );
    assert_eq!(
        prints(&lab, &["retry", "mine"]),
        format!("{second}  queued\n")
    );
    prints(&lab, &["watch", "mine"]);
    let order: Vec<String> = sqlx::query_scalar(
        "select r.label from imprint.attempt a join imprint.run r using (run_id) order by a.began_at",
    )
    .fetch_all(lab.db.store.pool())
    .await
    .expect("list the attempts");
    assert_eq!(order, [first, third, second.clone()]);

    let page = prints(&lab, &["status", &second]);
    for want in [
        "complete",
        "300 of 300 updates",
        "301 of 301 stored",
        "finished",
        "job-1.log",
    ] {
        assert!(page.contains(want), "{want}: {page}");
    }
    let page = json(&lab, &["status", &second]);
    let kinds: Vec<&str> = (page["events"].as_array().into_iter().flatten())
        .filter_map(|event| event["kind"].as_str())
        .collect();
    assert_eq!(
        kinds[..3],
        ["queued", "cancelled", "cancel_requested"],
        "{kinds:?}"
    );
    assert!(kinds.contains(&"complete"), "{kinds:?}");
    assert_eq!(json(&lab, &["list", "--open"]), Value::Array(Vec::new()));
}
