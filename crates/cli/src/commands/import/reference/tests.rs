use std::fs;

use imprint_store::results;
use imprint_store::runs::{RunState, Runs};
use imprint_store::verify::verify;
use imprint_testkit::TestDb;
use imprint_world::{World, WorldConfig, WorldFiles};
use tempfile::TempDir;

use super::*;
use crate::export;
use crate::reference_log::{Layout, LogWriter};

/// As Python's `json.dump` writes the numbers that the reference has.
const BY_PYTHON: &str = include_str!("../../../reference_log/fixtures/by_python.json");

fn options(name: &str) -> Options {
    Options {
        name: Some(name.to_owned()),
        facts: None,
        tokenizer: None,
        scenario: "none".to_owned(),
        batch_size: 2048,
        seq_len: 2048,
        seed: 0,
        nan: Nan::Refuse,
    }
}

async fn import(db: &TestDb, log: &Path, options: Options) -> Result<String, Failure> {
    let scan = reference_log::scan(log, NanRule::Refuse)?;
    let import = plan(log, &scan, &options)?;
    store(&db.store, log, NanRule::Refuse, &import, &scan).await
}

async fn exported(db: &TestDb, label: &str, to: &Path) -> Vec<u8> {
    let (experiment, _) = label.split_once('/').unwrap();
    let runs = results::runs(&db.store, experiment).await.unwrap();
    let run = runs.iter().find(|r| r.label == label).unwrap();
    export::reference_log(&db.store, run, to).await.unwrap();
    fs::read(to).unwrap()
}

/// All that was stored of a run.
async fn stored(db: &TestDb, label: &str) -> Vec<(i32, i32, i32, Vec<f32>, Vec<f32>, Vec<f32>)> {
    sqlx::query_as(
        "select s.reading, s.step, s.attempt, first_sum_nats, target_sum_nats, full_sum_nats
         from imprint.step_reading s join imprint.run r using (run_id)
         where r.label = $1 order by s.reading",
    )
    .bind(label)
    .fetch_all(db.store.pool())
    .await
    .unwrap()
}

/// What retrying an experiment queues again.
async fn retry(db: &TestDb, experiment: &str) -> Result<Option<Vec<String>>, imprint_store::Error> {
    let label = None;
    let runs = Runs { experiment, label };
    let ended = [RunState::Failed, RunState::Cancelled];
    db.store.retry(runs, &ended).await
}

#[tokio::test]
async fn a_log_comes_out_byte_for_byte_as_it_went_in() {
    let db = TestDb::start().await;
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("step 40000.json");
    fs::write(&log, BY_PYTHON).unwrap();
    let label = "theirs/step_40000-none-b2048-s0";
    let said = import(&db, &log, options("theirs")).await.unwrap();
    assert_eq!(said, format!("{label}: 3 readings of 17 probes, complete"));
    let again = import(&db, &log, options("theirs")).await.unwrap();
    assert_eq!(again, format!("{label}: here already, whole"));

    let out = exported(&db, label, &dir.path().join("out.json")).await;
    assert_eq!(String::from_utf8(out).unwrap(), BY_PYTHON);

    let runs = results::runs(&db.store, "theirs").await.unwrap();
    assert_eq!((runs.len(), runs[0].state), (1, RunState::Complete));
    assert_eq!(runs[0].n_readings, 3);
    assert_eq!(runs[0].first_global_step, Some(40_000));
    let verified = verify(&db.store, label).await.unwrap();
    assert!(verified.is_clean(), "{verified:?}");
    assert_eq!(
        (verified.readings_stored, verified.updates_expected),
        (3, 0)
    );
    assert_eq!(retry(&db, "theirs").await.unwrap(), Some(Vec::new()));
    assert_eq!(
        db.store.known_run(label).await.unwrap(),
        None,
        "nothing starts from it"
    );
    let summary: (String, i32, bool) = sqlx::query_as(
        "select s.scenario, s.readings_stored, r.spec ? 'imported'
         from imprint.run_summary s join imprint.run r using (run_id)",
    )
    .fetch_one(db.store.pool())
    .await
    .unwrap();
    assert_eq!(summary, ("none".to_owned(), 3, true));
}

