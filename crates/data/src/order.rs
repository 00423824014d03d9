//! The order in which the instances of a corpus are trained on.

mod numpy;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use imprint_core::{OrderIdentity, Pcg64Order};
use rand_core::{RngCore, SeedableRng};
use rand_pcg::Pcg64;
use sha2::{Digest, Sha256};

use crate::array::{IntegerArray, IntegerType};
use crate::{Error, Result};

/// Indices of an order file that are looked at in one go.
const SCANNED_AT_ONCE: u64 = 1 << 16;

/// A sequence of instances, epoch after epoch.
///
/// It knows nothing of batches, so a run of any batch size trains on a prefix of the same sequence.
#[derive(Debug)]
pub(crate) struct DataOrder {
    kind: Kind,
    n_instances: u64,
    /// Positions of one epoch.
    epoch_len: u64,
    /// The epoch used last: 4 bytes an instance, so there is room for one.
    epoch: Mutex<Option<(u64, Vec<u32>)>>,
}

#[derive(Debug)]
enum Kind {
    Sequential,
    Shuffled { seed: u64 },
    Pcg64(Pcg64Order),
    File(Arc<OrderFile>),
}

/// Indices of instances in a file, none of them negative.
#[derive(Debug)]
pub(crate) struct OrderFile {
    indices: IntegerArray,
    /// The largest index and its position.
    largest: (u64, u64),
}

impl OrderFile {
    /// The order in a file, looked at as a whole.
    ///
    /// # Errors
    /// When the file cannot be read, is empty or cut short, or holds a negative index.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let indices = IntegerArray::open_npy_or_headerless(path, IntegerType::Uint32)?;
        let largest = largest(&indices)?;
        Ok(Self { indices, largest })
    }

    pub(crate) fn path(&self) -> &Path {
        self.indices.path()
    }

    /// The number of indices.
    pub(crate) fn len(&self) -> u64 {
        self.indices.len()
    }

    fn epoch_len(&self, n_instances: u64) -> Result<u64> {
        let (largest, position) = self.largest;
        if largest >= n_instances {
            return Err(self.past_data(position, largest as i64, n_instances));
        }
        Ok(self.len())
    }

    fn past_data(&self, position: u64, index: i64, n_instances: u64) -> Error {
        Error::OrderPastData {
            path: self.path().to_owned(),
            position,
            index,
            n_instances,
        }
    }
}

fn largest(indices: &IntegerArray) -> Result<(u64, u64)> {
    let mut largest = None;
    for start in (0..indices.len()).step_by(SCANNED_AT_ONCE as usize) {
        let n = SCANNED_AT_ONCE.min(indices.len() - start);
        for (position, index) in (start..).zip(indices.read(start, n as usize)?) {
            let Ok(index) = u64::try_from(index) else {
                return Err(Error::NegativeIndex {
                    path: indices.path().to_owned(),
                    position,
                    index,
                });
            };
            if largest.is_none_or(|(most, _)| most < index) {
                largest = Some((index, position));
            }
        }
    }
    largest.ok_or_else(|| Error::EmptyOrder {
        path: indices.path().to_owned(),
    })
}

impl DataOrder {
    /// The order of `n_instances` instances that an identity names; `seed` is the run's.
    ///
    /// # Errors
    /// When there are more instances than can be shuffled, the corpus is not of the length that the
    /// order was made for, or a file's order points past it.
    ///
    /// # Panics
    /// When the order is a file's and `file` is absent.
    pub(crate) fn new(
        order: &OrderIdentity,
        seed: u64,
        n_instances: u64,
        file: Option<Arc<OrderFile>>,
    ) -> Result<Self> {
        let kind = match order {
            OrderIdentity::Sequential => Kind::Sequential,
            OrderIdentity::Shuffled => Kind::Shuffled { seed },
            OrderIdentity::Pcg64(order) => Kind::Pcg64(*order),
            OrderIdentity::File { .. } => {
                Kind::File(file.expect("an order of a file comes with it"))
            }
        };
        let epoch_len = match &kind {
            Kind::Sequential => n_instances,
            Kind::Shuffled { .. } | Kind::Pcg64(_) if u32::try_from(n_instances).is_err() => {
                return Err(Error::TooManyToShuffle { n_instances });
            }
            Kind::Shuffled { .. } => n_instances,
            Kind::Pcg64(order) => pcg64_epoch_len(order, n_instances)?,
            Kind::File(file) => file.epoch_len(n_instances)?,
        };
        Ok(Self {
            kind,
            n_instances,
            epoch_len,
            epoch: Mutex::default(),
        })
    }

