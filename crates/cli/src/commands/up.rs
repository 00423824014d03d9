//! `imprint up`: everything on this machine.

use std::path::PathBuf;
use std::process::ExitCode;

use imprint_telemetry::Options;

use super::machine::trainer;
use super::tell;
use crate::failure::{Failure, Outcome};
use crate::place::Place;
use crate::system::{Setup, System, signalled};

/// Start everything on this machine, and stay: the database, the metrics service, the orchestrator.
///
/// Without DATABASE_URL a private Postgres cluster is made in the data directory from the server
/// programs on the machine. The services listen on 127.0.0.1, at ports 7431 (metrics) and 7432
/// (orchestrator) where they are free. Clients with the same data directory find them. Prometheus
/// may scrape http://127.0.0.1:9464/metrics (or the address printed, where that port is taken).
///
/// Ctrl-C (or SIGTERM) drains: running trainers save and deliver, and their runs go on at the next
/// `up`. A second Ctrl-C does not wait for them.
///
/// Example: `imprint up --slots 2`, then in another terminal `imprint submit mine.toml`
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Arguments {
    #[command(flatten)]
    local: Local,
    /// Ask every caller for a token, on a machine that others log in to as well.
    ///
    /// Clients with the same data directory show theirs by themselves: it lies there in a file that
    /// only you can read.
    #[arg(long, env = "IMPRINT_TOKENS")]
    tokens: bool,
}

/// What trainers of this machine may use.
#[derive(Debug, clap::Args)]
pub(crate) struct Local {
    /// Trainers at the same time; where absent, one for every core. With 0 runs wait until they are
    /// taken (`imprint take`).
    #[arg(long, value_name = "N")]
    slots: Option<u16>,
    /// The trainer; where absent, `imprint-trainer` beside this program or on PATH.
    #[arg(long, value_name = "PATH", env = "IMPRINT_TRAINER")]
    trainer: Option<PathBuf>,
}

impl Local {
    pub(crate) fn slots(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        self.slots.map_or(cores, usize::from)
    }

    /// # Errors
    /// When there is no trainer.
    pub(crate) fn trainer(&self) -> Result<PathBuf, Failure> {
        trainer(self.trainer.clone())
    }
}

pub(crate) async fn run(place: &Place, telemetry: &Options, arguments: Arguments) -> Outcome {
    let setup = Setup {
        trainer: arguments.local.trainer()?,
        slots: arguments.local.slots(),
        tokens: arguments.tokens,
        well_known_ports: true,
        environment: telemetry.environment(),
    };
    let (trainer, slots) = (setup.trainer.clone(), setup.slots);
    let mut system = System::start(place, setup).await?;
    let vitals = system.vitals_url().to_owned();
    let told = tell(format_args!(
        "orchestrator  {}\n\
         metrics       {}\n\
         database      {}\n\
         watched       {vitals}/metrics (Prometheus), {vitals}/healthz\n\
         data          {}\n\
         trainers      {slots} at a time, {}\n\
         Ctrl-C drains: running trainers save, and go on at the next `imprint up`.",
        system.services().orchestrator,
        system.services().metrics,
        system.psql_line(),
        place.data_dir().display(),
        trainer.display(),
    ));
    let ended = match told {
        Ok(()) => tokio::select! {
            signalled = signalled() => signalled,
            failure = system.broken() => Err(failure),
        },
        Err(failure) => Err(failure),
    };
    tracing::info!("draining; Ctrl-C again does not wait");
    let stopped = tokio::select! {
        stopped = system.stop() => stopped,
        _ = signalled() => Err(Failure::failed("ended without waiting for the trainers")),
    };
    ended.and(stopped).map(|()| ExitCode::SUCCESS)
}
