//! The order in which the instances of a corpus are trained on.

use std::sync::{Arc, Mutex, PoisonError};

use imprint_core::CorpusOrder;
use rand_core::{RngCore, SeedableRng};
use rand_pcg::Pcg64;
use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// An endless sequence of instances: every epoch passes over all of them once.
///
/// It knows nothing of batches, so a run of any batch size trains on a prefix of the same sequence.
#[derive(Debug)]
pub(crate) struct DataOrder {
    order: CorpusOrder,
    seed: u64,
    n_instances: u64,
    /// The epochs used last: two, for a batch may reach over an epoch's end.
    shuffled: Mutex<Vec<(u64, Arc<[u32]>)>>,
}

impl DataOrder {
    /// The order that follows from a seed.
    ///
    /// # Errors
    /// When there are more instances than can be shuffled.
    pub(crate) fn new(order: CorpusOrder, seed: u64, n_instances: u64) -> Result<Self> {
        if order == CorpusOrder::Shuffled && u32::try_from(n_instances).is_err() {
            return Err(Error::TooManyToShuffle { n_instances });
        }
        Ok(Self {
            order,
            seed,
            n_instances,
            shuffled: Mutex::default(),
        })
    }

    /// The instances at `n` positions from `start`.
    pub(crate) fn instances(&self, start: u64, n: u32) -> Vec<u64> {
        (start..start + u64::from(n))
            .map(|position| {
                let (epoch, index) = (position / self.n_instances, position % self.n_instances);
                match self.order {
                    CorpusOrder::Sequential => index,
                    CorpusOrder::Shuffled => u64::from(self.epoch(epoch)[index as usize]),
                }
            })
            .collect()
    }

    fn epoch(&self, epoch: u64) -> Arc<[u32]> {
        let mut shuffled = self.shuffled.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, known)) = shuffled.iter().find(|(e, _)| *e == epoch) {
            return known.clone();
        }
        let new: Arc<[u32]> = shuffle(self.seed, epoch, self.n_instances as u32).into();
        shuffled.truncate(1);
        shuffled.insert(0, (epoch, new.clone()));
        new
    }
}

/// The numbers below `n`, shuffled: Fisher and Yates from the last place to the second, with draws
/// from PCG64 (XSL-RR 128/64) seeded by SHA-256 of seed and epoch as 16 little-endian bytes.
fn shuffle(seed: u64, epoch: u64, n: u32) -> Vec<u32> {
    let seed = Sha256::new()
        .chain_update(seed.to_le_bytes())
        .chain_update(epoch.to_le_bytes())
        .finalize();
    let mut rng = Pcg64::from_seed(seed.into());
    let mut instances: Vec<u32> = (0..n).collect();
    for last in (1..instances.len()).rev() {
        instances.swap(last, below(&mut rng, last as u64 + 1) as usize);
    }
    instances
}

/// A number below `n`, all equally likely: draws in the incomplete last block of 2^64 are repeated.
fn below(rng: &mut Pcg64, n: u64) -> u64 {
    let bias = (u64::MAX % n + 1) % n;
    loop {
        let draw = rng.next_u64();
        if draw <= u64::MAX - bias {
            return draw % n;
        }
    }
}

#[cfg(test)]
mod tests;
