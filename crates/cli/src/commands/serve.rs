//! `imprint serve`: one role in one process.

use std::future::pending;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use imprint_access::{Door, GrantKeys, GrantSigner, Guard, KeyError, TlsFiles, public_key_of};
use imprint_orchestrator::Site;
use imprint_telemetry::{Options, Vitals, one_line};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::up::Local;
use crate::analyst;
use crate::database::Database;
use crate::failure::{Failure, Outcome};
use crate::place::{METRICS_PORT, ORCHESTRATOR_PORT, Place};
use crate::system::{INTERRUPTED, signalled};

/// Serve one role in this process, where `imprint up` would serve all of them.
///
/// For a cluster: one Postgres (DATABASE_URL), a metrics service and an orchestrator, each where it
/// should be. SIGINT or SIGTERM drains; a second one does not wait.
///
/// Beyond this machine it listens only with a certificate, and asks every caller for a token (see
/// docs/security.md).
///
/// Example: `imprint serve metrics --listen 0.0.0.0:7431 --tls-cert lab.pem --tls-key lab.key`
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
        #[command(flatten)]
        lock: Lock,
        /// Public key of the orchestrator, to check trainers' tokens with (PEM).
        ///
        /// Where absent: token-key.pem.pub of the data directory, where the orchestrator writes it.
        #[arg(long, value_name = "FILE", env = "IMPRINT_TOKEN_KEY_PUB")]
        token_key_pub: Option<PathBuf>,
        /// Steps that one transaction takes at most: it takes what has come, and waits for none.
        #[arg(long, value_name = "N", default_value_t = imprint_metrics::STEPS_PER_COMMIT)]
        steps_per_commit: NonZeroU16,
    },
    /// Take experiments, start, watch and retry the trainers of their runs, and fit what complete
    /// runs show.
    ///
    /// Trainers deliver to the address that `--metrics` (or IMPRINT_METRICS) names.
    Orchestrator {
        /// Address to listen at.
        #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7432")]
        listen: SocketAddr,
        /// Address that trainers are given, such as https://lab.example:7432.
        ///
        /// Where absent: the one it listens at.
        #[arg(long, value_name = "URL", env = "IMPRINT_ADVERTISE")]
        advertise: Option<String>,
        #[command(flatten)]
        lock: Lock,
        /// Key that signs trainers' tokens (PEM); made where there is none.
        ///
        /// Its public half is written beside it, with the ending .pub. Where absent: token-key.pem of
        /// the data directory.
        #[arg(long, value_name = "FILE", env = "IMPRINT_TOKEN_KEY")]
        token_key: Option<PathBuf>,
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

/// What a service asks of whoever calls it.
#[derive(Debug, clap::Args)]
pub(crate) struct Lock {
    /// The service's certificate, then those that lead to a trusted one (PEM).
    #[arg(
        long,
        value_name = "FILE",
        requires = "tls_key",
        env = "IMPRINT_TLS_CERT"
    )]
    tls_cert: Option<PathBuf>,
    /// The key of the certificate (PEM); nobody but its owner may be able to read it.
    #[arg(
        long,
        value_name = "FILE",
        requires = "tls_cert",
        env = "IMPRINT_TLS_KEY"
    )]
    tls_key: Option<PathBuf>,
    /// Certificates of the authority that signs clients' (PEM): those without one are not let in.
    #[arg(
        long,
        value_name = "FILE",
        requires = "tls_cert",
        env = "IMPRINT_CLIENT_CA"
    )]
    client_ca: Option<PathBuf>,
    /// Ask for tokens also where only this machine listens; beyond it they are asked for anyway.
    #[arg(long, env = "IMPRINT_TOKENS")]
    tokens: bool,
    /// Listen beyond this machine without TLS or tokens: whoever reaches the address may do
    /// everything.
    #[arg(long)]
    insecure: bool,
}

impl Lock {
    fn asks_for_tokens(&self, listen: SocketAddr) -> bool {
        self.tokens || (!self.insecure && !listen.ip().is_loopback())
    }

    /// A door at an address, locked as was asked.
    async fn door(&self, listen: SocketAddr, guard: Option<Guard>) -> Result<Door, Failure> {
        let mut door = Door::from(bind("--listen", listen).await?);
        if let (Some(certificate), Some(key)) = (&self.tls_cert, &self.tls_key) {
            door = door.with_tls(TlsFiles {
                certificate: certificate.clone(),
                key: key.clone(),
                client_ca: self.client_ca.clone(),
            });
        }
        if let Some(guard) = guard {
            door = door.with_guard(guard);
        }
        Ok(if self.insecure { door.insecure() } else { door })
    }
}

fn bad_key(error: &KeyError) -> Failure {
    Failure::bad_input(one_line(error))
}

