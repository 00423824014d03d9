//! Health that tells the truth: without its database the service can do nothing.

use std::convert::Infallible;
use std::time::Duration;

use imprint_store::Store;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

/// The name of the service in health checks and reflection.
pub(crate) const METRICS: &str = "imprint.v1.Metrics";

const INTERVAL: Duration = Duration::from_secs(1);

/// A database that takes longer to answer nothing is of no use.
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks the database again and again, and reports for the service and for the server as a whole.
pub(crate) async fn watch(store: &Store, reporter: &HealthReporter) -> Infallible {
    let mut reported = None;
    loop {
        let answer = tokio::time::timeout(PATIENCE, store.ping()).await;
        let status = match answer {
            Ok(Ok(())) => ServingStatus::Serving,
            _ => ServingStatus::NotServing,
        };
        if reported.replace(status) != Some(status) {
            for service in [METRICS, ""] {
                reporter.set_service_status(service, status).await;
            }
            match status {
                ServingStatus::Serving => tracing::info!("the database answers"),
                _ => tracing::warn!("the database does not answer; readings wait at the trainers"),
            }
        }
        tokio::time::sleep(INTERVAL).await;
    }
}
