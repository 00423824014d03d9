//! `imprint db`: looking after what is stored.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use imprint_store::archive::{self, Sure};
use imprint_store::{Error, Store, derived, pages};

use super::tell;
use crate::database::Database;
use crate::failure::{Failure, Outcome};
use crate::place::Place;

/// Look after the database: its schema, its derived tables, runs to put away.
///
/// Works on DATABASE_URL or the private cluster, with or without the services running.
///
/// Example: `imprint db check && echo sound`
#[derive(Debug, clap::Subcommand)]
#[command(verbatim_doc_comment)]
pub(crate) enum Command {
    /// Bring the schema up to date, as its owner; services that may not do that then start.
    Migrate,
    /// Compare the derived tables (step_mean, probe_chunk) with the readings, bit for bit.
    ///
    /// Nobody waits for it. Exits with 1 where they differ; `imprint db rebuild` mends it.
    Check(Which),
    /// Make the derived tables again from the readings, run by run.
    ///
    /// May run while runs are written: who writes the run at hand waits for the moment.
    Rebuild(Which),
    /// Write all that is stored of a run to a directory of Parquet files with a manifest.
    ///
    /// The run must have ended, and stays. Its saved states and logs are files of their own in the
    /// data directory and no part of it.
    Archive {
        /// The run (`experiment/cell`).
        run: String,
        /// The directory to make.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Remove a run from the database, with all that is stored of it.
    ///
    /// The run must have ended. With `--archive`, only if that archive holds exactly what is stored.
    /// The database then has never heard of the run: an experiment that is submitted again runs it
    /// again. Files in the data directory (saved states, logs) stay.
    Drop(Drop),
    /// Bring an archived run back, under the same identity, bit for bit.
    Restore {
        /// What `imprint db archive` wrote.
        dir: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
// The group that comes with the structure has the run in it, too.
#[command(group = clap::ArgGroup::new("sure").required(true).args(["archive", "yes"]))]
pub(crate) struct Drop {
    /// The run (`experiment/cell`).
    run: String,
    /// Its archive, which is compared with what is stored first.
    #[arg(long, value_name = "DIR")]
    archive: Option<PathBuf>,
    /// Without an archive: what is stored is lost.
    #[arg(long)]
    yes: bool,
    /// Even if other runs start from it; they stay, and refer to it again when it is restored.
    #[arg(long)]
    detach: bool,
}

/// One run or all.
#[derive(Debug, clap::Args)]
pub(crate) struct Which {
    /// Only this run (`experiment/cell`).
    #[arg(long, value_name = "RUN")]
    run: Option<String>,
}

impl Which {
    async fn run_ids(&self, store: &Store) -> Result<Vec<i32>, Failure> {
        match &self.run {
            Some(label) => Ok(vec![run_id(store, label).await?]),
            None => Ok(derived::runs(store).await?),
        }
    }
}

pub(crate) async fn run(place: &Place, command: Command) -> Outcome {
    let database = match command {
        Command::Migrate => Database::provide(place).await?,
        _ => Database::open(place).await?,
    };
    let done = dispatch(&database.store, command).await;
    database.close().await?;
    done
}

async fn dispatch(store: &Store, command: Command) -> Outcome {
    match command {
        Command::Migrate => tell("the schema is up to date")?,
        Command::Check(which) => return check(store, &which).await,
        Command::Rebuild(which) => {
            return rebuild(store, &which).await;
        }
        Command::Archive { run, out } => archive_run(store, &run, &out).await?,
        Command::Drop(arguments) => drop_run(store, arguments).await?,
        Command::Restore { dir } => {
            let restored = archive::restore(store, &dir).await?;
            tell(format_args!(
                "{}  run {}  {} rows, {} readings restored",
                restored.run.label, restored.run.run_id, restored.n_rows, restored.n_readings
            ))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn archive_run(store: &Store, run: &str, out: &Path) -> Result<(), Failure> {
    let manifest = archive::archive(store, run_id(store, run).await?, out).await?;
    let n_rows: u64 = manifest.tables.iter().map(|t| t.n_rows).sum();
    let n_bytes: u64 = manifest.tables.iter().map(|t| t.file_bytes).sum();
    tell(format_args!(
        "{run}  {n_rows} rows  {:.1} MB  {}",
        n_bytes as f64 / 1e6,
        out.display()
    ))
}

async fn drop_run(store: &Store, arguments: Drop) -> Result<(), Failure> {
    let run = arguments.run;
    let sure = match (&arguments.archive, arguments.yes) {
        (Some(dir), _) => Sure::Archived(dir),
        (None, true) => Sure::Yes,
        (None, false) => return Err(Failure::bad_input("name the run's --archive, or say --yes")),
    };
    let run_id = run_id(store, &run).await?;
    let dropped = archive::drop_run(store, run_id, sure, arguments.detach).await?;
    tell(format_args!("{run}  {} rows dropped", dropped.n_rows))?;
    for label in dropped.detached {
        tell(format_args!("{label}  refers to it no longer"))?;
    }
    Ok(())
}

async fn rebuild(store: &Store, which: &Which) -> Outcome {
    let run_ids = which.run_ids(store).await?;
    let (mut n_readings, mut n_failed) = (0_u64, 0);
    for &run_id in &run_ids {
        match of_run(derived::rebuild(store, run_id).await, run_id, which)? {
            Some(Ok(n)) => n_readings += u64::from(n),
            Some(Err(())) => n_failed += 1,
            None => {}
        }
    }
    if n_failed > 0 {
        return Err(Failure::failed(format!(
            "{n_failed} of {} runs cannot be rebuilt: their readings are not whole; `imprint \
             verify` says what is missing",
            run_ids.len()
        )));
    }
    tell(format_args!(
        "runs {}  readings {n_readings}  derived tables rebuilt",
        run_ids.len()
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// What came out for one of many runs: `None` for one that was dropped meanwhile, and one whose
/// readings are not whole is told of and does not keep the others.
fn of_run<T>(
    outcome: Result<T, Error>,
    run_id: i32,
    which: &Which,
) -> Result<Option<Result<T, ()>>, Failure> {
    match outcome {
        Ok(done) => Ok(Some(Ok(done))),
        Err(Error::NotFound { .. }) if which.run.is_none() => Ok(None),
        Err(error @ Error::Corrupt { .. }) => {
            tell(format_args!("run {run_id}: {error}"))?;
            Ok(Some(Err(())))
        }
        Err(error) => Err(error.into()),
    }
}

async fn check(store: &Store, which: &Which) -> Outcome {
    let run_ids = which.run_ids(store).await?;
    let (mut n_readings, mut n_chunks_due, mut n_differing) = (0_u64, 0, 0);
    for &run_id in &run_ids {
        let check = match of_run(derived::check(store, run_id).await, run_id, which)? {
            Some(Ok(check)) => check,
            Some(Err(())) => {
                n_differing += 1;
                continue;
            }
            None => continue,
        };
        n_chunks_due += check.n_chunks_due;
        n_readings += u64::from(check.n_readings);
        if !check.is_equal() {
            n_differing += 1;
            tell(format_args!(
                "run {run_id}: {} rows differ",
                check.n_differences
            ))?;
            for difference in &check.differences {
                tell(format_args!("  {difference}"))?;
            }
        }
    }
    if n_differing > 0 {
        return Err(Failure::failed(format!(
            "the derived tables of {n_differing} of {} runs differ from their readings; \
             `imprint db rebuild` makes them again",
            run_ids.len()
        )));
    }
    tell(format_args!(
        "runs {}  readings {n_readings}  derived tables equal a rebuild{}",
        run_ids.len(),
        match n_chunks_due {
            0 => String::new(),
            n => format!(", {n} chunks are still to be made"),
        }
    ))?;
    Ok(ExitCode::SUCCESS)
}

async fn run_id(store: &Store, label: &str) -> Result<i32, Failure> {
    match pages::run(store, label).await {
        Ok(run) => Ok(run.run_id),
        Err(Error::NotFound { what }) => Err(Failure::bad_input(format!(
            "there is no {what}; `imprint status` lists them"
        ))),
        Err(error) => Err(error.into()),
    }
}
