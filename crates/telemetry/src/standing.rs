//! What every gRPC server has beside its own services: health that tells the truth, and reflection.

use std::convert::Infallible;
use std::time::Duration;

use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tonic_reflection::server::Builder as Reflection;

use crate::{Error, Vitals, one_line};

/// How often a role is asked whether it can do its work.
const INTERVAL: Duration = Duration::from_secs(1);

/// A database that takes longer to answer next to nothing is of no use.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether a role can do its work, as it is told to clients, to the log and at the port.
#[derive(Debug)]
pub struct Standing {
    role: &'static str,
    services: &'static [&'static str],
    reporter: HealthReporter,
    vitals: Vitals,
}

/// A role's standing, and the gRPC services for health checks and reflection to serve beside its
/// own `services`, which are named in full and described by `descriptors`.
///
/// Until the standing is watched, none of them serves.
///
/// # Errors
/// When the descriptors cannot be read.
pub async fn standing(
    role: &'static str,
    services: &'static [&'static str],
    descriptors: &'static [u8],
    vitals: &Vitals,
) -> Result<(Standing, Routes), Error> {
    let reflection = || {
        services.iter().fold(
            Reflection::configure()
                .register_encoded_file_descriptor_set(descriptors)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                // Files may describe services that others offer.
                .with_service_name("grpc.health.v1.Health"),
            |builder, service| builder.with_service_name(*service),
        )
    };
    let described = |source| Error::Reflection { source };
    let (reporter, health) = tonic_health::server::health_reporter();
    let standing = Standing {
        role,
        services,
        reporter,
        vitals: vitals.clone(),
    };
    standing.tell(&Err("it starts".to_owned())).await;
    let routes = Routes::new(health)
        .add_service(reflection().build_v1().map_err(described)?)
        // Clients of other languages still ask in this version.
        .add_service(reflection().build_v1alpha().map_err(described)?);
    Ok((standing, routes))
}

impl Standing {
    /// Asks again and again whether the role can do its work, and tells it wherever it is watched.
    ///
    /// `check` says why not; when that changes, it is logged.
    pub async fn watch<C, E>(&self, check: impl Fn() -> C) -> Infallible
    where
        C: Future<Output = Result<(), E>>,
        E: std::error::Error,
    {
        let mut told = None;
        loop {
            let health = match tokio::time::timeout(PATIENCE, check()).await {
                Ok(health) => health.map_err(|e| one_line(&e)),
                Err(_) => Err(format!("the database does not answer within {PATIENCE:?}")),
            };
            if told.as_ref() != Some(&health) {
                self.tell(&health).await;
                match &health {
                    Ok(()) => tracing::info!("{}: serving", self.role),
                    Err(why) => tracing::warn!("{}: not serving: {why}", self.role),
                }
                told = Some(health);
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    async fn tell(&self, health: &Result<(), String>) {
        let status = match health {
            Ok(()) => ServingStatus::Serving,
            Err(_) => ServingStatus::NotServing,
        };
        // The empty name is the server as a whole.
        for service in self.services.iter().chain(&[""]) {
            self.reporter.set_service_status(*service, status).await;
        }
        self.vitals.note(self.role, health.clone());
    }
}
