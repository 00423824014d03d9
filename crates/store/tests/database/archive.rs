use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use imprint_store::archive::{Manifest, Sure, archive, drop_run, restore};
use imprint_store::ingest::Writer;
use imprint_store::{Error, derived};
use imprint_testkit::{SeedRun, TestDb, begin_attempt, complete_run, seed_run};
use sqlx::AssertSqlSafe;

use crate::{measure_all, readings, updates};

/// Every row of every table, as text, which tells every bit.
async fn everything(db: &TestDb) -> BTreeMap<String, Vec<String>> {
    let tables: Vec<String> = sqlx::query_scalar(
        "select oid::regclass::text from pg_class
         where relnamespace = 'imprint'::regnamespace and relkind in ('r', 'p')
             and not relispartition",
    )
    .fetch_all(db.store.pool())
    .await
    .unwrap();
    let mut everything = BTreeMap::new();
    for table in tables {
        let query = format!("select t::text from {table} t order by 1");
        let rows: Vec<String> = sqlx::query_scalar(AssertSqlSafe(query))
            .fetch_all(db.store.pool())
            .await
            .unwrap();
        everything.insert(table, rows);
    }
    everything
}

async fn execute(db: &TestDb, statement: &str) {
    sqlx::raw_sql(AssertSqlSafe(statement))
        .execute(db.store.pool())
        .await
        .unwrap_or_else(|e| panic!("{statement}: {e}"));
}

fn labelled(label: &str) -> SeedRun {
    SeedRun {
        label: label.to_owned(),
        n_updates: 150,
        ..SeedRun::default()
    }
}

/// A run with a resume, superseded rows, a saved state and odd floats, which has ended.
async fn eventful(db: &TestDb, run: &SeedRun) -> i32 {
    let id = unfinished(db, run).await;
    complete_run(&db.store, id).await;
    id
}

/// The same before it is called complete.
async fn unfinished(db: &TestDb, run: &SeedRun) -> i32 {
    let id = seed_run(&db.store, run).await;
    measure_all(&db.store, id, run).await;
    let attempt = begin_attempt(&db.store, id).await;
    let (mut writer, at) = Writer::open(&db.store, id, attempt, 70, "another machine")
        .await
        .unwrap();
    let n_readings = run.reading_steps().len() as u32;
    let mut rest = readings(run, at.next_reading..n_readings, attempt);
    rest.extend(updates(at.next_update..run.n_updates, attempt));
    writer.append(&rest).await.unwrap();
    derived::make_chunks(&db.store, id).await.unwrap();
    execute(
        db,
        &format!(
            "insert into imprint.saved_state
                 (run_id, step, attempt, path, sha256, global_step, keep)
             values ({id}, 150, 2, '/data/ö \"x\"', 'sum', 1099511627776, true);
             update imprint.run set started_at = 'infinity',
                 settled = '{{\"global_step\": 9007199254740993, \"ok\": [1.50, null]}}'
             where run_id = {id};
             update imprint.update_stats set grad_norm = 'nan', loss_nats = -0.0
             where run_id = {id} and step = 3;
             update imprint.attempt set ended_at = now(), outcome = 'finished'
             where run_id = {id} and attempt = 2"
        ),
    )
    .await;
    id
}

