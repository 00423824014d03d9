//! Everything on this machine: the database, the metrics service and the orchestrator, in one
//! process.

use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use imprint_access::{Door, GrantSigner, Guard, NewUserToken, Scope};
use imprint_orchestrator::{Site, TrainerCertificates};
use imprint_store::Store;
use imprint_telemetry::Vitals;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::analyst;
use crate::database::{Database, psql_line_to_show};
use crate::failure::Failure;
use crate::place::{METRICS_PORT, ORCHESTRATOR_PORT, Place, Services, VITALS_PORT};

/// Exit code of a service that was interrupted while it drained.
pub(crate) const INTERRUPTED: u8 = 130;

/// What a laboratory on one machine may use.
pub(crate) struct Setup {
    pub(crate) trainer: PathBuf,
    pub(crate) site: Site,
    /// Ask every caller for a token; clients of the place find theirs in the data directory.
    pub(crate) tokens: bool,
    /// Try the well-known ports first; else any free ones will do.
    pub(crate) well_known_ports: bool,
    /// What trainers are told in their environment.
    pub(crate) environment: Vec<(&'static str, String)>,
}

/// A laboratory that runs; clients of its place find it.
pub(crate) struct System {
    place: Place,
    services: Services,
    psql_line: String,
    database: Arc<Database>,
    supervisor: JoinHandle<()>,
    metrics: Role,
    orchestrator: Role,
    vitals: Role,
    vitals_url: String,
    analyst: Role,
}

/// A service in a task of its own.
struct Role {
    /// `None` when it was seen to have ended.
    task: Option<JoinHandle<Result<(), Failure>>>,
    stop: CancellationToken,
}

impl Role {
    fn start<F>(serve: impl FnOnce(CancellationToken) -> F) -> Self
    where
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        let stop = CancellationToken::new();
        let task = Some(tokio::spawn(serve(stop.clone())));
        Self { task, stop }
    }

    /// Ends when the service does, which it should not while nobody stops it.
    async fn ended(&mut self) -> Failure {
        let Some(task) = &mut self.task else {
            return std::future::pending().await;
        };
        let ended = flatten(task.await);
        self.task = None;
        ended
            .err()
            .unwrap_or_else(|| Failure::failed("a service ended by itself"))
    }

    async fn stop(self) -> Result<(), Failure> {
        self.stop.cancel();
        match self.task {
            Some(task) => flatten(task.await),
            None => Ok(()),
        }
    }
}

fn flatten(ended: Result<Result<(), Failure>, JoinError>) -> Result<(), Failure> {
    ended.unwrap_or_else(|broken| Err(Failure::failed(format!("a service broke: {broken}"))))
}

impl System {
    /// Starts everything for a place, and writes the addresses where its clients look for them.
    ///
    /// # Errors
    /// When it runs already, or a part of it does not start.
    pub(crate) async fn start(place: &Place, setup: Setup) -> Result<Self, Failure> {
        let data_dir = place.data_dir();
        if let Some(services) = Services::load(&data_dir)
            && imprint_proto::connect("orchestrator", &services.orchestrator)
                .await
                .is_ok()
        {
            return Err(Failure::bad_input(format!(
                "`imprint up` runs already for {} (process {}, orchestrator at {})",
                data_dir.display(),
                services.pid,
                services.orchestrator
            )));
        }
        let database = Arc::new(Database::provide(place).await?);
        let supervisor = {
            let database = database.clone();
            tokio::spawn(async move { database.supervise().await })
        };
        let well_known = |port| if setup.well_known_ports { port } else { 0 };
        let (metrics_listener, metrics_url) = listen(well_known(METRICS_PORT)).await?;
        let (listener, orchestrator_url) = listen(well_known(ORCHESTRATOR_PORT)).await?;
        let (vitals_listener, vitals_url) = listen(well_known(VITALS_PORT)).await?;
        let vitals = Vitals::default();
        let signer = match setup.tokens {
            true => Some(Arc::new(lock_up(place, &database.store).await?)),
            false => None,
        };
        let locked = |listener: TcpListener| match &signer {
            Some(signer) => Door::from(listener)
                .with_guard(Guard::with_tokens(signer.keys(), database.store.clone())),
            None => listener.into(),
        };
        let (metrics_door, door) = (locked(metrics_listener), locked(listener));
        let metrics = {
            let (store, vitals) = (database.store.clone(), vitals.clone());
            Role::start(async move |stop| {
                let served = imprint_metrics::serve(
                    metrics_door,
                    store,
                    &vitals,
                    imprint_metrics::Limits::default(),
                    stop,
                )
                .await;
                served.map_err(Failure::doing("the metrics service"))
            })
        };
        let orchestrator = {
            let config = imprint_orchestrator::Config {
                door,
                url: None,
                signer,
                trainer_certificates: TrainerCertificates::default(),
                metrics_url: metrics_url.clone(),
                data_dir: data_dir.clone(),
                trainer: setup.trainer,
                site: setup.site,
                environment: setup.environment,
                limits: imprint_orchestrator::Limits::default(),
                vitals: vitals.clone(),
            };
            let store = database.store.clone();
            Role::start(async move |stop| {
                let served =
                    imprint_orchestrator::serve(config, store, stop.cancelled_owned()).await;
                served.map_err(Failure::doing("the orchestrator"))
            })
        };
        let vitals = Role::start(async move |stop| {
            let served = vitals.serve(vitals_listener, stop.cancelled_owned());
            served
                .await
                .map_err(Failure::doing("the port for Prometheus"))
        });
        let analyst = {
            let store = database.store.clone();
            Role::start(async move |stop| {
                analyst::serve(&store, stop).await;
                Ok(())
            })
        };
        let services = Services {
            pid: std::process::id(),
            metrics: metrics_url,
            orchestrator: orchestrator_url,
        };
        services.save(&data_dir)?;
        Ok(Self {
            place: place.clone(),
            services,
            psql_line: match place.database_url() {
                Some(url) => psql_line_to_show(url),
                None => database.psql_line.clone(),
            },
            database,
            supervisor,
            metrics,
            orchestrator,
            vitals,
            vitals_url,
            analyst,
        })
    }