    /// The positions of one epoch: not more than there are instances, except in a file.
    pub(crate) fn epoch_len(&self) -> u64 {
        self.epoch_len
    }

    /// The file that the order is read from, if it is.
    pub(crate) fn file(&self) -> Option<&Path> {
        match &self.kind {
            Kind::File(file) => Some(file.path()),
            Kind::Sequential | Kind::Shuffled { .. } | Kind::Pcg64(_) => None,
        }
    }

    /// The instances at `n` positions from `start`.
    ///
    /// # Errors
    /// When an order file cannot be read any more, or has changed and points past the corpus.
    pub(crate) fn instances(&self, start: u64, n: u32) -> Result<Vec<u64>> {
        let mut instances = Vec::with_capacity(n as usize);
        let end = start + u64::from(n);
        let mut position = start;
        while position < end {
            let (epoch, index) = (position / self.epoch_len, position % self.epoch_len);
            let n = (self.epoch_len - index).min(end - position);
            self.extend_within_epoch(epoch, index, n as usize, &mut instances)?;
            position += n;
        }
        Ok(instances)
    }

    fn extend_within_epoch(
        &self,
        epoch: u64,
        index: u64,
        n: usize,
        instances: &mut Vec<u64>,
    ) -> Result<()> {
        match &self.kind {
            Kind::Sequential => instances.extend(index..index + n as u64),
            Kind::Shuffled { seed } => {
                let shuffle = |n_instances| shuffled(*seed, epoch, n_instances);
                self.extend_from_shuffle(epoch, index, n, shuffle, instances);
            }
            Kind::Pcg64(order) => {
                let seed = u128::from(order.seed) + u128::from(order.epoch) + u128::from(epoch);
                let shuffle = |n_instances| numpy::shuffled(seed, n_instances);
                self.extend_from_shuffle(epoch, index, n, shuffle, instances);
            }
            Kind::File(file) => {
                for (position, found) in (index..).zip(file.indices.read(index, n)?) {
                    match u64::try_from(found) {
                        Ok(instance) if instance < self.n_instances => instances.push(instance),
                        _ => {
                            return Err(file.past_data(position, found, self.n_instances));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn extend_from_shuffle(
        &self,
        epoch: u64,
        index: u64,
        n: usize,
        shuffle: impl Fn(u32) -> Vec<u32>,
        instances: &mut Vec<u64>,
    ) {
        let mut known = self.epoch.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_ref().is_none_or(|(e, _)| *e != epoch) {
            // The old one goes first, so that there are never two.
            *known = None;
            *known = Some((epoch, shuffle(self.n_instances as u32)));
        }
        let order = known.as_ref().map_or(&[][..], |(_, order)| order);
        instances.extend(order[index as usize..][..n].iter().map(|&i| u64::from(i)));
    }
}

fn pcg64_epoch_len(order: &Pcg64Order, n_instances: u64) -> Result<u64> {
    if let Some(expected) = order.n_instances.filter(|&n| n != n_instances) {
        return Err(Error::OrderOfOtherCorpus {
            expected,
            n_instances,
        });
    }
    let world_size = u64::from(order.world_size);
    match n_instances.checked_rem(world_size) {
        Some(rest) if rest < n_instances => Ok(n_instances - rest),
        _ => Err(Error::WorldTooLarge {
            world_size,
            n_instances,
        }),
    }
}

/// The numbers below `n`, shuffled: Fisher and Yates from the last place to the second, with draws
/// from PCG64 (XSL-RR 128/64) seeded by SHA-256 of seed and epoch as 16 little-endian bytes.
fn shuffled(seed: u64, epoch: u64, n: u32) -> Vec<u32> {
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
