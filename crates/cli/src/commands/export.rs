//! `imprint export`: what was measured, in files of other tools.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use imprint_store::Store;
use imprint_store::results::RunRecord;
use imprint_store::runs::RunState;

use super::tell;
use crate::database::Database;
use crate::export::{Format, What, reference_log, table};
use crate::failure::{Failure, Outcome};
use crate::place::Place;
use crate::readings;
use crate::system::signalled;

/// Write what was measured to files: Parquet or CSV for notebooks, or the reference's JSON log.
///
/// Columns are those of the SQL views. A file name takes all the runs together, a directory (one
/// that is there, or a name that ends with `/`) gets a file for each run. A file appears when it is
/// whole, in the place of an older one. Runs that are not complete are exported as far as they are,
/// and named on standard error.
///
/// Example: `imprint export mine --format parquet --out mine.parquet`, then in Python
/// `pandas.read_parquet("mine.parquet")`
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Arguments {
    /// An experiment, or one of its runs (`experiment/cell`).
    name: String,
    /// What kind of file.
    #[arg(long, value_enum, default_value = "parquet")]
    format: Format,
    /// The file, or the directory, to write to.
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
    /// Which table.
    #[arg(long, value_enum, default_value_t)]
    what: What,
}

pub(crate) async fn run(place: &Place, arguments: Arguments) -> Outcome {
    if arguments.format == Format::Reference && arguments.what != What::Readings {
        return Err(Failure::bad_input(format!(
            "--what {}: the reference's log holds readings only",
            arguments.what.as_str()
        )));
    }
    let database = Database::open(place).await?;
    // Dropped half-way, a file is gone.
    let exported = tokio::select! {
        exported = export(&database.store, &arguments) => exported,
        signalled = signalled() => signalled.and(Err(Failure::failed(
            "interrupted; the file that was being written is gone"
        ))),
    };
    database.close().await?;
    exported?;
    Ok(ExitCode::SUCCESS)
}

async fn export(store: &Store, arguments: &Arguments) -> Result<(), Failure> {
    let Arguments {
        name,
        format,
        out,
        what,
    } = arguments;
    let runs = runs(store, name).await?;
    let is_directory = out.is_dir() || out.as_os_str().as_encoded_bytes().ends_with(b"/");
    if is_directory {
        fs::create_dir_all(out)
            .map_err(|err| Failure::bad_input(format!("make {}: {err}", out.display())))?;
        for run in &runs {
            let path = out.join(file_name(run, *what, *format));
            file(store, std::slice::from_ref(run), *what, *format, &path).await?;
        }
        return Ok(());
    }
    if *format == Format::Reference && runs.len() > 1 {
        return Err(Failure::bad_input(format!(
            "a log holds one run, and `{name}` has {}; name one of them, or a directory with \
             `--out {}/`",
            runs.len(),
            out.display()
        )));
    }
    file(store, &runs, *what, *format, out).await
}

async fn file(
    store: &Store,
    runs: &[RunRecord],
    what: What,
    format: Format,
    path: &Path,
) -> Result<(), Failure> {
    let (n, unit) = match (format, runs) {
        (Format::Reference, [run]) => (reference_log(store, run, path).await?, "records"),
        _ => (table(store, runs, what, format, path).await?, "rows"),
    };
    tell(format_args!("{}: {n} {unit}", path.display()))
}

/// The runs that a name means; those that are not complete are told of.
async fn runs(store: &Store, name: &str) -> Result<Vec<RunRecord>, Failure> {
    let runs = readings::named(store, name).await?;
    for run in runs.iter().filter(|r| r.state != RunState::Complete) {
        eprintln!(
            "{} is {}: {} of {} readings",
            run.label,
            run.state.as_str(),
            run.n_readings_stored,
            run.n_readings
        );
    }
    Ok(runs)
}

/// `cell-readings.parquet`.
fn file_name(run: &RunRecord, what: What, format: Format) -> String {
    let cell = run
        .label
        .split_once('/')
        .map_or(&*run.label, |(_, cell)| cell);
    format!("{cell}-{}.{}", what.as_str(), format.extension())
}
