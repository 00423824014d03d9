//! Import and export as a user types them, on a database of their own.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use imprint_testkit::{ChildGuard, TestDb, output};

const PATIENCE: Duration = Duration::from_secs(300);

/// A log as the reference's code writes it: 130 facts, five probes of each depth.
fn write_log(path: &Path, n_records: usize) {
    let mut log = String::from("[");
    for record in 0..n_records {
        let comma = if record == 0 { "" } else { "," };
        let _ = write!(
            log,
            "{comma}\n    {{\n        \"step\": {}",
            40_000 + record
        );
        for (t, table) in ["mem", "gen", "gen_hard"]
            .iter()
            .flat_map(|d| ["first", "target", "full"].map(|s| format!("{d}_{s}")))
            .enumerate()
        {
            let _ = write!(log, ",\n        \"{table}\": [");
            for fact in 0..130 {
                log += if fact == 0 { "\n" } else { ",\n" };
                log += "            [\n";
                for probe in 0..5 {
                    let comma = if probe == 4 { "" } else { "," };
                    // In sixty-fourths, which everybody writes with the same digits.
                    let loss = ((record * 7919 + t * 911 + fact * 5 + probe) % 1000) as f64 / 64.0;
                    let _ = writeln!(log, "                {loss:?}{comma}");
                }
                log += "            ]";
            }
            log += "\n        ]";
        }
        log += ",\n        \"def\": []\n    }";
    }
    log += "\n]";
    fs::write(path, log).unwrap();
}

fn imprint(db: &TestDb, dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_imprint"));
    command
        .args(arguments)
        .current_dir(dir)
        .env_clear()
        .env("DATABASE_URL", &db.url);
    command
}

#[track_caller]
fn says(db: &TestDb, dir: &Path, arguments: &[&str]) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = output(&mut imprint(db, dir, arguments), PATIENCE);
    let stderr = String::from_utf8(stderr).unwrap();
    assert!(status.success(), "{arguments:?}: {stderr}");
    String::from_utf8(stdout).unwrap()
}

/// The most memory that a process ever had; read until it ends.
fn peak_kib(mut command: Command) -> u64 {
    let mut child = ChildGuard::spawn(command.stdout(Stdio::null()).stderr(Stdio::null()));
    let status = format!("/proc/{}/status", child.pid());
    let deadline = Instant::now() + PATIENCE;
    let mut peak = 0;
    loop {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:"));
        let now = line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok());
        peak = peak.max(now.unwrap_or(0));
        if let Some(ended) = child.child().try_wait().unwrap() {
            assert!(ended.success());
            return peak;
        }
        assert!(Instant::now() < deadline, "the import does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Short form of `python/bench_import.py`.
#[tokio::test(flavor = "multi_thread")]
async fn memory_does_not_grow_with_a_log() {
    let db = TestDb::start().await;
    let dir = tempfile::tempdir().unwrap();
    let import = |name: &str, n_records| {
        write_log(&dir.path().join(name), n_records);
        let options = ["--format", "reference", "--name", "e", "--scenario", "none"];
        let arguments = [&["import", name], &options[..]].concat();
        peak_kib(imprint(&db, dir.path(), &arguments))
    };
    let (small, large) = (import("small.json", 20), import("large.json", 160));
    let log_kib = fs::metadata(dir.path().join("large.json")).unwrap().len() / 1024;
    println!("{small} KiB, and {large} KiB for a log of {log_kib} KiB");
    assert!(large < small + 12 * 1024, "{small} KiB, then {large} KiB");
    assert!(log_kib > 24 * 1024);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_goes_in_and_files_come_out() {
    let db = TestDb::start().await;
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write_log(&dir.join("log.json"), 3);
    let import = [
        "import",
        "log.json",
        "--format",
        "reference",
        "--name",
        "e",
        "--scenario",
    ];
    let said = says(&db, dir, &[&import[..], &["none"]].concat());
    let label = "e/log-none-b2048-s0";
    assert!(
        said.starts_with(&format!("{label}: 3 readings of 1,950 probes, complete\n")),
        "{said}"
    );
    assert!(said.contains("token counts are not known"), "{said}");

    let said = says(&db, dir, &["export", "e", "--out", "rows.parquet"]);
    assert_eq!(said, "rows.parquet: 5850 rows\n");
    for (format, extension) in [
        ("csv", "csv"),
        ("parquet", "parquet"),
        ("reference", "json"),
    ] {
        says(
            &db,
            dir,
            &["export", label, "--format", format, "--out", "out/"],
        );
        assert!(
            dir.join(format!("out/log-none-b2048-s0-readings.{extension}"))
                .exists()
        );
    }
    let log = fs::read_to_string(dir.join("log.json")).unwrap();
    let again = fs::read_to_string(dir.join("out/log-none-b2048-s0-readings.json")).unwrap();
    let nulls = format!(
        "[\n{}\n        ]",
        vec!["            null"; 130].join(",\n")
    );
    assert!(again == log.replace("\"def\": []", &format!("\"def\": {nulls}")));

    // Refused with a line that says why, and nothing is left behind.
    for (arguments, code, want) in [
        (
            &["export", "nobody", "--out", "x"][..],
            2,
            "there is no experiment `nobody`",
        ),
        (&["export", "e/x", "--out", "x"], 2, "there is no run `e/x`"),
        (
            &[
                "export",
                "e",
                "--format",
                "reference",
                "--what",
                "means",
                "--out",
                "x",
            ],
            2,
            "--what means: the reference's log holds readings only",
        ),
        (
            &["export", "e", "--out", "no/such/x"],
            2,
            "write no/such/x: No such file or directory",
        ),
        (
            &[&import[..], &["paper"]].concat(),
            2,
            "scenario `paper` injects until step 900, and the log ends 2 steps after its first",
        ),
        (
            &[
                "import",
                "none.json",
                "--format",
                "reference",
                "--name",
                "e",
            ],
            2,
            "none.json: No such file or directory",
        ),
        (
            &["import", "log.json", "--format", "reference"],
            2,
            "--name",
        ),
    ] {
        let output = output(&mut imprint(&db, dir, arguments), PATIENCE);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        assert!(stderr.contains(want), "{arguments:?}: {stderr}");
    }
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["log.json", "out", "rows.parquet"]);
}