#[tokio::test]
async fn a_run_comes_back_bit_for_bit() {
    let db = TestDb::start().await;
    // Wide enough for several row groups.
    let run = SeedRun {
        n_facts: 30,
        probes_per_fact: 20,
        n_updates: 300,
        ..labelled("test/run")
    };
    let id = eventful(&db, &run).await;
    let other = eventful(&db, &labelled("test/other")).await;
    execute(
        &db,
        &format!(
            "insert into imprint.experiment (name, toml) values ('alone', 'name = \"alone\"');
             insert into imprint.experiment_run (experiment_id, run_id, label, wanted)
             select experiment_id, {id}, 'alone/same', false from imprint.experiment
             where name = 'alone'"
        ),
    )
    .await;
    let before = everything(&db).await;
    let out = tempfile::tempdir().unwrap();
    let dir = out.path().join("archive");
    let manifest = archive(&db.store, id, &dir).await.unwrap();
    assert_eq!(everything(&db).await, before, "archiving changes nothing");
    assert_eq!(Manifest::read(&dir).unwrap(), manifest);
    let n_rows: BTreeMap<&str, u64> = (manifest.tables.iter())
        .map(|t| (t.name.as_str(), t.n_rows))
        .collect();
    assert_eq!(n_rows["step_reading"], 301);
    assert_eq!(n_rows["superseded_reading"], 231);
    assert_eq!(n_rows["segment"], 2);
    assert_eq!(n_rows["experiment"], 2);
    assert_eq!(n_rows["probe"], u64::from(run.n_probes()));

    let dropped = drop_run(&db.store, id, Sure::Archived(&dir), false)
        .await
        .unwrap();
    assert!(dropped.n_rows > 1000);
    let gone = everything(&db).await;
    for (table, rows) in &gone {
        // Those that begin with another number than a run's.
        let others = ["experiment", "experiment_run", "probe_set", "probe"];
        let is_other = others.iter().any(|t| *table == format!("imprint.{t}"));
        assert!(
            is_other || !rows.iter().any(|r| r.starts_with(&format!("({id},"))),
            "{table} still has rows of the run"
        );
    }
    assert_eq!(gone["imprint.experiment_run"].len(), 1);
    assert_eq!(gone["imprint.experiment"].len(), 1, "the other run's");
    assert_eq!(gone["imprint.probe_set"].len(), 1);
    assert!(derived::check(&db.store, other).await.unwrap().is_equal());

    let restored = restore(&db.store, &dir).await.unwrap();
    assert_eq!(restored.run.run_id, id, "its number was free");
    assert_eq!(restored.n_readings, 301);
    let mut after = everything(&db).await;
    // The set and the experiment that went along have new numbers, their rows are the same.
    for (table, renumbered) in [
        ("imprint.probe_set", true),
        ("imprint.probe", true),
        ("imprint.experiment", true),
        ("imprint.experiment_run", true),
        ("imprint.run", true),
    ] {
        let numbers = after
            .insert(table.to_owned(), before[table].clone())
            .unwrap();
        assert_eq!(numbers.len(), before[table].len());
        assert!(renumbered);
    }
    assert_eq!(after, before);
    // And those rows: the same archive fits what is stored now.
    let again = out.path().join("again");
    let second = archive(&db.store, id, &again).await.unwrap();
    for (a, b) in manifest.tables.iter().zip(&second.tables) {
        assert_eq!((&a.name, &a.rows_sha256), (&b.name, &b.rows_sha256));
    }
    assert!(derived::check(&db.store, id).await.unwrap().is_equal());
    drop_run(&db.store, id, Sure::Archived(&dir), false)
        .await
        .unwrap();
}

#[tokio::test]
async fn another_database_gives_it_other_numbers() {
    let (here, there) = tokio::join!(TestDb::start(), TestDb::start());
    let run = labelled("test/run");
    let id = eventful(&here, &run).await;
    // There the number is taken, the experiment is known, and so are the probes.
    let resident = SeedRun {
        label: "test/resident".to_owned(),
        ..run.clone()
    };
    assert_eq!(seed_run(&there.store, &resident).await, id);
    execute(
        &there,
        "update imprint.probe_set set sha256 = 'test/run' where probe_set_id = 1",
    )
    .await;
    let out = tempfile::tempdir().unwrap();
    let dir = out.path().join("archive");
    let manifest = archive(&here.store, id, &dir).await.unwrap();
    let restored = restore(&there.store, &dir).await.unwrap();
    assert_ne!(restored.run.run_id, id);
    assert_eq!(restored.run.label, "test/run");
    let shared: (i64, i64, i64) = sqlx::query_as(
        "select (select count(*) from imprint.experiment), (select count(*) from imprint.probe_set),
             (select count(distinct probe_set_id) from imprint.run)",
    )
    .fetch_one(there.store.pool())
    .await
    .unwrap();
    assert_eq!(shared, (1, 1, 1));
    let back = archive(&there.store, restored.run.run_id, &out.path().join("back"))
        .await
        .unwrap();
    for (a, b) in manifest.tables.iter().zip(&back.tables) {
        // The experiment is the one that was there.
        if a.name != "experiment" {
            assert_eq!((&a.name, &a.rows_sha256), (&b.name, &b.rows_sha256));
        }
    }
    assert!(
        derived::check(&there.store, restored.run.run_id)
            .await
            .unwrap()
            .is_equal()
    );
    // A new run gets a number of its own.
    let next = seed_run(&there.store, &labelled("test/next")).await;
    assert!(next > restored.run.run_id);
}

