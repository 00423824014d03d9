//! Connections of ingest and of what follows it: few, whatever the number of streams, and nothing asked of them twice.
//!
//! A pool would ask a connection whether it is there before it is used and after; here a broken one
//! is noticed by the batch that breaks with it, which the trainer sends again.

use std::sync::{Mutex, PoisonError};

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, PgConnection};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use crate::ACQUIRE_TIMEOUT;

/// Transactions at the same time; more of them wait for their turn.
const N_LANES: usize = 16;

#[derive(Debug)]
pub(crate) struct Lanes {
    options: PgConnectOptions,
    turns: Semaphore,
    idle: Mutex<Vec<PgConnection>>,
}

/// A connection in use; dropped before it is [done](Self::done), it is closed.
#[derive(Debug)]
pub(crate) struct Lane<'a> {
    lanes: &'a Lanes,
    connection: PgConnection,
    _turn: SemaphorePermit<'a>,
}

impl Lanes {
    pub(crate) fn new(options: PgConnectOptions) -> Self {
        Self {
            // The same few statements again and again, with values that change no plan; and long
            // ones, which tell a log nothing.
            options: options
                .options([("plan_cache_mode", "force_generic_plan")])
                .disable_statement_logging(),
            turns: Semaphore::new(N_LANES),
            idle: Mutex::default(),
        }
    }

    /// Waits for a turn.
    pub(crate) async fn take(&self) -> sqlx::Result<Lane<'_>> {
        let begin = async {
            let turn = self.turns.acquire().await;
            let turn = turn.map_err(|_| sqlx::Error::PoolClosed)?;
            let idle = self.idle().pop();
            let connection = match idle {
                Some(connection) => connection,
                None => self.options.connect().await?,
            };
            Ok(Lane {
                lanes: self,
                connection,
                _turn: turn,
            })
        };
        let begun = timeout(ACQUIRE_TIMEOUT, begin).await;
        begun.unwrap_or(Err(sqlx::Error::PoolTimedOut))
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<PgConnection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lane<'_> {
    pub(crate) fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    /// Hands the outcome on; where it is a failure, what broke one connection may have broken the
    /// idle ones too, so that none of them is used again.
    pub(crate) fn done<T>(self, outcome: sqlx::Result<T>) -> sqlx::Result<T> {
        let mut idle = self.lanes.idle();
        match outcome {
            Ok(_) => idle.push(self.connection),
            Err(_) => idle.clear(),
        }
        outcome
    }
}