    pub(crate) fn services(&self) -> &Services {
        &self.services
    }

    /// Where `/metrics` and `/healthz` are.
    pub(crate) fn vitals_url(&self) -> &str {
        &self.vitals_url
    }

    /// A shell command that opens the database in psql; it holds no password.
    pub(crate) fn psql_line(&self) -> &str {
        &self.psql_line
    }

    /// Ends when a part of the system does.
    pub(crate) async fn broken(&mut self) -> Failure {
        tokio::select! {
            failure = self.metrics.ended() => failure,
            failure = self.orchestrator.ended() => failure,
            failure = self.vitals.ended() => failure,
            failure = self.analyst.ended() => failure,
        }
    }

    /// Lets the trainers save and deliver, then stops the services and the private database.
    ///
    /// # Errors
    /// When a part does not stop as it should; the others are stopped all the same.
    pub(crate) async fn stop(self) -> Result<(), Failure> {
        let removed = Services::remove(&self.place.data_dir());
        // The trainers' last readings still go to the metrics service.
        let analyst = self.analyst.stop().await;
        let orchestrator = self.orchestrator.stop().await;
        let metrics = self.metrics.stop().await;
        let vitals = self.vitals.stop().await;
        self.supervisor.abort();
        let _ = self.supervisor.await;
        let database = match Arc::into_inner(self.database) {
            Some(database) => database.close().await,
            None => Ok(()),
        };
        removed
            .and(analyst)
            .and(orchestrator)
            .and(metrics)
            .and(vitals)
            .and(database)
    }
}

/// Listens on the loopback interface, at another port where this one is taken.
async fn listen(port: u16) -> Result<(TcpListener, String), Failure> {
    let bound = match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
        Err(err) if err.kind() == ErrorKind::AddrInUse => {
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await
        }
        other => other,
    };
    let listener = bound.map_err(Failure::doing("listen on 127.0.0.1"))?;
    let address = listener
        .local_addr()
        .map_err(Failure::doing("listen on 127.0.0.1"))?;
    Ok((listener, format!("http://{address}")))
}

/// The key that signs trainers' tokens; a new token for the place's clients lies in its file.
async fn lock_up(place: &Place, store: &Store) -> Result<GrantSigner, Failure> {
    let path = place.token_key();
    let signer =
        GrantSigner::of_file(&path).map_err(Failure::doing(format_args!("{}", path.display())))?;
    let name = format!("imprint up, {}", place.data_dir().display());
    store.revoke_token(&name).await?;
    let token = NewUserToken::generate();
    store
        .create_token(&name, &token.sha256, &Scope::ALL, None)
        .await?;
    let path = place.own_token_file();
    token
        .secret
        .replace(&path)
        .map_err(Failure::doing("leave a token for clients"))?;
    Ok(signer)
}

/// Ends at SIGINT (Ctrl-C) or SIGTERM.
///
/// # Errors
/// When signals cannot be listened to.
pub(crate) async fn signalled() -> Result<(), Failure> {
    let listen = |kind| signal(kind).map_err(Failure::doing("listen to signals"));
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}