#[tokio::test]
async fn what_was_changed_since_is_not_taken_for_it() {
    let db = TestDb::start().await;
    let run = labelled("test/run");
    let id = eventful(&db, &run).await;
    let out = tempfile::tempdir().unwrap();
    let dir = out.path().join("archive");
    let manifest = archive(&db.store, id, &dir).await.unwrap();
    let before = everything(&db).await;
    // Of what is stored: each of these one row.
    for (change, undo) in [
        (
            "update imprint.step_reading set full_sum_nats[3] = -1 where reading = 7",
            format!(
                "update imprint.step_reading set full_sum_nats[3] = {} where reading = 7",
                match &readings(&run, 7..8, 1)[0] {
                    imprint_store::ingest::Message::Reading(r) => r.full_sum_nats[2],
                    imprint_store::ingest::Message::Update(_) => unreachable!(),
                }
            ),
        ),
        (
            "update imprint.experiment_run set wanted = false",
            "update imprint.experiment_run set wanted = true".to_owned(),
        ),
    ] {
        execute(&db, change).await;
        let refused = drop_run(&db.store, id, Sure::Archived(&dir), false).await;
        assert!(matches!(refused, Err(Error::Corrupt { .. })), "{refused:?}");
        execute(&db, &undo).await;
    }
    // Of what was archived: each file, in the middle and at its end.
    for table in &manifest.tables {
        let path = dir.join(format!("{}.parquet", table.name));
        let whole = fs::read(&path).unwrap();
        let mut bent = whole.clone();
        let middle = bent.len() / 2;
        bent[middle] ^= 1;
        for damaged in [&bent[..], &whole[..whole.len() - 1]] {
            fs::write(&path, damaged).unwrap();
            let refused = drop_run(&db.store, id, Sure::Archived(&dir), false).await;
            assert!(matches!(refused, Err(Error::Corrupt { .. })), "{refused:?}");
        }
        fs::remove_file(&path).unwrap();
        let refused = drop_run(&db.store, id, Sure::Archived(&dir), false).await;
        assert!(matches!(refused, Err(Error::File { .. })), "{refused:?}");
        fs::write(&path, whole).unwrap();
    }
    let other = eventful(&db, &labelled("test/other")).await;
    let refused = drop_run(&db.store, other, Sure::Archived(&dir), false).await;
    assert!(matches!(refused, Err(Error::Corrupt { .. })), "{refused:?}");
    drop_run(&db.store, other, Sure::Yes, false).await.unwrap();
    assert_eq!(everything(&db).await, before, "nothing was dropped");
}

