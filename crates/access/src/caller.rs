//! Who makes a call, once it was let in.

use std::time::{Duration, SystemTime};

use imprint_proto::status::internal;
use tonic::{Request, Status};

use crate::grant::Grant;
use crate::refusal::Refusal;

/// A user's token may be revoked while a call goes on: then it has to come again.
const LOOKED_UP_AGAIN_AFTER: Duration = Duration::from_secs(600);

/// Whoever was let in to make this call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Nobody was asked: the door has no lock.
    Anyone,
    /// A user whose token is good for this kind of call.
    User,
    /// A trainer with a signed token; for which run, the call has to compare.
    Trainer(Grant),
}

impl Caller {
    /// The caller of a request that came through a door.
    ///
    /// # Errors
    /// When it did not.
    pub fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        let caller = request.extensions().get().copied();
        caller.ok_or_else(|| internal("a call that came through no door"))
    }

    /// Fails unless the caller may speak for a run's attempts.
    ///
    /// # Errors
    /// PERMISSION_DENIED when its token is for another run.
    pub fn may_speak_for(&self, run_id: i32) -> Result<(), Status> {
        match self {
            Self::Trainer(grant) if grant.run_id != run_id => Err(other_run(grant, run_id)),
            _ => Ok(()),
        }
    }

    /// For how long the caller may write the readings of an attempt before it has to come again;
    /// `None` for as long as it likes.
    ///
    /// # Errors
    /// PERMISSION_DENIED when its token is for another run or attempt; UNAUTHENTICATED when it has
    /// ended.
    pub fn may_write(&self, run_id: i32, attempt: u32) -> Result<Option<Duration>, Status> {
        let grant = match self {
            Self::Anyone => return Ok(None),
            Self::User => return Ok(Some(LOOKED_UP_AGAIN_AFTER)),
            Self::Trainer(grant) => grant,
        };
        if grant.run_id != run_id {
            return Err(other_run(grant, run_id));
        }
        match grant.attempt {
            Some(granted) if granted == attempt => match grant.lasts_from(SystemTime::now()) {
                Some(rest) => Ok(Some(rest)),
                None => Err(Self::token_ended()),
            },
            Some(granted) => Err(Refusal::OtherAttempt {
                granted,
                asked: attempt,
            }
            .status()),
            None => Err(Refusal::NotForAttempts.status()),
        }
    }

    /// What ends a call that goes on for longer than its token.
    pub fn token_ended() -> Status {
        Refusal::Expired.status()
    }
}

fn other_run(grant: &Grant, asked: i32) -> Status {
    let granted = grant.run_id;
    Refusal::OtherRun { granted, asked }.status()
}
