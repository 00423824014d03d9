//! A run out of its own record: its file gives the same run, and doing it again the same bits.

use std::time::Duration;

use imprint_e2e::{Lab, StoredReading, THRICE, TINY, experiment, succeeds, training};
use imprint_testkit::{TestDb, bin};

const LIMIT: Duration = Duration::from_secs(240);

#[tokio::test(flavor = "multi_thread")]
async fn a_run_comes_again_bit_by_bit() {
    let lab = Lab::start().await;
    let pre = experiment(
        "pre",
        "scenarios = ['none']\nbatch_sizes = [4]",
        TINY,
        &(training(20) + "[saving]\nkeep = [10]"),
    );
    let shown = experiment(
        "shown",
        "scenarios = ['once']\nbatch_sizes = [4]\nseeds = [3, 4]",
        "name = 'taught'\nrun = 'pre/scratch-none-b4-s0'\nstep = 10",
        &(training(60) + THRICE),
    );
    lab.complete("pre", &pre, LIMIT).await;
    lab.complete("shown", &shown, LIMIT).await;
    let run = "shown/taught-once-b4-s3";

    // What ran is recorded, down to its bits.
    let (revision, binary, record): (String, String, serde_json::Value) = sqlx::query_as(
        "select revision, binary_sha256, record from imprint.run_record where run = $1",
    )
    .bind(run)
    .fetch_one(&lab.pool().await)
    .await
    .expect("a record");
    let hashed = succeeds(std::process::Command::new("sha256sum").arg(bin("imprint-trainer")));
    assert_eq!(hashed.split_whitespace().next(), Some(binary.as_str()));
    assert_eq!(binary.len(), 64);
    assert!(!revision.is_empty());
    assert_eq!(record["program"], "imprint-trainer");

    // The file is this run, and its parent by content.
    let said = |arguments: &[&str]| {
        let out = lab.says(arguments);
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        (out.status.code(), text(&out.stdout), text(&out.stderr))
    };
    let (code, file, told) = said(&["reproduce", run]);
    assert_eq!((code, told.as_str()), (Some(0), ""), "{file}");
    for words in [
        "# shown/taught-once-b4-s3, complete\n",
        "# starts from: pre/scratch-none-b4-s0",
        &format!("#   binary_sha256: {binary}\n"),
        "# attempt 1: finished, steps 0–60, ",
    ] {
        assert!(file.contains(words), "`{words}` is not in: {file}");
    }
    std::fs::write(lab.dir().join("again.toml"), &file).expect("write the file");
    let (code, _, told) = said(&["submit", "again.toml"]);
    assert_eq!(code, Some(0), "{told}");
    assert_eq!(told, "nothing new: the run is there (1 complete)\n");
    let hash: String = sqlx::query_scalar("select hash from imprint.run_record where run = $1")
        .bind(run)
        .fetch_one(&lab.pool().await)
        .await
        .expect("a hash");
    assert!(file.contains(&format!("# hash: {hash}\n")), "{file}");

    // In another database, which is empty, the files alone give the same runs and the same bits.
    let mut other = Lab::new(TestDb::start_durable().await, bin("imprint-trainer"));
    other.start_metrics().await;
    other.start_orchestrator().await;
    let (_, parent, _) = said(&["reproduce", "pre/scratch-none-b4-s0"]);
    std::fs::write(other.dir().join("child.toml"), &file).expect("write the file");
    std::fs::write(other.dir().join("parent.toml"), parent).expect("write the parent's");
    let early = other.says(&["submit", "child.toml"]);
    assert_eq!(early.status.code(), Some(2), "its parent is not there");
    for file in ["parent.toml", "child.toml"] {
        let out = other.says(&["submit", file, "--wait"]);
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{file}: {stderr}");
    }
    for label in ["pre/scratch-none-b4-s0", run] {
        let sql = "select hash from imprint.run_record where run = $1";
        let hash: String = sqlx::query_scalar(sql)
            .bind(label)
            .fetch_one(&lab.pool().await)
            .await
            .expect("a hash");
        let (there, again): (i32, String) = sqlx::query_as(
            "select run_id, e.label from imprint.run join imprint.experiment_run e using (run_id)
             where hash = $1",
        )
        .bind(&hash)
        .fetch_one(&other.pool().await)
        .await
        .expect("a run of the same hash");
        let (_, cell) = label.split_once('/').expect("a label");
        assert_eq!(again, format!("again-{}/{cell}", &hash[..12]));
        let bits = async |lab: &Lab, run_id| {
            let readings = lab.readings(run_id).await;
            readings.iter().map(StoredReading::bits).collect::<Vec<_>>()
        };
        let here = bits(&lab, lab.run_id(label).await).await;
        assert!(here.len() > 20, "{label}");
        assert_eq!(bits(&other, there).await, here, "{label}");
    }
    drop(other);

    // Once more, twice: each is another run that measures the same.
    let experiment = format!("again-{}", &hash[..12]);
    for repeat in ["repeat1", "repeat2"] {
        let (code, told, stderr) = said(&["reproduce", run, "--submit"]);
        let again = format!("{experiment}/taught-once-b4-s3-{repeat}");
        assert_eq!(code, Some(0), "{told}\n{stderr}");
        assert!(told.contains(&again), "{told}");
        lab.all_complete(&experiment, LIMIT).await;
        let (code, told, stderr) = said(&["verify", run, "--against", &again]);
        assert_eq!(code, Some(0), "{told}\n{stderr}");
        assert!(
            told.starts_with("equal, bit by bit: all 61 readings of "),
            "{told}"
        );
    }
    // A parent's repeat is one, too, and a model from scratch has its seed.
    let (code, told, stderr) = said(&[
        "reproduce",
        "pre/scratch-none-b4-s0",
        "--submit",
        "--name",
        "pre2",
    ]);
    assert_eq!(code, Some(0), "{told}\n{stderr}");
    lab.all_complete("pre2", LIMIT).await;
    let (code, told, _) = said(&[
        "verify",
        "pre/scratch-none-b4-s0",
        "--against",
        "pre2/scratch-none-b4-s0-repeat1",
    ]);
    assert_eq!(code, Some(0), "{told}");

    // Another seed is another run.
    let (code, told, stderr) = said(&["verify", run, "--against", "shown/taught-once-b4-s4"]);
    assert_eq!(code, Some(1), "{told}");
    assert!(stderr.contains("the largest difference is "), "{stderr}");

    // Other files are not taken for those that were read.
    let facts = lab.dir().join("facts.json");
    let mut changed = std::fs::read_to_string(&facts).expect("read the facts");
    changed.push('\n');
    std::fs::write(&facts, changed).expect("change the facts");
    let (code, _, stderr) = said(&["reproduce", run, "--submit"]);
    assert_eq!(code, Some(2), "{stderr}");
    let now = succeeds(std::process::Command::new("sha256sum").arg(&facts));
    let now = now.split_whitespace().next().expect("a hash");
    let then: String = sqlx::query_scalar(
        "select spec #>> '{identity,facts_sha256}' from imprint.run_record where run = $1",
    )
    .bind(run)
    .fetch_one(&lab.pool().await)
    .await
    .expect("a hash");
    for words in ["`data.facts`", now, &then] {
        assert!(stderr.contains(words), "`{words}` is not in: {stderr}");
    }
    let (code, _, stderr) = said(&["reproduce", "shown/nothing"]);
    assert_eq!(code, Some(2), "{stderr}");
    assert!(
        stderr.contains("there is no run `shown/nothing`"),
        "{stderr}"
    );
}
