//! Where an attempt goes on, and what it begins its spool with.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use imprint_proto::pb;

use crate::{Cursors, Error, SpoolReader, SpoolWriter};

/// The directory of an attempt's spool.
pub fn spool_dir(run_dir: &Path, attempt: u32) -> PathBuf {
    run_dir
        .join("attempts")
        .join(attempt.to_string())
        .join("spool")
}

/// Where an attempt goes on: at a saved state, or at the run's beginning.
#[derive(Debug)]
pub struct ResumePoint<'a, S> {
    /// The recorded state, and what opening it gave.
    pub state: Option<(&'a pb::SavedState, S)>,
    /// The first step that this attempt measures itself.
    pub step: u32,
    /// At most `step`: what is stored from there on is superseded.
    pub deliver_from: u32,
    undelivered: Option<Undelivered>,
}

/// A part of an earlier attempt's spool, which is there: measured before the state, and either not
/// stored, or stored by another line of attempts.
#[derive(Debug)]
struct Undelivered {
    spool: PathBuf,
    from: Cursors,
    to: Cursors,
}

impl<'a, S> ResumePoint<'a, S> {
    /// The newest recorded state that `open_state` finds sound and below which every reading is
    /// durable or in a spool on this machine; the run's beginning where there is none.
    pub fn find<E: Display>(
        begun: &'a pb::BeginAttemptResponse,
        reading_steps: &[u32],
        open_state: impl Fn(&'a pb::SavedState) -> Result<S, E>,
    ) -> Self {
        let mut states: Vec<_> = begun.states.iter().collect();
        states.sort_by_key(|s| std::cmp::Reverse((s.attempt, s.step)));
        for state in states {
            let (deliver_from, undelivered) = match undelivered_below(begun, state, reading_steps) {
                Ok(found) => found,
                Err(e) => {
                    tracing::warn!("{e}; trying an older state");
                    continue;
                }
            };
            match open_state(state) {
                Ok(opened) => {
                    tracing::info!(
                        "resuming at step {} of attempt {}",
                        state.step,
                        state.attempt
                    );
                    return Self {
                        state: Some((state, opened)),
                        step: state.step,
                        deliver_from,
                        undelivered,
                    };
                }
                Err(e) => tracing::warn!("{e:#}; trying an older state"),
            }
        }
        Self {
            state: None,
            step: 0,
            deliver_from: 0,
            undelivered: None,
        }
    }

    /// The spool of the attempt that goes on here, beginning with what its line of attempts has
    /// measured and not delivered.
    ///
    /// # Errors
    /// When the attempt has a spool already, or one of the two cannot be read or written.
    pub fn begin_spool(&self, run_dir: &Path, open: &pb::Open) -> Result<SpoolWriter, Error> {
        let mut spool = SpoolWriter::create(&spool_dir(run_dir, open.attempt), open)?;
        if let Some(u) = &self.undelivered {
            for record in SpoolReader::open(&u.spool)?.between(u.from, u.to) {
                spool.append(record?)?;
            }
        }
        Ok(spool)
    }
}

/// From which step on an attempt has to deliver when it resumes at a state, and what of that was
/// measured before the state.
///
/// What is stored may be of another line of attempts than the state: of one that was left because
/// its states could not be used, or of the one before an attempt that never reached the metrics
/// service.
/// From where the lines part, the state's own line is delivered again, so that they never mix on
/// the step axis.
fn undelivered_below(
    begun: &pb::BeginAttemptResponse,
    state: &pb::SavedState,
    reading_steps: &[u32],
) -> Result<(u32, Option<Undelivered>), Error> {
    let spool = spool_dir(Path::new(&begun.run_dir), state.attempt);
    // What later attempts delivered has replaced the state's line from there on.
    let later = begun.segments.iter().filter(|s| s.attempt > state.attempt);
    let mut deliver_from = later
        .map(|s| s.first_step)
        .fold(state.step, |first, step| first.min(step));
    if !begun.segments.iter().any(|s| s.attempt == state.attempt) {
        deliver_from = deliver_from.min(SpoolReader::open(&spool)?.header().resume_step);
    }
    let at = |step: u32| Cursors {
        reading: reading_steps.partition_point(|&s| s < step) as u32,
        update: step,
    };
    let from = Cursors {
        reading: begun.next_reading.min(at(deliver_from).reading),
        update: begun.next_update.min(deliver_from),
    };
    let to = at(state.step);
    if from == to {
        return Ok((deliver_from, None));
    }
    // All of it or nothing: it is read once before anything builds on it.
    for record in SpoolReader::open(&spool)?.between(from, to) {
        record?;
    }
    Ok((deliver_from, Some(Undelivered { spool, from, to })))
}

#[cfg(test)]
mod tests;