#[tokio::test]
async fn a_damaged_archive_restores_nothing() {
    let db = TestDb::start().await;
    let id = eventful(&db, &labelled("test/run")).await;
    let out = tempfile::tempdir().unwrap();
    let dir = out.path().join("archive");
    let manifest = archive(&db.store, id, &dir).await.unwrap();
    let refused = restore(&db.store, &dir).await;
    assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
    drop_run(&db.store, id, Sure::Archived(&dir), false)
        .await
        .unwrap();
    let empty = everything(&db).await;

    let text = fs::read_to_string(dir.join("manifest.json")).unwrap();
    let rows = |table: &str| {
        let table = manifest.tables.iter().find(|t| t.name == table).unwrap();
        table.rows_sha256.clone()
    };
    for damaged in [
        // A hash of the rows that is another table's: found after all of it went in.
        text.replace(&rows("step_reading"), &rows("run")),
        text.replace("\"probe_chunk\"", "\"x\"")
            .replace("\"saved_state\"", "\"x\""),
        text.replace("\"superseded_update\"", "\"../run\""),
        text.replace("\"loss_nats\"", "\"no_such_column\""),
        text.replace("double precision", "real"),
        text.replace("real[]", "circle"),
        text.replace("imprint-run-archive", "something else"),
        text.replace("\"version\": 1", "\"version\": 2"),
        text[..text.len() / 2].to_owned(),
        String::new(),
    ] {
        assert_ne!(damaged, text);
        fs::write(dir.join("manifest.json"), damaged).unwrap();
        let refused = restore(&db.store, &dir).await;
        assert!(
            matches!(refused, Err(Error::Corrupt { .. } | Error::File { .. })),
            "{refused:?}"
        );
        assert_eq!(everything(&db).await, empty);
    }
    fs::write(dir.join("manifest.json"), &text).unwrap();
    // Another run took its name meanwhile.
    let namesake = seed_run(&db.store, &labelled("test/run")).await;
    execute(
        &db,
        "update imprint.run set hash = 'another', state = 'failed'",
    )
    .await;
    let refused = restore(&db.store, &dir).await;
    assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
    drop_run(&db.store, namesake, Sure::Yes, false)
        .await
        .unwrap();
    assert_eq!(restore(&db.store, &dir).await.unwrap().run.run_id, id);
}

#[tokio::test]
async fn only_what_has_ended_and_nobody_needs_is_dropped() {
    let db = TestDb::start().await;
    let parent = eventful(&db, &labelled("test/parent")).await;
    let child = unfinished(&db, &labelled("test/child")).await;
    execute(
        &db,
        &format!(
            "update imprint.run set parent_run_id = {parent}, parent_step = 150,
                 spec = jsonb_set(spec, '{{identity,checkpoint}}',
                     '{{\"kind\": \"run\", \"run\": \"test/parent\", \"step\": 150}}')
             where run_id = {child}"
        ),
    )
    .await;
    let out = tempfile::tempdir().unwrap();
    let dir = |name: &str| out.path().join(name);
    for state in ["queued", "running", "delivering"] {
        execute(
            &db,
            &format!("update imprint.run set state = '{state}' where run_id = {child}"),
        )
        .await;
        let before = everything(&db).await;
        for refused in [
            archive(&db.store, child, &dir("child")).await.map(drop),
            drop_run(&db.store, child, Sure::Yes, true).await.map(drop),
            drop_run(&db.store, parent, Sure::Yes, true).await.map(drop),
        ] {
            assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
        }
        assert_eq!(everything(&db).await, before);
    }
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0);
    execute(
        &db,
        &format!("update imprint.run set state = 'failed' where run_id = {child}"),
    )
    .await;
    let refused = drop_run(&db.store, parent, Sure::Yes, false).await;
    assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");

    let linked = everything(&db).await;
    archive(&db.store, parent, &dir("parent")).await.unwrap();
    archive(&db.store, child, &dir("child")).await.unwrap();
    let link = "select parent_run_id, parent_step from imprint.run where label = 'test/child'";
    let parent_of_child = || async {
        let link: (Option<i32>, Option<i32>) = sqlx::query_as(link)
            .fetch_one(db.store.pool())
            .await
            .unwrap();
        link
    };
    let dropped = drop_run(&db.store, parent, Sure::Yes, true).await.unwrap();
    assert_eq!(dropped.detached, ["test/child"]);
    assert_eq!(parent_of_child().await, (None, None));
    restore(&db.store, &dir("parent")).await.unwrap();
    assert_eq!(parent_of_child().await, (Some(parent), Some(150)));
    assert_eq!(
        everything(&db).await["imprint.step_mean"],
        linked["imprint.step_mean"]
    );

    // The child first, without its parent; the parent brings the reference back.
    drop_run(&db.store, child, Sure::Archived(&dir("child")), false)
        .await
        .unwrap();
    drop_run(&db.store, parent, Sure::Yes, false).await.unwrap();
    restore(&db.store, &dir("child")).await.unwrap();
    assert_eq!(parent_of_child().await, (None, None));
    restore(&db.store, &dir("parent")).await.unwrap();
    assert_eq!(parent_of_child().await, (Some(parent), Some(150)));
    // And the other way round.
    drop_run(&db.store, child, Sure::Yes, false).await.unwrap();
    restore(&db.store, &dir("child")).await.unwrap();
    assert_eq!(parent_of_child().await, (Some(parent), Some(150)));
    for unknown in [
        archive(&db.store, 99, &dir("x")).await.map(drop),
        drop_run(&db.store, 99, Sure::Yes, true).await.map(drop),
    ] {
        assert!(matches!(unknown, Err(Error::NotFound { .. })));
    }
}

