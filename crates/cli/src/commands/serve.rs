//! `imprint serve`: one role in one process.

use std::future::pending;
use std::net::SocketAddr;
use std::process::ExitCode;

use imprint_telemetry::{Options, Vitals};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::up::Local;
use crate::analyst;
use crate::database::Database;
use crate::failure::{Failure, Outcome};
use crate::place::Place;
use crate::system::signalled;

/// Serve one role in this process, where `imprint up` would serve all of them.
///
/// For a cluster: one Postgres (DATABASE_URL), a metrics service and an orchestrator, each where it
/// should be. SIGINT or SIGTERM drains.
///
/// Example: `imprint serve metrics --listen 0.0.0.0:7431`
#[derive(Debug, clap::Subcommand)]
#[command(verbatim_doc_comment)]
pub(crate) enum Role {
    /// Take readings in, make them durable, answer for them.
    Metrics {
        /// Address to listen at.
        #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7431")]
        listen: SocketAddr,
        #[command(flatten)]
        watched: Watched,
    },
    /// Take experiments, start, watch and retry the trainers of their runs, and fit what complete
    /// runs show.
    ///
    /// Trainers deliver to the address that `--metrics` (or IMPRINT_METRICS) names.
    Orchestrator {
        /// Address to listen at.
        #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7432")]
        listen: SocketAddr,
        #[command(flatten)]
        local: Local,
        #[command(flatten)]
        watched: Watched,
    },
}

/// Where a service shows how it fares.
#[derive(Debug, clap::Args)]
pub(crate) struct Watched {
    /// Loopback address at which Prometheus finds `/metrics`, and others `/healthz`; where absent,
    /// there is none.
    #[arg(long, value_name = "HOST:PORT")]
    prometheus_listen: Option<SocketAddr>,
}

impl Watched {
    /// Serves the port until the future is dropped; without one, does nothing for ever.
    async fn serve(&self, vitals: Vitals) -> Result<(), Failure> {
        let Some(address) = self.prometheus_listen else {
            return pending().await;
        };
        if !address.ip().is_loopback() {
            return Err(Failure::bad_input(format!(
                "--prometheus-listen {address}: this port has neither TLS nor tokens: give it a \
                 loopback address, and put a proxy before it"
            )));
        }
        let listener = bind("--prometheus-listen", address).await?;
        let served = vitals.serve(listener, pending());
        served
            .await
            .map_err(Failure::doing("the port for Prometheus"))
    }
}

pub(crate) async fn run(place: &Place, telemetry: &Options, role: Role) -> Outcome {
    let database = Database::provide(place).await?;
    let store = database.store.clone();
    let stop = CancellationToken::new();
    let vitals = Vitals::default();
    let (Role::Metrics { watched, .. } | Role::Orchestrator { watched, .. }) = &role;
    let served = async {
        match &role {
            Role::Metrics { listen, .. } => {
                let listener = bind("--listen", *listen).await?;
                imprint_metrics::serve(listener, store, &vitals, stop.clone())
                    .await
                    .map_err(Failure::doing("the metrics service"))
            }
            Role::Orchestrator { listen, local, .. } => {
                let config = imprint_orchestrator::Config {
                    listener: bind("--listen", *listen).await?,
                    metrics_url: place.metrics_url(),
                    data_dir: place.data_dir(),
                    trainer: local.trainer()?,
                    slots: local.slots(),
                    environment: telemetry.environment(),
                    limits: imprint_orchestrator::Limits::default(),
                    vitals: vitals.clone(),
                };
                let analyst = {
                    let (store, stop) = (store.clone(), stop.clone());
                    tokio::spawn(async move { analyst::serve(&store, stop).await })
                };
                let served = imprint_orchestrator::serve(config, store, stop.cancelled()).await;
                analyst.abort();
                served.map_err(Failure::doing("the orchestrator"))
            }
        }
    };
    let stopped = async {
        let signalled = signalled().await;
        stop.cancel();
        match signalled {
            // The service ends when it has drained.
            Ok(()) => pending().await,
            Err(failure) => Err(failure),
        }
    };
    let served = tokio::select! {
        served = served => served,
        stopped = stopped => stopped,
        served = watched.serve(vitals.clone()) => served,
        () = database.supervise() => Ok(()),
    };
    database.close().await?;
    served.map(|()| ExitCode::SUCCESS)
}

async fn bind(option: &str, address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address)
        .await
        .map_err(|err| Failure::bad_input(format!("{option} {address}: {err}")))
}
