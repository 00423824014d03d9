//! The spool: what an attempt has to say, in files next to its saved states, until it is delivered.
//!
//! Training appends and never waits for the network; delivery reads behind it.
//! A spool is a directory of segments (`000000.spool`, `000001.spool`, …).
//! A segment is a magic, then records of `length, CRC-32, protobuf`; its first record is the `Open`
//! of the attempt's stream, so that a segment says by itself what it belongs to.
//! A segment is synced before the next one begins: only the last can have a tail that a crash tore,
//! and that is cut; a bad record with a sound one behind it is damage.
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

use std::path::{Component, Path};

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

/// Ends the name of a state that is being written or deleted.
pub const UNFINISHED: &str = "unfinished";

/// Deletes a saved state's directory, if it lies where this run's states lie.
///
/// Renamed first: one that was not deleted to the end cannot be taken for a state.
pub fn delete_state(run_dir: &Path, path: &str) {
    let path = Path::new(path);
    if !is_state(run_dir, path) {
        return tracing::error!(
            "not deleting {}: it is no state below {}",
            path.display(),
            run_dir.display()
        );
    }
    let going = path.with_extension(UNFINISHED);
    if let Err(e) = std::fs::rename(path, &going).and_then(|()| std::fs::remove_dir_all(&going))
        && e.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!("cannot delete the obsolete state {}: {e}", path.display());
    }
}

/// Whether a path is `attempts/<number>/states/<name>` of a run: it comes from a service.
fn is_state(run_dir: &Path, path: &Path) -> bool {
    let Ok(below) = path.strip_prefix(run_dir) else {
        return false;
    };
    let names: Option<Vec<&str>> = (below.components())
        .map(|c| match c {
            Component::Normal(name) => name.to_str(),
            _ => None,
        })
        .collect();
    matches!(names.as_deref(), Some(["attempts", _, "states", _]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_states_of_the_run_are_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let run_dir = dir.path().join("7");
        let state = run_dir.join("attempts/1/states/step-3");
        let kept = ["7/attempts/1/spool/x", "8/attempts/1/states/step-3"];
        for path in kept.map(|p| dir.path().join(p)).iter().chain([&state]) {
            std::fs::create_dir_all(path).unwrap();
        }
        for other in [
            "7/attempts/1/spool",
            "7/attempts",
            "8/attempts/1/states/step-3",
            "7/attempts/../../8/attempts/1/states/step-3",
            "7/attempts/1/states/..",
        ] {
            delete_state(&run_dir, dir.path().join(other).to_str().unwrap());
        }
        assert!(state.exists());
        assert!(kept.iter().all(|p| dir.path().join(p).exists()));
        delete_state(&run_dir, state.to_str().unwrap());
        assert!(!state.exists());
        assert_eq!(
            std::fs::read_dir(state.parent().unwrap()).unwrap().count(),
            0
        );
    }
}
