//! Trainers that read copies on their node: the same numbers, and each file is copied once.

use std::path::{Path, PathBuf};
use std::time::Duration;

use imprint_e2e::{Lab, SMALL, StoredReading, THRICE, experiment, training, write_world};
use imprint_testkit::{TestDb, bin, wait_until};

const LIMIT: Duration = Duration::from_secs(240);

/// A file that changed this recently is not copied.
const SETTLED: Duration = Duration::from_secs(2);

const N_UPDATES: usize = 30;

/// What four runs read, two from a checkpoint directory and two from their parent's state, and what
/// their trainers said.
struct Outcome {
    readings: Vec<Vec<(i32, Vec<u32>)>>,
    logs: Vec<String>,
    /// The state that all start from.
    state: PathBuf,
    corpus: PathBuf,
    tokenizer: PathBuf,
}

async fn outcome(stage: &str) -> Outcome {
    let mut lab = Lab::new(TestDb::start().await, bin("imprint-trainer"));
    write_world(lab.dir());
    let dir = lab.dir().display().to_string();
    let site = "[executor.here]\nkind = 'local'\nslots = 2\n".to_owned();
    lab.set_site(&(site + &stage.replace("DIR", &dir)));
    lab.start_metrics().await;
    lab.start_orchestrator().await;
    let rows = |n_updates| training(n_updates) + "micro_batch_rows = 3\n";
    let head = |scenario: &str, seeds: &str| {
        format!("scenarios = ['{scenario}']\nbatch_sizes = [8]\nseeds = {seeds}")
    };
    let pretrain = experiment("pre", &head("none", "[0]"), SMALL, &rows(5));
    lab.submit(&pretrain).await.expect("submit the parent");
    lab.all_complete("pre", LIMIT).await;

    let state = state_path(&lab, lab.run_id("pre/scratch-none-b8-s0").await).await;
    let state = state.canonicalize().expect("find the state");
    let (corpus, tokenizer) = (
        lab.dir().join("corpus.u16"),
        lab.dir().join("tokenizer.json"),
    );
    for path in [&corpus, &tokenizer, &state.join("state.json")] {
        wait_until(LIMIT, "the files are old enough", || async {
            age(path) > SETTLED
        })
        .await;
    }
    let checkpoints = format!(
        "name = 'directory'\npath = '{}'\n\
         [[checkpoint]]\nname = 'parent'\nrun = 'pre/scratch-none-b8-s0'\nstep = 5\n",
        state.display()
    );
    let main = experiment(
        "main",
        &head("once", "[0, 1]"),
        &checkpoints,
        &(rows(N_UPDATES) + THRICE),
    );
    lab.submit(&main).await.expect("submit the runs");
    lab.all_complete("main", LIMIT).await;

    let (mut readings, mut logs) = (Vec::new(), Vec::new());
    for from in ["directory", "parent"] {
        for seed in [0, 1] {
            let run_id = lab.run_id(&format!("main/{from}-once-b8-s{seed}")).await;
            let of_run = lab.readings(run_id).await;
            assert_eq!(of_run.len(), N_UPDATES + 1);
            readings.push(of_run.iter().map(StoredReading::bits).collect());
            logs.push(lab.trainer_log(run_id));
        }
    }
    Outcome {
        readings,
        logs,
        state,
        corpus: corpus.canonicalize().expect("find the corpus"),
        tokenizer: tokenizer.canonicalize().expect("find the tokenizer"),
    }
}

async fn state_path(lab: &Lab, run_id: i32) -> PathBuf {
    let sql = "select path from imprint.saved_state where run_id = $1 and step = 5 and keep";
    let path: String = sqlx::query_scalar(sql)
        .bind(run_id)
        .fetch_one(&lab.pool().await)
        .await
        .expect("find the state");
    path.into()
}

fn age(path: &Path) -> Duration {
    let modified = path.metadata().and_then(|m| m.modified());
    let modified = modified.expect("look at a file");
    modified.elapsed().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_change_no_number_and_are_made_once() {
    let plain = outcome("").await;
    let staged = outcome("stage_dir = 'DIR/node'\nstage_gib = 0.5\n").await;
    assert!(
        plain.readings == staged.readings,
        "a copy changes what is read"
    );
    let said = staged.logs.concat();
    let state = format!("4 files of {}", staged.state.display());
    let [corpus, tokenizer] = [&staged.corpus, &staged.tokenizer].map(|p| p.display().to_string());
    for what in [&state, &corpus, &tokenizer] {
        let n = said.matches(&format!("copied {what} (")).count();
        // The parent's trainer may have copied it before.
        assert!(
            n == 1 || (n == 0 && *what != state),
            "{n} of {what}\n{said}"
        );
    }
    for log in &staged.logs {
        assert_eq!(log.matches(" is read from ").count(), 3, "{log}");
        assert!(!log.contains("is read where it is"), "{log}");
    }
    assert!(!plain.logs.concat().contains("is read from"));
}
