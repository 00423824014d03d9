//! `imprint serve`: one role in one process.

use std::future::pending;
use std::net::SocketAddr;
use std::process::ExitCode;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::up::Local;
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
    },
    /// Take experiments, and start, watch and retry the trainers of their runs.
    ///
    /// Trainers deliver to the address that `--metrics` (or IMPRINT_METRICS) names.
    Orchestrator {
        /// Address to listen at.
        #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7432")]
        listen: SocketAddr,
        #[command(flatten)]
        local: Local,
    },
}

pub(crate) async fn run(place: &Place, role: Role) -> Outcome {
    let database = Database::provide(place).await?;
    let store = database.store.clone();
    let stop = CancellationToken::new();
    let served = async {
        match role {
            Role::Metrics { listen } => {
                imprint_metrics::serve(bind(listen).await?, store, stop.clone())
                    .await
                    .map_err(Failure::doing("the metrics service"))
            }
            Role::Orchestrator { listen, local } => {
                let config = imprint_orchestrator::Config {
                    listener: bind(listen).await?,
                    metrics_url: place.metrics_url(),
                    data_dir: place.data_dir(),
                    trainer: local.trainer()?,
                    slots: local.slots(),
                    limits: imprint_orchestrator::Limits::default(),
                };
                imprint_orchestrator::serve(config, store, stop.cancelled())
                    .await
                    .map_err(Failure::doing("the orchestrator"))
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
        () = database.supervise() => Ok(()),
    };
    database.close().await?;
    served.map(|()| ExitCode::SUCCESS)
}

async fn bind(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address)
        .await
        .map_err(|err| Failure::bad_input(format!("--listen {address}: {err}")))
}
