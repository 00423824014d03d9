//! The spool: what an attempt has to say, in files next to its saved states, until it is delivered.
//!
//! Training appends and never waits for the network; delivery reads behind it.
//! A spool is a directory of segments (`000000.spool`, `000001.spool`, …).
//! A segment is a magic, then records of `length, CRC-32, protobuf`; its first record is the `Open`
//! of the attempt's stream, so that a segment says by itself what it belongs to.
//! A segment is synced before the next one begins: only the last can have a tail that a crash tore,
//! and that is cut.
//!
//! An attempt that resumes begins its spool with what its predecessor measured and could not
//! deliver, so a spool alone holds everything that is not durable up to its end.

mod delivery;
mod import;
mod resume;
mod segments;
mod ticket;

pub use delivery::{Delivery, Error as DeliveryError};
pub use import::{ImportError, Imported, import};
pub use resume::{ResumePoint, spool_dir};
pub use segments::{Between, Error, Extent, SpoolReader, SpoolWriter};
pub use ticket::{TicketError, read_ticket, write_ticket};

use std::path::Path;

pub use imprint_proto::pb::spool_record::Record;

/// Where a run's stream stands: readings by index, updates by step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursors {
    pub reading: u32,
    pub update: u32,
}

impl Cursors {
    /// Whether everything below `other` is below these too.
    pub fn reach(self, other: Self) -> bool {
        self.reading >= other.reading && self.update >= other.update
    }
}

/// Deletes a saved state's directory, if it lies where this run's states lie.
pub fn delete_state(run_dir: &Path, path: &str) {
    let path = Path::new(path);
    if !path.starts_with(run_dir.join("attempts")) {
        return tracing::error!(
            "not deleting {}: it is outside {}",
            path.display(),
            run_dir.display()
        );
    }
    if let Err(e) = std::fs::remove_dir_all(path)
        && e.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!("cannot delete the obsolete state {}: {e}", path.display());
    }
}