/// A world's facts and tokenizer, and a log of all its probes.
struct OfWorld {
    dir: TempDir,
    files: WorldFiles,
}

impl OfWorld {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = WorldConfig {
            n_tokens: 2_000,
            ..WorldConfig::ci()
        };
        let files = World::generate(config).unwrap().write(dir.path()).unwrap();
        Self { dir, files }
    }

    fn options(&self, name: &str) -> Options {
        Options {
            facts: Some(self.files.facts.clone()),
            tokenizer: Some(self.files.tokenizer.clone()),
            scenario: "once".to_owned(),
            ..options(name)
        }
    }

    /// A log of readings at the steps; values of every float32 digit.
    fn log(&self, name: &str, steps: &[u64]) -> PathBuf {
        let facts = load_facts(&self.files.facts).unwrap();
        let probes: Vec<Option<LoggedProbe>> = (0..)
            .zip(&facts)
            .flat_map(|(id, fact)| {
                fact.probes.iter().map(move |p| {
                    Some(LoggedProbe {
                        fact: FactId(id),
                        depth: p.depth,
                        ordinal: p.ordinal,
                    })
                })
            })
            .collect();
        let layout = Layout::of_probes(facts.len(), &probes);
        let mut log = LogWriter::new(Vec::new(), layout, vec![[1, 1]; probes.len()]);
        let mut noise: u32 = 1;
        for &step in steps {
            let mut sums = || {
                let sum = |_| {
                    noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    -(noise as f32 / 3e8)
                };
                (0..probes.len()).map(sum).collect::<Vec<f32>>()
            };
            let reading = StepReadings {
                first_sum_nats: sums(),
                target_sum_nats: sums(),
                full_sum_nats: sums(),
                ..StepReadings::default()
            };
            log.write(step, &reading).unwrap();
        }
        let path = self.dir.path().join(name);
        fs::write(&path, log.finish().unwrap()).unwrap();
        path
    }
}

#[tokio::test]
async fn with_token_counts_a_run_comes_back_to_the_bit() {
    let db = TestDb::start().await;
    let world = OfWorld::new();
    let log = world.log("a.json", &(0..20).collect::<Vec<u64>>());
    import(&db, &log, world.options("one")).await.unwrap();
    let first = stored(&db, "one/a-once-b2048-s0").await;
    assert_eq!(first.len(), 20);

    let out = world.dir.path().join("a-again.json");
    let bytes = exported(&db, "one/a-once-b2048-s0", &out).await;
    import(&db, &out, world.options("two")).await.unwrap();
    let second = stored(&db, "two/a-again-once-b2048-s0").await;
    assert!(first == second, "every sum as it was");
    let third = world.dir.path().join("third.json");
    assert!(bytes == exported(&db, "two/a-again-once-b2048-s0", &third).await);

    // The probes are those of the facts file, with their texts and more than one token.
    let probes: (i64, i64, i64) = sqlx::query_as(
        "select count(*), count(*) filter (where prompt <> ''),
             count(*) filter (where n_full_tokens > n_target_tokens)
         from imprint.probe",
    )
    .fetch_one(db.store.pool())
    .await
    .unwrap();
    assert_eq!((probes.0, probes.0), (probes.1, probes.2));
    let sets: i64 = sqlx::query_scalar("select count(*) from imprint.probe_set")
        .fetch_one(db.store.pool())
        .await
        .unwrap();
    assert_eq!(sets, 1, "both runs share them");
    let shown = results::injections(&db.store, 1).await.unwrap();
    assert_eq!((shown.len(), shown[0].step), (20, 0));
}

