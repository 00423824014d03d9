//! `imprint up`: everything on this machine.

use std::path::PathBuf;
use std::process::ExitCode;

use imprint_orchestrator::Site;
use imprint_telemetry::{Options, one_line};

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
    /// What experiments find here: executors, roots of data, limits (see docs/site.md).
    ///
    /// Where absent: the trainers of this machine, and any file.
    #[arg(long, value_name = "FILE", env = "IMPRINT_SITE")]
    site: Option<PathBuf>,
    /// The trainer; where absent, `imprint-trainer` beside this program or on PATH.
    #[arg(long, value_name = "PATH", env = "IMPRINT_TRAINER")]
    trainer: Option<PathBuf>,
}

impl Local {
    /// What the site file says; without one, the slots of this machine.
    ///
    /// # Errors
    /// When the file cannot be what it is, or names the slots that `--slots` names too.
    pub(crate) fn site(&self) -> Result<Site, Failure> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let slots = self.slots.map_or(cores, usize::from);
        let Some(path) = self.site.as_deref().filter(|p| !p.as_os_str().is_empty()) else {
            return Ok(Site::local(slots));
        };
        let site = Site::read(path, slots).map_err(|e| Failure::bad_input(one_line(&e)))?;
        if self.slots.is_some() && site.executors != Site::local(slots).executors {
            return Err(Failure::bad_input(format!(
                "--slots: {} has executors, and says their slots; leave --slots out",
                path.display()
            )));
        }
        Ok(site)
    }

    /// # Errors
    /// When there is no trainer.
    pub(crate) fn trainer(&self) -> Result<PathBuf, Failure> {
        trainer(self.trainer.clone())
    }
}

/// How many trainers run where, in words.
fn trainers(site: &Site) -> String {
    let executors = site.executors.iter();
    let words: Vec<String> = match site.executors.len() {
        1 => executors.map(|(_, config)| config.to_string()).collect(),
        _ => executors
            .map(|(name, config)| format!("{name}: {config}"))
            .collect(),
    };
    words.join("; ")
}

pub(crate) async fn run(place: &Place, telemetry: &Options, arguments: Arguments) -> Outcome {
    let site = arguments.local.site()?;
    if let Some(executor) = site.beyond_this_machine() {
        return Err(Failure::bad_input(format!(
            "`imprint up` serves this machine only, and trainers of the executor `{executor}` run on \
             others: start the services with `imprint serve` (docs/deploy.md), or say \
             `loopback = true` in its table of the site file if all its nodes are this machine"
        )));
    }
    let setup = Setup {
        trainer: arguments.local.trainer()?,
        site,
        tokens: arguments.tokens,
        well_known_ports: true,
        environment: telemetry.environment(),
    };
    let (trainer, trainers) = (setup.trainer.clone(), trainers(&setup.site));
    let mut system = System::start(place, setup).await?;
    let vitals = system.vitals_url().to_owned();
    let told = tell(format_args!(
        "orchestrator  {}\n\
         metrics       {}\n\
         database      {}\n\
         watched       {vitals}/metrics (Prometheus), {vitals}/healthz\n\
         data          {}\n\
         trainers      {trainers}, {}\n\
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
