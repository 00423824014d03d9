//! Import: tells the services later what an attempt could not tell them at the time.

use std::path::{Path, PathBuf};
use std::time::Duration;

use imprint_proto::pb::{self, attempts_client::AttemptsClient};
use imprint_proto::{Target, answer};
use tokio::sync::watch;
use tonic::{Code, Status};

use crate::{Cursors, Delivery, DeliveryError, Record, SpoolReader};

/// How long nothing may be acknowledged before the service counts as gone.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error(transparent)]
    Spool(#[from] crate::Error),
    #[error("a trainer still writes {path}; import it when that has ended")]
    InUse { path: PathBuf },
    #[error(transparent)]
    Connect(#[from] imprint_proto::Error),
    #[error(transparent)]
    Delivery(#[from] DeliveryError),
    #[error("nothing was acknowledged for {PATIENCE:?}; import again to go on")]
    Silent,
    #[error("the orchestrator says: {}", .0.message())]
    Refused(Status),
}

/// What was imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    pub run_id: i32,
    pub attempt: u32,
    /// Readings and updates that the spool holds, those included that were stored already.
    pub n_readings: u32,
    pub n_updates: u32,
    /// Saved states that were recorded.
    pub n_states: u32,
}

/// What a spool says besides readings and updates.
#[derive(Default)]
struct Said {
    n_readings: u32,
    n_updates: u32,
    settled: Option<pb::SettleRunRequest>,
    states: Vec<pb::RecordStateRequest>,
    end: Option<pb::EndAttemptRequest>,
}

/// Tells the services everything that the spool of a trainer that has ended says: readings and
/// updates, what it settled, its saved states, how it ended.
///
/// Doing it again changes nothing. A trainer that was killed could not say how it ended; its run is
/// queued again and resumes from its last state.
///
/// # Errors
/// When a later attempt has the run, the spool is damaged, or a service does not answer.
pub async fn import(
    dir: &Path,
    orchestrator: Target,
    metrics: Target,
) -> Result<Imported, ImportError> {
    let reader = SpoolReader::open(dir)?;
    if reader.is_being_written()? {
        return Err(ImportError::InUse {
            path: dir.to_owned(),
        });
    }
    let header = reader.header().clone();
    let said = said(reader)?;
    imprint_proto::connect("metrics", metrics.clone()).await?;
    let orchestrator = imprint_proto::connect("orchestrator", orchestrator).await?;
    deliver(dir, &header, metrics).await?;

    let imported = Imported {
        run_id: header.run_id,
        attempt: header.attempt,
        n_readings: said.n_readings,
        n_updates: said.n_updates,
        n_states: said.states.len() as u32,
    };
    let mut client = AttemptsClient::new(orchestrator);
    if let Some(settled) = said.settled {
        match answer("orchestrator", client.settle_run(settled)).await {
            Ok(_) => {}
            // It has said everything itself but for the readings.
            Err(status) if status.code() == Code::Aborted => return Ok(imported),
            Err(status) => return Err(ImportError::Refused(status)),
        }
    }
    // Recorded paths lead through no links.
    let whole = dir.canonicalize().ok();
    let run_dir = whole.as_deref().and_then(|dir| dir.ancestors().nth(3));
    for state in said.states {
        let recorded = answer("orchestrator", client.record_state(state)).await;
        let recorded = recorded.map_err(ImportError::Refused)?;
        for obsolete in recorded.obsolete {
            if let Some(run_dir) = run_dir {
                crate::delete_state(run_dir, &obsolete.path);
            }
        }
    }
    let end = said.end.unwrap_or_else(|| pb::EndAttemptRequest {
        run_id: header.run_id,
        attempt: header.attempt,
        outcome: pb::AttemptOutcome::Stopped.into(),
        reason: "its trainer ended without a word".to_owned(),
        step: imported.n_updates.max(header.resume_step),
    });
    answer("orchestrator", client.end_attempt(end))
        .await
        .map_err(ImportError::Refused)?;
    Ok(imported)
}

fn said(mut reader: SpoolReader) -> Result<Said, ImportError> {
    let extent = reader.abandoned_extent()?;
    let mut said = Said::default();
    while let Some(record) = reader.next(extent)? {
        match record {
            Record::Open(_) => {}
            Record::Reading(_) => said.n_readings += 1,
            Record::Update(_) => said.n_updates += 1,
            Record::Settled(settled) => said.settled = Some(settled),
            Record::State(state) => said.states.push(state),
            Record::End(end) => said.end = Some(end),
        }
    }
    // The trainer keeps the newest; what it deleted cannot be resumed from.
    said.states.retain(|s| {
        let path = s.state.as_ref().map(|s| Path::new(&s.path));
        path.is_some_and(Path::is_dir)
    });
    Ok(said)
}

async fn deliver(dir: &Path, header: &pb::Open, metrics: Target) -> Result<(), ImportError> {
    let extent = SpoolReader::open(dir)?.abandoned_extent()?;
    let (durable, mut acknowledged) = watch::channel(Cursors::default());
    let delivery = Delivery {
        metrics,
        open: header.clone(),
        spool: dir.to_owned(),
        extent: watch::channel(extent).1,
        durable,
    };
    let silence = async {
        while let Ok(Ok(())) = tokio::time::timeout(PATIENCE, acknowledged.changed()).await {}
    };
    tokio::select! {
        delivered = delivery.run() => Ok(delivered?),
        () = silence => Err(ImportError::Silent),
    }
}

#[cfg(test)]
mod tests;
