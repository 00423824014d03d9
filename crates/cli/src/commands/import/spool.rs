//! `imprint import --format spool`.

use std::path::{Path, absolute};
use std::process::ExitCode;

use imprint_spool::{DeliveryError, ImportError, Imported, import};
use imprint_telemetry::one_line;

use crate::commands::tell;
use crate::failure::{Failure, Kind, Outcome};
use crate::place::Place;

pub(super) async fn run(place: &Place, path: &Path) -> Outcome {
    let path = absolute(path).map_err(Failure::doing(path.display()))?;
    let inner = path.join("spool");
    let spool = if inner.is_dir() { inner } else { path };
    let orchestrator = place.orchestrator()?;
    let url = orchestrator.url.clone();
    let imported = import(&spool, orchestrator, place.metrics()?).await;
    let Imported {
        run_id,
        attempt,
        n_readings,
        n_updates,
        n_states,
    } = imported.map_err(|error| failure(error, &url))?;
    tell(format_args!(
        "run {run_id}, attempt {attempt}: {n_readings} readings, {n_updates} updates and {n_states} \
         saved states are there"
    ))?;
    Ok(ExitCode::SUCCESS)
}

fn failure(error: ImportError, orchestrator_url: &str) -> Failure {
    let line = one_line(&error);
    match error {
        ImportError::Connect(imprint_proto::Error::Unreachable { .. }) | ImportError::Silent => {
            Failure::unreachable(line)
        }
        ImportError::Connect(_) | ImportError::Spool(_) | ImportError::InUse { .. } => {
            Failure::bad_input(line)
        }
        ImportError::Refused(status) => {
            let failure = Failure::of_call(&status, "orchestrator", orchestrator_url);
            match failure.kind() {
                Kind::Unreachable => {
                    Failure::unreachable(format!("{failure}; import again to go on"))
                }
                Kind::Failed | Kind::BadInput => Failure::failed(line),
            }
        }
        ImportError::Delivery(
            DeliveryError::Spool(_) | DeliveryError::Elsewhere { .. } | DeliveryError::Unusable(_),
        ) => Failure::bad_input(line),
        ImportError::Delivery(_) => Failure::failed(line),
    }
}
