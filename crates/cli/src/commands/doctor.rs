//! `imprint doctor`: what this machine has and lacks.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use imprint_proto::Target;
use imprint_store::embedded;
use imprint_telemetry::one_line;
use nix::sys::statvfs::statvfs;
use serde::Serialize;

use super::machine::{on_path, trainer};
use super::{print_json, tell};
use crate::arguments::Output;
use crate::database;
use crate::failure::{Failure, Outcome};
use crate::place::Place;
use crate::table::{Column, table};

/// Say what this machine has and lacks for a laboratory, and what to do about it.
///
/// Exits with 1 when something is missing without which `imprint up` cannot run experiments.
/// What only some need (a GPU, psql, services that are not started) is noted.
///
/// Example: `imprint doctor --output json`
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Arguments {
    /// A table for people, or JSON for programs.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Ok,
    /// Not there, and not needed by everyone.
    Note,
    Missing,
}

#[derive(Debug, Serialize)]
struct Check {
    subject: &'static str,
    verdict: Verdict,
    detail: String,
}

impl Check {
    fn new(subject: &'static str, verdict: Verdict, detail: impl Into<String>) -> Self {
        Self {
            subject,
            verdict,
            detail: detail.into(),
        }
    }

    /// Something everyone needs.
    fn needed(subject: &'static str, found: Result<String, Failure>) -> Self {
        match found {
            Ok(detail) => Self::new(subject, Verdict::Ok, detail),
            Err(failure) => Self::new(subject, Verdict::Missing, failure.to_string()),
        }
    }

    /// Something that is good to have.
    fn wanted(subject: &'static str, found: Option<String>, otherwise: &str) -> Self {
        match found {
            Some(detail) => Self::new(subject, Verdict::Ok, detail),
            None => Self::new(subject, Verdict::Note, otherwise),
        }
    }
}

pub(crate) async fn run(place: &Place, arguments: Arguments) -> Outcome {
    let checks = [
        database_check(place),
        Check::wanted(
            "psql",
            on_path("psql").map(|path| path.display().to_string()),
            "not on PATH (Debian: package postgresql-client); only `imprint sql` needs it",
        ),
        Check::needed(
            "trainer",
            trainer(None).map(|path| path.display().to_string()),
        ),
        Check::new("processor", Verdict::Ok, processor()),
        Check::wanted(
            "GPU",
            gpu(),
            "no NVIDIA driver; runs use `device = \"cpu\"`",
        ),
        disk(&place.data_dir()),
        service("orchestrator", place.orchestrator()).await,
        service("metrics", place.metrics()).await,
    ];
    match arguments.output {
        Output::Json => print_json(&checks)?,
        Output::Table => tell(as_table(&checks))?,
    }
    Ok(if checks.iter().any(|c| c.verdict == Verdict::Missing) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn as_table(checks: &[Check]) -> String {
    let columns = [
        Column::Left("what"),
        Column::Left(""),
        Column::Left("found"),
    ];
    let cells = checks.iter().map(|c| {
        let verdict = match c.verdict {
            Verdict::Ok => "ok",
            Verdict::Note => "note",
            Verdict::Missing => "MISSING",
        };
        vec![c.subject.to_owned(), verdict.to_owned(), c.detail.clone()]
    });
    table(&columns, cells)
}

fn database_check(place: &Place) -> Check {
    if place.database_url().is_some() {
        return Check::new("database", Verdict::Ok, "your own, from DATABASE_URL");
    }
    let programs = embedded::programs(&database::directory(place));
    let found = programs.map(|dir| format!("private, with the server of {}", dir.display()));
    Check::needed("database", found.map_err(Failure::from))
}

/// Cores and the vector units that decide how fast a CPU trains.
fn processor() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let of = |key: &str| {
        let line = text.lines().find(|line| line.starts_with(key))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let flags = of("flags").unwrap_or_default();
    let has = |flag: &&str| flags.split(' ').any(|f| f == *flag);
    let vectors: Vec<&str> = ["avx512f", "avx2", "fma"].into_iter().filter(has).collect();
    let vectors = if vectors.is_empty() {
        "no AVX2".to_owned()
    } else {
        vectors.join(", ")
    };
    let name = of("model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    format!("{cores} cores, {vectors} ({name})")
}

/// The GPUs that the driver knows.
fn gpu() -> Option<String> {
    let listed = Command::new("nvidia-smi")
        .args(["--query-gpu=name,memory.total", "--format=csv,noheader"])
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let text = String::from_utf8_lossy(&listed.stdout);
    let gpus: Vec<String> = text
        .lines()
        .enumerate()
        .map(|(i, line)| format!("cuda:{i} {}", line.trim()))
        .collect();
    (!gpus.is_empty()).then(|| gpus.join("; "))
}

/// Below this a run's states and readings soon have no room.
const LITTLE_SPACE_GIB: f64 = 2.0;

/// Free space where the data directory is or will be.
fn disk(data_dir: &Path) -> Check {
    let there = data_dir
        .ancestors()
        .find(|dir| dir.exists())
        .unwrap_or(data_dir);
    match statvfs(there) {
        Ok(stat) => {
            // In floating point: the two counts have other types on other systems.
            let free_bytes = stat.blocks_available() as f64 * stat.fragment_size() as f64;
            let free_gib = free_bytes / f64::from(1 << 30);
            let verdict = if free_gib < LITTLE_SPACE_GIB {
                Verdict::Note
            } else {
                Verdict::Ok
            };
            Check::new(
                "disk",
                verdict,
                format!("{free_gib:.1} GiB free for {}", data_dir.display()),
            )
        }
        Err(err) => Check::new("disk", Verdict::Note, format!("{}: {err}", there.display())),
    }
}

async fn service(name: &'static str, target: Result<Target, Failure>) -> Check {
    let target = match target {
        Ok(target) => target,
        Err(failure) => return Check::new(name, Verdict::Note, failure.to_string()),
    };
    let url = target.url.clone();
    match imprint_proto::connect(name, target).await {
        Ok(_) => Check::new(name, Verdict::Ok, format!("answers at {url}")),
        Err(error) if url.starts_with("https://") => {
            Check::new(name, Verdict::Note, one_line(&error))
        }
        Err(_) => Check::new(
            name,
            Verdict::Note,
            format!("does not answer at {url}; `imprint up` starts it"),
        ),
    }
}
