//! The orchestrator: takes experiments, and starts, watches and retries the trainers of their runs.
//!
//! What to do next is decided by a pure function of what is seen (`plan`); a loop observes, plans and
//! applies. Trainers run where an executor starts them: as processes of this machine, or as jobs of a
//! cluster.

mod desk;
mod estimate;
mod executor;
mod lead;
mod local;
mod logs;
mod plan;
mod scheduler;
mod series;
mod service;
mod site;
mod slurm;
mod status;
mod submit;
mod trainer;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use imprint_access::{Door, GrantSigner};
use imprint_proto::pb::attempts_server::AttemptsServer;
use imprint_proto::pb::orchestrator_server::OrchestratorServer;
use imprint_store::Store;
use imprint_telemetry::Vitals;
use tokio::sync::{Notify, watch};

pub use crate::site::{
    ExecutorConfig, LocalConfig, Roots, Site, SiteError, SiteLimits, SlurmConfig, Stage,
};

use crate::desk::Desk;
use crate::executor::Executor;
use crate::lead::Lead;
use crate::local::Local;
use crate::plan::{Room, Rooms};
use crate::scheduler::Scheduler;
use crate::series::Series;
use crate::service::Service;
use crate::slurm::Slurm;
use crate::submit::Intake;
use crate::trainer::Trainer;

/// The names of the services in health checks and reflection.
const SERVICES: &[&str] = &["imprint.v1.Orchestrator", "imprint.v1.Attempts"];

/// How an orchestrator is set up.
#[derive(Debug)]
pub struct Config {
    /// Where it listens, and who may come.
    pub door: Door,
    /// Where trainers find it, such as `https://lab.example:7432`; where absent, at the address that
    /// it listens at.
    pub url: Option<String>,
    /// Signs what trainers show; where absent, they show nothing.
    pub signer: Option<Arc<GrantSigner>>,
    /// Whom trainers trust, and what they show besides tokens.
    pub trainer_certificates: TrainerCertificates,
    /// Where trainers send readings, such as `http://127.0.0.1:7431`.
    pub metrics_url: String,
    /// Each run's files are in `runs/<run id>` of this directory.
    pub data_dir: PathBuf,
    /// The program `imprint-trainer`.
    pub trainer: PathBuf,
    /// What trainers get in their environment beside what this process has.
    pub environment: Vec<(&'static str, String)>,
    /// Where runs are executed, and which files experiments may name.
    pub site: Site,
    pub limits: Limits,
    /// Where it shows how it fares.
    pub vitals: Vitals,
}

/// The files of a trainer's end of TLS, where services ask for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrainerCertificates {
    /// Certificates of the authority that signed the services' (PEM); those of the system where
    /// absent.
    pub ca: Option<PathBuf>,
    /// The trainers' certificate (PEM) and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// How long things may take and how often they are tried.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// How often a trainer reports; the step shown for a run is this old at most.
    pub heartbeat: Duration,
    /// How long a trainer may be silent; then its attempt is written off and the run starts again.
    pub lease: Duration,
    /// How long a trainer that lives may be without an attempt, before its first or after its last;
    /// then it is killed and started again.
    pub begin_within: Duration,
    /// How long an executor may take to show a job that it was asked for; then it is asked again,
    /// each time after a pause twice as long.
    pub ask_again_after: Duration,
    /// The longest such pause.
    pub ask_again_within: Duration,
    /// How long an orchestrator leads without renewing that; then another may.
    pub lead: Duration,
    /// How long a trainer may begin attempts of its run and speak for them: longer than any job waits
    /// and runs.
    pub run_token: Duration,
    /// How long an attempt may write readings after the orchestrator's last word; then they wait in
    /// its spool until there is an orchestrator again.
    pub attempt_token: Duration,
    /// How long a trainer goes on delivering after its last step; then the run stays `delivering`.
    pub deliver_timeout: Duration,
    /// Attempts in a row that may end without getting any further; with that many the run fails.
    pub max_barren_attempts: u32,
    /// Pause after the first barren attempt, doubled with each further one.
    pub first_back_off: Duration,
    /// The longest such pause.
    pub longest_back_off: Duration,
    /// How long a trainer that is asked to stop has for saving its state; then it is killed, and
    /// the next attempt resumes from an older one.
    pub stop_grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(2),
            lease: Duration::from_secs(30),
            begin_within: Duration::from_secs(300),
            ask_again_after: Duration::from_secs(45),
            ask_again_within: Duration::from_secs(600),
            lead: Duration::from_secs(3),
            run_token: Duration::from_secs(60 * 24 * 3600),
            attempt_token: Duration::from_secs(24 * 3600),
            deliver_timeout: Duration::from_secs(600),
            max_barren_attempts: 3,
            first_back_off: Duration::from_secs(1),
            longest_back_off: Duration::from_secs(60),
            stop_grace: Duration::from_secs(30),
        }
    }
}

