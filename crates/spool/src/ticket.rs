//! Tickets: an attempt that was begun where the orchestrator can be reached, for a process that cannot.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use imprint_proto::pb;
use prost::Message as _;

#[derive(Debug, thiserror::Error)]
pub enum TicketError {
    #[error("{doing} the ticket {path}: {source}")]
    Io {
        doing: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{path} is no ticket; `imprint take` writes one")]
    NotATicket { path: PathBuf },
}

/// Writes a ticket that only its owner can read.
///
/// # Errors
/// When the file is there already or cannot be written.
pub fn write_ticket(
    path: &Path,
    run_id: i32,
    mut begun: pb::BeginAttemptResponse,
) -> Result<(), TicketError> {
    // Whoever works offline shows it to nobody, and it would have ended before the import.
    begun.attempt_token.clear();
    let ticket = pb::Ticket {
        run_id,
        begun: Some(begun),
    };
    File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(&ticket.encode_to_vec()))
        .map_err(|source| TicketError::Io {
            doing: "write",
            path: path.to_owned(),
            source,
        })
}

/// The run and attempt of a ticket.
///
/// # Errors
/// When the file is none.
pub fn read_ticket(path: &Path) -> Result<(i32, pb::BeginAttemptResponse), TicketError> {
    let bytes = std::fs::read(path).map_err(|source| TicketError::Io {
        doing: "read",
        path: path.to_owned(),
        source,
    })?;
    match pb::Ticket::decode(bytes.as_slice()) {
        Ok(pb::Ticket {
            run_id,
            begun: Some(begun),
        }) => Ok((run_id, begun)),
        _ => Err(TicketError::NotATicket {
            path: path.to_owned(),
        }),
    }
}
