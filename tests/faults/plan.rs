//! Which faults come when: a pure function of the seed.

use std::time::Duration;

use rand_core::{RngCore as _, SeedableRng as _};
use rand_pcg::Pcg64;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// kill -9.
    KillTrainer,
    /// TERM: it saves, flushes and ends.
    StopTrainer,
    PauseTrainer,
    /// Paused while a successor begins, and continued after.
    Zombie,
    KillMetrics,
    /// TERM: it drains.
    StopMetrics,
    KillOrchestrator,
    KillPostmaster,
    /// Every process of the database at once.
    KillDatabase,
    /// Trainers, services and database at once.
    KillEverything,
    Cut,
    /// The connection ends in the middle of a message.
    CutMidMessage,
    Hold,
    /// What is committed is not acknowledged, and then the connection is cut.
    LoseAnswers,
    Refuse,
    Delay,
    /// A second stream of the current attempt sends again what may be stored already, and on.
    Replay,
    /// The spool may not grow any more.
    FillSpool,
    FillDatabase,
    /// A killed trainer's spool loses its end.
    TruncateSpool,
    /// A bit flips in a killed trainer's spool.
    FlipBit,
    /// A killed trainer's newest state is gone.
    LoseState,
}

use Kind::*;

pub(crate) const KINDS: [Kind; 22] = [
    KillTrainer,
    StopTrainer,
    PauseTrainer,
    Zombie,
    KillMetrics,
    StopMetrics,
    KillOrchestrator,
    KillPostmaster,
    KillDatabase,
    KillEverything,
    Cut,
    CutMidMessage,
    Hold,
    LoseAnswers,
    Refuse,
    Delay,
    Replay,
    FillSpool,
    FillDatabase,
    TruncateSpool,
    FlipBit,
    LoseState,
];

impl Kind {
    /// Whether there is always something to harm, whoever lives.
    pub(crate) fn never_misses(self) -> bool {
        matches!(
            self,
            KillMetrics
                | KillOrchestrator
                | KillDatabase
                | KillEverything
                | Cut
                | CutMidMessage
                | Hold
                | LoseAnswers
                | Refuse
                | Delay
        )
    }
}

/// A fault, some time after the one before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    pub(crate) after: Duration,
    /// How long what it does lasts, where it lasts.
    pub(crate) lasts: Duration,
    /// Decides whom it hits and where.
    pub(crate) luck: u64,
}

/// Draws all kinds equally often, in an order of chance.
pub(crate) struct Plan {
    random: Pcg64,
    deck: Vec<Kind>,
}

impl Plan {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            random: Pcg64::seed_from_u64(seed),
            deck: Vec::new(),
        }
    }

    fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.random.next_u64() % (high - low)
    }
}

impl Iterator for Plan {
    type Item = Fault;

    fn next(&mut self) -> Option<Fault> {
        if self.deck.is_empty() {
            self.deck = KINDS.to_vec();
        }
        let card = self.between(0, self.deck.len() as u64) as usize;
        Some(Fault {
            kind: self.deck.swap_remove(card),
            after: Duration::from_millis(self.between(20, 900)),
            lasts: Duration::from_millis(self.between(50, 1500)),
            luck: self.random.next_u64(),
        })
    }
}