impl Limits {
    /// The pause after so many barren attempts; none after one that got further.
    fn back_off(&self, n_barren: u32) -> Duration {
        doubled(self.first_back_off, n_barren, self.longest_back_off)
    }

    /// The pause before an executor is asked again that was asked so often.
    fn ask_again(&self, n_asked: u32) -> Duration {
        doubled(self.ask_again_after, n_asked, self.ask_again_within)
    }
}

/// `first` for the first time, twice that for the second, and so on; nothing before.
fn doubled(first: Duration, n: u32, longest: Duration) -> Duration {
    match n.checked_sub(1) {
        None => Duration::ZERO,
        Some(doublings) => first
            .saturating_mul(2u32.saturating_pow(doublings))
            .min(longest),
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the door of the orchestrator")]
    Door(#[source] imprint_access::Error),
    #[error("cannot use the data directory {path}")]
    DataDir {
        path: PathBuf,
        #[source]
        err: io::Error,
    },
    #[error("the name of this machine cannot be told")]
    Host(#[source] nix::Error),
    #[error(transparent)]
    Standing(#[from] imprint_telemetry::Error),
    #[error("the orchestrator's server ended")]
    Serve(#[source] tonic::transport::Error),
    #[error("the orchestrator broke off")]
    Broken(#[source] tokio::task::JoinError),
}

/// Serves until `shutdown`, then asks its trainers to save and end, and waits for them.
///
/// # Errors
/// When it cannot start; a database that is away is no error: it waits for it.
pub async fn serve(
    config: Config,
    store: Store,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error> {
    let url = match config.url {
        Some(url) => url,
        None => own_url(&config.door).map_err(Error::Door)?,
    };
    let (server, incoming) = config.door.open().map_err(Error::Door)?;
    let runs_dir = config.data_dir.join("runs");
    let runs_dir = std::fs::create_dir_all(&runs_dir)
        .and_then(|()| runs_dir.canonicalize())
        .map_err(|err| Error::DataDir {
            path: runs_dir,
            err,
        })?;
    let laboratory = slurm::laboratory(&config.data_dir).map_err(|err| Error::DataDir {
        path: config.data_dir.clone(),
        err,
    })?;
    let host = nix::unistd::gethostname().map_err(Error::Host)?;
    let wake = Arc::new(Notify::new());
    let (stop, stopping) = watch::channel(false);
    let (drain, draining) = watch::channel(false);

    let series = config.vitals.register(Series::new);

    let intake = Intake {
        store: store.clone(),
        site: config.site.clone(),
        trainer: config.trainer.clone(),
        series: series.clone(),
    };
    let service = Service {
        store: store.clone(),
        intake: Arc::new(intake),
        limits: config.limits,
        metrics_url: config.metrics_url,
        signer: config.signer.clone(),
        runs_dir: runs_dir.clone(),
        wake: wake.clone(),
        series: series.clone(),
        stopping: stopping.clone(),
    };
    let descriptors = imprint_proto::FILE_DESCRIPTOR_SET;
    let (standing, beside) =
        imprint_telemetry::standing("orchestrator", SERVICES, descriptors, &config.vitals).await?;
    let mut server = server;
    let server = server
        .add_routes(beside)
        .add_service(
            OrchestratorServer::new(service.clone())
                .max_decoding_message_size(imprint_proto::MAX_MESSAGE_BYTES),
        )
        .add_service(AttemptsServer::new(service))
        .serve_with_incoming_shutdown(incoming, until_true(draining));
    let mut server = tokio::spawn(server);
    let host = host.to_string_lossy().into_owned();
    let trainer = Trainer {
        program: config.trainer,
        environment: config.environment,
        orchestrator_url: url.clone(),
        certificates: config.trainer_certificates,
        signer: config.signer,
        token_lasts: config.limits.run_token,
        runs_dir,
        stages: config.site.stages.clone(),
    };
    let holder = format!("process {} on {host}", std::process::id());
    let scheduler = Scheduler {
        store: store.clone(),
        desks: desks(&config.site, &host, &laboratory, &Arc::new(trainer), &wake),
        rooms: rooms(&config.site),
        lead: Lead::keep(store.clone(), holder, config.limits.lead, wake.clone()),
        limits: config.limits,
        series: series.clone(),
        wake,
    };
    let mut scheduler = tokio::spawn(scheduler.run(stopping));
    tracing::info!("the orchestrator is at {url}");

    let ended_early = tokio::select! {
        () = shutdown => None,
        ended = &mut server => Some(ended.map_err(Error::Broken)?.map_err(Error::Serve)),
        ended = &mut scheduler => Some(ended.map_err(Error::Broken)),
        never = standing.watch(|| store.ready()) => match never {},
        never = series.watch(&store) => match never {},
    };
    if let Some(ended) = ended_early {
        return ended;
    }
    // Trainers say their last words before the server goes.
    stop.send_replace(true);
    scheduler.await.map_err(Error::Broken)?;
    drain.send_replace(true);
    match tokio::time::timeout(DRAIN_WITHIN, &mut server).await {
        Ok(ended) => ended.map_err(Error::Broken)?.map_err(Error::Serve),
        Err(_) => {
            server.abort();
            Ok(())
        }
    }
}

/// The executors of a site, each at work.
fn desks(
    site: &Site,
    host: &str,
    laboratory: &str,
    trainer: &Arc<Trainer>,
    wake: &Arc<Notify>,
) -> BTreeMap<String, Desk> {
    let runs_dir = &trainer.runs_dir;
    let executor = |config: &ExecutorConfig| -> Box<dyn Executor> {
        match config {
            ExecutorConfig::Local(LocalConfig { gpus, .. }) => Box::new(Local::new(
                host.to_owned(),
                gpus.clone(),
                runs_dir.to_owned(),
            )),
            ExecutorConfig::Slurm(slurm) => {
                let (config, laboratory) = ((**slurm).clone(), laboratory.to_owned());
                Box::new(Slurm::new(config, laboratory, runs_dir.to_owned()))
            }
        }
    };
    let desk = |(name, config): (&String, &ExecutorConfig)| {
        let wake = wake.clone();
        let changed = move || wake.notify_one();
        let desk = Desk::new(executor(config), trainer.clone(), changed);
        (name.clone(), desk)
    };
    site.executors.iter().map(desk).collect()
}

/// How much each executor of a site takes.
fn rooms(site: &Site) -> Rooms {
    let room = |config: &ExecutorConfig| match config {
        ExecutorConfig::Local(local) => Room::Slots(local.slots as u32),
        ExecutorConfig::Slurm(slurm) => Room::Queue(slurm.max_jobs),
    };
    let executors = site.executors.iter();
    Rooms {
        executors: executors
            .map(|(name, config)| (name.clone(), room(config)))
            .collect(),
        default: site.default.clone(),
        jobs_per_experiment: site.limits.runs_per_experiment.map(|n| n.get() as usize),
    }
}

/// Where programs of this machine reach a door.
fn own_url(door: &Door) -> Result<String, imprint_access::Error> {
    let (scheme, address) = (door.scheme(), door.address()?);
    Ok(match address.ip() {
        ip if ip.is_unspecified() => format!("{scheme}://127.0.0.1:{}", address.port()),
        _ => format!("{scheme}://{address}"),
    })
}

/// How long calls in progress have when everything else has ended; then they are cut off.
const DRAIN_WITHIN: Duration = Duration::from_secs(5);

async fn until_true(mut flag: watch::Receiver<bool>) {
    // An error says that the sender is gone, which is as good a reason to end.
    let _ = flag.wait_for(|&set| set).await;
}
