//! `imprint db` and `imprint sql` on a database of the user's own.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use imprint_testkit::{SeedRun, TestDb, output, seed_run};

const LIMIT: Duration = Duration::from_secs(120);

#[track_caller]
fn imprint(db: &TestDb, arguments: &[&str]) -> Output {
    output(
        Command::new(env!("CARGO_BIN_EXE_imprint"))
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("IMPRINT_DATA_DIR", "/nonexistent")
            .env("DATABASE_URL", &db.url),
        LIMIT,
    )
}

#[track_caller]
fn says(db: &TestDb, arguments: &[&str], want: &str) {
    let output = imprint(db, arguments);
    let stdout = String::from_utf8(output.stdout).unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{arguments:?}: {stderr}");
    assert!(stdout.contains(want), "{arguments:?}: {stdout}");
}

#[track_caller]
fn fails(db: &TestDb, arguments: &[&str], code: i32, want: &str) {
    let output = imprint(db, arguments);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
    assert!(stderr.contains(want), "{arguments:?}: {stderr}");
}

#[tokio::test]
async fn a_run_is_checked_archived_dropped_and_restored() {
    let db = TestDb::start().await;
    seed_run(&db.store, &SeedRun::default()).await;
    let out = tempfile::tempdir().unwrap();
    let dir = out.path().join("archive").display().to_string();
    says(&db, &["db", "migrate"], "up to date");
    says(&db, &["db", "check"], "equal a rebuild");
    says(&db, &["db", "rebuild", "--run", "test/run"], "runs 1");
    fails(
        &db,
        &["db", "rebuild", "--run", "test/none"],
        2,
        "there is no run `test/none`",
    );
    fails(
        &db,
        &["db", "archive", "test/run", "--out", &dir],
        2,
        "has ended",
    );
    // Imported ones are runs like others.
    for change in [
        "state = 'failed', spec = spec || '{\"imported\": {}}'",
        "state = 'complete'",
    ] {
        let sql = format!("update imprint.run set {change}");
        says(&db, &["sql", "--write", "-c", &sql], "UPDATE 1");
    }
    fails(&db, &["db", "drop", "test/run"], 2, "--yes");
    says(&db, &["db", "archive", "test/run", "--out", &dir], "rows");
    fails(&db, &["db", "restore", &dir], 2, "is here already");
    says(
        &db,
        &["db", "drop", "test/run", "--archive", &dir],
        "dropped",
    );
    fails(
        &db,
        &["db", "drop", "test/run", "--yes"],
        2,
        "there is no run",
    );
    says(&db, &["db", "restore", &dir], "test/run  run 1");
    says(
        &db,
        &["sql", "-c", "select run, state from imprint.run_summary"],
        "test/run | complete",
    );
    assert!(Path::new(&dir).join("manifest.json").exists());
}

#[tokio::test]
async fn sql_is_the_readers_unless_told() {
    let db = TestDb::start().await;
    says(&db, &["sql", "-c", "select current_user"], "imprint_reader");
    says(&db, &["sql", "-c", "show statement_timeout"], "5min");
    fails(
        &db,
        &["sql", "-c", "begin read write; delete from imprint.run"],
        1,
        "permission denied",
    );
    fails(
        &db,
        &["sql", "-c", "create temporary table mine ()"],
        1,
        "read-only transaction",
    );
    says(
        &db,
        &["sql", "--write", "-c", "delete from imprint.run"],
        "DELETE 0",
    );
    says(&db, &["sql", "--print"], "role%3Dimprint_reader");
}