/// Fails where trainers on other machines would be given an address that leads them to themselves.
fn check_addresses(
    site: &Site,
    listen: SocketAddr,
    advertise: Option<&str>,
    metrics_url: &str,
) -> Result<(), Failure> {
    let Some(executor) = site.beyond_this_machine() else {
        return Ok(());
    };
    let orchestrator_url = match advertise {
        Some(url) => url.to_owned(),
        None => format!("http://{listen}"),
    };
    for (option, url, port) in [
        (
            "--advertise (or IMPRINT_ADVERTISE)",
            orchestrator_url.as_str(),
            ORCHESTRATOR_PORT,
        ),
        ("--metrics (or IMPRINT_METRICS)", metrics_url, METRICS_PORT),
    ] {
        if imprint_proto::is_loopback_url(url) {
            return Err(Failure::bad_input(format!(
                "{option}: trainers of the executor `{executor}` run on other machines, and {url} \
                 leads them to themselves: name the address at which they reach this one, such as \
                 https://lab.example:{port} (docs/deploy.md), or say `loopback = true` in the \
                 executor's table of the site file if all its nodes are this machine"
            )));
        }
    }
    Ok(())
}

pub(crate) async fn run(place: &Place, telemetry: &Options, role: Role) -> Outcome {
    // What is wrong with the site file is told before a database is started.
    if let Role::Orchestrator {
        listen,
        advertise,
        local,
        ..
    } = &role
    {
        let (site, metrics_url) = (local.site()?, place.metrics_url());
        check_addresses(&site, *listen, advertise.as_deref(), &metrics_url)?;
    }
    let database = Database::provide(place).await?;
    let store = database.store.clone();
    let stop = CancellationToken::new();
    let vitals = Vitals::default();
    let (Role::Metrics { watched, .. } | Role::Orchestrator { watched, .. }) = &role;
    let served = async {
        match &role {
            Role::Metrics {
                listen,
                lock,
                token_key_pub,
                steps_per_commit,
                ..
            } => {
                let guard = match lock.asks_for_tokens(*listen) {
                    true => {
                        let path = token_key_pub
                            .clone()
                            .unwrap_or_else(|| public_key_of(&place.token_key()));
                        let keys = GrantKeys::of_file(&path).map_err(|e| bad_key(&e))?;
                        Some(Guard::with_tokens(keys, store.clone()))
                    }
                    false => None,
                };
                let door = lock.door(*listen, guard).await?;
                let limits = imprint_metrics::Limits {
                    steps_per_commit: *steps_per_commit,
                    ..Default::default()
                };
                imprint_metrics::serve(door, store, &vitals, limits, stop.clone())
                    .await
                    .map_err(of_metrics)
            }
            Role::Orchestrator {
                listen,
                advertise,
                lock,
                token_key,
                local,
                ..
            } => {
                let signer = match lock.asks_for_tokens(*listen) {
                    true => {
                        let path = token_key.clone().unwrap_or_else(|| place.token_key());
                        let signer = GrantSigner::of_file(&path).map_err(|e| bad_key(&e))?;
                        Some(Arc::new(signer))
                    }
                    false => None,
                };
                let guard = signer
                    .as_ref()
                    .map(|signer| Guard::with_tokens(signer.keys(), store.clone()));
                let config = imprint_orchestrator::Config {
                    door: lock.door(*listen, guard).await?,
                    url: advertise.clone(),
                    signer,
                    trainer_certificates: place.certificates(),
                    metrics_url: place.metrics_url(),
                    data_dir: place.data_dir(),
                    trainer: local.trainer()?,
                    site: local.site()?,
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
                served.map_err(of_orchestrator)
            }
        }
    };
    let interrupted = async {
        signalled().await?;
        tracing::info!("draining; Ctrl-C again does not wait");
        stop.cancel();
        signalled().await
    };
    let served = tokio::select! {
        served = served => served,
        interrupted = interrupted => match interrupted {
            Ok(()) => {
                tracing::warn!("ended without draining");
                return Ok(ExitCode::from(INTERRUPTED));
            }
            Err(failure) => Err(failure),
        },
        served = watched.serve(vitals.clone()) => served,
        () = database.supervise() => Ok(()),
    };
    database.close().await?;
    served.map(|()| ExitCode::SUCCESS)
}

/// A door that cannot be opened is the user's to mend.
fn of_metrics(error: imprint_metrics::Error) -> Failure {
    match error {
        imprint_metrics::Error::Door { source } => Failure::bad_input(one_line(&source)),
        other => Failure::doing("the metrics service")(other),
    }
}

fn of_orchestrator(error: imprint_orchestrator::Error) -> Failure {
    match error {
        imprint_orchestrator::Error::Door(source) => Failure::bad_input(one_line(&source)),
        other => Failure::doing("the orchestrator")(other),
    }
}

async fn bind(option: &str, address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address)
        .await
        .map_err(|err| Failure::bad_input(format!("{option} {address}: {err}")))
}