/// A writer that wakes up after its run was dropped stores nothing.
#[tokio::test]
async fn nothing_is_written_to_a_dropped_run() {
    let db = TestDb::start().await;
    let run = labelled("test/run");
    let id = seed_run(&db.store, &run).await;
    let attempt = begin_attempt(&db.store, id).await;
    let (mut writer, _) = Writer::open(&db.store, id, attempt, 0, "m").await.unwrap();
    writer.append(&readings(&run, 0..9, 1)).await.unwrap();
    execute(&db, "update imprint.run set state = 'cancelled'").await;
    drop_run(&db.store, id, Sure::Yes, false).await.unwrap();
    let late = writer.append(&readings(&run, 9..10, 1)).await;
    assert!(matches!(late, Err(Error::NotFound { .. })), "{late:?}");
    let again = Writer::open(&db.store, id, attempt, 0, "m").await;
    assert!(matches!(again, Err(Error::NotFound { .. })));
    assert_eq!(everything(&db).await["imprint.step_reading"].len(), 0);
}

#[tokio::test]
async fn an_archive_is_there_whole_or_not_at_all() {
    let db = TestDb::start().await;
    let id = eventful(&db, &labelled("test/run")).await;
    let out = tempfile::tempdir().unwrap();
    let dir = out.path().join("archive");
    let names = || -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(out.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    // What fails in the middle: a type that no archive keeps.
    execute(&db, "alter table imprint.segment add column odd inet").await;
    let failed = archive(&db.store, id, &dir).await;
    assert!(matches!(failed, Err(Error::Corrupt { .. })), "{failed:?}");
    execute(&db, "alter table imprint.segment drop column odd").await;
    // An array that no list can tell.
    execute(
        &db,
        "update imprint.step_reading set full_sum_nats = '[0:1]={-1,-2}' where reading = 150",
    )
    .await;
    let failed = archive(&db.store, id, &dir).await;
    assert!(matches!(failed, Err(Error::Corrupt { .. })), "{failed:?}");
    assert_eq!(names(), Vec::<String>::new());
    execute(
        &db,
        "update imprint.step_reading set full_sum_nats = '{-1,-2}' where reading = 150",
    )
    .await;

    // What a killed process leaves is in nobody's way.
    let partial = out.path().join("archive.partial");
    fs::create_dir(&partial).unwrap();
    fs::write(partial.join("manifest.json"), "").unwrap();
    fs::write(partial.join("run.parquet"), "half").unwrap();
    archive(&db.store, id, &dir).await.unwrap();
    assert_eq!(names(), ["archive"]);
    let taken = archive(&db.store, id, &dir).await;
    assert!(matches!(taken, Err(Error::Invalid { .. })), "{taken:?}");
    // What a live one writes is.
    fs::create_dir(&partial).unwrap();
    let lock = fs::File::create(partial.join("manifest.json")).unwrap();
    lock.lock().unwrap();
    fs::rename(&dir, out.path().join("elsewhere")).unwrap();
    let taken = archive(&db.store, id, &dir).await;
    assert!(matches!(taken, Err(Error::Invalid { .. })), "{taken:?}");
    assert!(partial.join("manifest.json").exists());
    let nowhere = archive(&db.store, id, Path::new("/")).await;
    assert!(matches!(nowhere, Err(Error::Invalid { .. })), "{nowhere:?}");
}
