//! Draws that are the same on every machine and with every version of every library.

use rand_core::RngCore;
use rand_pcg::Pcg64;

pub(crate) struct Random(Pcg64);

impl Random {
    /// An independent sequence of draws for each seed and purpose.
    pub(crate) fn new(seed: u64, purpose: u64) -> Self {
        Self(Pcg64::new(u128::from(seed), u128::from(purpose)))
    }

    /// A number below `n`; for the small `n` of a world the bias of the product is below 2^-40.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.0.next_u64()) * n as u128) >> 64) as usize
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }

    /// The numbers below `N` in random order.
    pub(crate) fn permutation<const N: usize>(&mut self) -> [usize; N] {
        let mut all = std::array::from_fn(|i| i);
        self.shuffle(&mut all);
        all
    }
}