#[tokio::test]
async fn an_interrupted_import_goes_on() {
    let db = TestDb::start().await;
    let world = OfWorld::new();
    let log = world.log("log.json", &(100..140).collect::<Vec<u64>>());
    let scan = reference_log::scan(&log, NanRule::Refuse).unwrap();
    let import = plan(&log, &scan, &world.options("half")).unwrap();
    let BegunImport::Begun {
        run_id, attempt, ..
    } = db.store.begin_import(&import).await.unwrap()
    else {
        panic!("nothing is there")
    };
    let (mut writer, _) = Writer::open(&db.store, run_id, attempt, 0, "machine")
        .await
        .unwrap();
    let n_tokens = vec![[1, 1]; scan.layout.probes().len()];
    let mut first = Vec::new();
    reference_log::records(&log, NanRule::Refuse, |record| {
        if first.len() < 5 {
            let index = first.len() as u32;
            first.push(Message::Reading(reading(
                record, index, 100, attempt, &n_tokens,
            )));
        }
        Ok(())
    })
    .unwrap();
    writer.append(&first).await.unwrap();

    // Half of a run is not taken for a whole one, and nothing restarts it.
    let state = results::runs(&db.store, "half").await.unwrap()[0].state;
    assert_eq!(state, RunState::Failed);
    assert_eq!(retry(&db, "half").await.unwrap(), Some(Vec::new()));
    assert!(db.store.finish_import(run_id).await.is_err());

    let said = store(&db.store, &log, NanRule::Refuse, &import, &scan)
        .await
        .unwrap();
    assert!(said.contains("40 readings"), "{said}");
    let label = "half/log-once-b2048-s0";
    assert_eq!(stored(&db, label).await.len(), 40);
    assert!(verify(&db.store, label).await.unwrap().is_clean());
    let attempts: Vec<(i32, Option<String>)> =
        sqlx::query_as("select attempt, outcome from imprint.attempt")
            .fetch_all(db.store.pool())
            .await
            .unwrap();
    assert_eq!(attempts, [(1, Some("finished".to_owned()))]);
}

#[tokio::test]
async fn what_does_not_fit_is_refused_before_anything_is_stored() {
    let db = TestDb::start().await;
    let world = OfWorld::new();
    let log = world.log("log.json", &[0, 1, 2]);
    let facts = world.files.facts.display().to_string();
    for (options, want) in [
        (
            Options {
                scenario: "paper".to_owned(),
                ..world.options("x")
            },
            "--scenario paper: scenario `paper` needs the 130-item layout",
        ),
        (
            Options {
                scenario: "duplication".to_owned(),
                ..world.options("x")
            },
            "scenario `duplication` injects until step 900, and the log ends 2 steps after",
        ),
        (
            Options {
                scenario: "once".to_owned(),
                ..options("x")
            },
            "--scenario once: needs --facts",
        ),
        (
            Options {
                scenario: "mine".to_owned(),
                ..world.options("x")
            },
            "--scenario mine: it is not a built-in scenario",
        ),
        (world.options("a/b"), "--name `a/b`: use letters"),
        (
            Options {
                seq_len: 0,
                ..world.options("x")
            },
            "--seq-len: 1 at least",
        ),
    ] {
        let refused = import(&db, &log, options).await.unwrap_err().to_string();
        assert!(refused.contains(want), "{refused}");
    }
    let other = world.dir.path().join("other.json");
    fs::write(&other, BY_PYTHON).unwrap();
    let refused = import(&db, &other, world.options("x")).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        format!("{facts}: 28 facts, but the log has 3")
    );
    let n: i64 = sqlx::query_scalar("select count(*) from imprint.run")
        .fetch_one(db.store.pool())
        .await
        .unwrap();
    assert_eq!(n, 0);

    // A name belongs to one log.
    import(&db, &log, world.options("x")).await.unwrap();
    let same_name = world.dir.path().join("sub");
    fs::create_dir(&same_name).unwrap();
    let same_name = same_name.join("log.json");
    fs::copy(world.log("log2.json", &[0, 1, 3]), &same_name).unwrap();
    let refused = import(&db, &same_name, world.options("x"))
        .await
        .unwrap_err();
    assert!(
        refused.to_string().contains("is there already"),
        "{refused}"
    );
}
