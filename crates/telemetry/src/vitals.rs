//! The port of a process: `/metrics` for Prometheus, `/healthz` for whoever restarts what is broken.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const TEXT_TYPE: &str = "text/plain; charset=utf-8";

/// What a process shows to those who watch it; all clones are one.
///
/// The number of series is fixed when roles register theirs: labels are enumerations, never a run,
/// an experiment or a client.
#[derive(Clone, Debug, Default)]
pub struct Vitals(Arc<Shown>);

#[derive(Debug)]
struct Shown {
    registry: Mutex<Registry>,
    /// Of each role, why it cannot do its work, if it cannot.
    roles: Mutex<BTreeMap<&'static str, Result<(), String>>>,
    database_up: Family<OfRole, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRole {
    role: &'static str,
}

impl Default for Shown {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("imprint");
        let database_up = Family::<OfRole, Gauge>::default();
        registry.register(
            "database_up",
            "Whether the role's database answers, can be written, and has this program's schema",
            database_up.clone(),
        );
        Self {
            registry: Mutex::new(registry),
            roles: Mutex::default(),
            database_up,
        }
    }
}

impl Vitals {
    /// Makes and registers series, whose names are prefixed with `imprint_`.
    pub fn register<T>(&self, make: impl FnOnce(&mut Registry) -> T) -> T {
        make(&mut locked(&self.0.registry))
    }

    /// Notes whether a role can do its work, or why it cannot.
    pub(crate) fn note(&self, role: &'static str, health: Result<(), String>) {
        self.0
            .database_up
            .get_or_create(&OfRole { role })
            .set(i64::from(health.is_ok()));
        locked(&self.0.roles).insert(role, health);
    }

    /// Answers at a port until `shutdown`.
    ///
    /// `/metrics` is in the OpenMetrics text format. `/healthz` has a line for each role, and the
    /// status 503 when one of them cannot do its work.
    ///
    /// # Errors
    /// When connections can no longer be taken.
    pub async fn serve(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let router = Router::new()
            .route("/metrics", get(metrics))
            .route("/healthz", get(healthz))
            .with_state(self);
        axum::serve(listener, router)
            .with_graceful_shutdown(shutdown)
            .await
    }
}

async fn metrics(State(vitals): State<Vitals>) -> impl IntoResponse {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &locked(&vitals.0.registry)) {
        Ok(()) => (StatusCode::OK, [(header::CONTENT_TYPE, METRICS_TYPE)], text),
        // A string takes everything; a series that cannot be written is our mistake.
        Err(e) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            [(header::CONTENT_TYPE, TEXT_TYPE)],
            e.to_string(),
        ),
    }
}

async fn healthz(State(vitals): State<Vitals>) -> impl IntoResponse {
    let roles = locked(&vitals.0.roles);
    let status = match roles.values().all(Result::is_ok) {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let text = roles
        .iter()
        .fold(String::new(), |mut text, (role, health)| {
            let _ = match health {
                Ok(()) => writeln!(text, "{role}: serving"),
                Err(why) => writeln!(text, "{role}: not serving: {why}"),
            };
            text
        });
    (status, [(header::CONTENT_TYPE, TEXT_TYPE)], text)
}

/// Nothing that is done under these locks leaves half of anything behind.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
