//! The gRPC services: one for people and their programs, one for trainers.

mod attempts;
mod left;
mod logs;
mod nearest;
mod people;
mod watching;

pub(crate) use self::people::to_state;

use std::path::PathBuf;
use std::sync::Arc;

use imprint_access::GrantSigner;
use imprint_store::Store;
use tokio::sync::{Notify, watch};

use crate::Limits;
use crate::series::Series;
use crate::submit::Intake;

/// Both services; cheap to clone.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) store: Store,
    pub(crate) intake: Arc<Intake>,
    pub(crate) limits: Limits,
    pub(crate) metrics_url: String,
    /// Signs what attempts show to the metrics service, where it asks.
    pub(crate) signer: Option<Arc<GrantSigner>>,
    pub(crate) runs_dir: PathBuf,
    pub(crate) series: Series,
    /// Wakes the scheduler.
    pub(crate) wake: Arc<Notify>,
    /// Turns true when the orchestrator shuts down.
    pub(crate) stopping: watch::Receiver<bool>,
}
