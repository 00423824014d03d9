//! `imprint import --format spool`.

use std::path::{Path, absolute};
use std::process::ExitCode;

use imprint_spool::{DeliveryError, ImportError, Imported, import};
use imprint_telemetry::one_line;

use crate::commands::tell;
use crate::failure::{Failure, Outcome};
use crate::place::Place;

pub(super) async fn run(place: &Place, path: &Path) -> Outcome {
    let path = absolute(path).map_err(Failure::doing(path.display()))?;
    let inner = path.join("spool");
    let spool = if inner.is_dir() { inner } else { path };
    let imported = import(&spool, place.orchestrator()?, place.metrics()?).await;
    let Imported {
        run_id,
        attempt,
        n_readings,
        n_updates,
        n_states,
    } = imported.map_err(failure)?;
    tell(format_args!(
        "run {run_id}, attempt {attempt}: {n_readings} readings, {n_updates} updates and {n_states} \
         saved states are there"
    ))?;
    Ok(ExitCode::SUCCESS)
}

#[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` wants")]
fn failure(error: ImportError) -> Failure {
    let line = one_line(&error);
    match error {
        ImportError::Connect(_) | ImportError::Silent => Failure::unreachable(line),
        ImportError::Spool(_) | ImportError::InUse { .. } => Failure::bad_input(line),
        ImportError::Delivery(DeliveryError::Spool(_)) => Failure::bad_input(line),
        ImportError::Delivery(_) | ImportError::Refused(_) => Failure::failed(line),
    }
}
