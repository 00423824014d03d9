//! NumPy's default generator, as far as shuffling needs it.
//!
//! # Source
//! NumPy's `SeedSequence`, `PCG64` and `Generator.shuffle`, which draws with masked rejection
//! (`random_interval`), not with the multiplication of `Generator.integers`.

use rand_core::RngCore;
use rand_pcg::Pcg64;

const POOL_WORDS: usize = 4;
const INIT_A: u32 = 0x43b0_d7e5;
const MULT_A: u32 = 0x931e_8875;
const INIT_B: u32 = 0x8b51_f9dd;
const MULT_B: u32 = 0x58f3_8ded;
const MIX_MULT_L: u32 = 0xca01_f9dd;
const MIX_MULT_R: u32 = 0x4973_f715;
const XSHIFT: u32 = 16;

/// The numbers below `n` as `Generator(PCG64(seed)).shuffle(arange(n, dtype=uint32))` leaves them.
pub(super) fn shuffled(seed: u128, n: u32) -> Vec<u32> {
    let mut generator = Generator::new(seed);
    let mut numbers: Vec<u32> = (0..n).collect();
    for last in (1..n).rev() {
        numbers.swap(last as usize, generator.at_most(last) as usize);
    }
    numbers
}

/// PCG64 (XSL-RR 128/64) whose 64-bit draws are handed out in halves, the low one first.
struct Generator {
    pcg: Pcg64,
    high_half: Option<u32>,
}

impl Generator {
    fn new(seed: u128) -> Self {
        let words = seed_words(seed);
        let number = |w: &[u32]| {
            let u64_of = |w: &[u32]| u128::from(w[0]) | u128::from(w[1]) << 32;
            u64_of(&w[..2]) << 64 | u64_of(&w[2..])
        };
        Self {
            pcg: Pcg64::new(number(&words[..4]), number(&words[4..])),
            high_half: None,
        }
    }

    fn next_u32(&mut self) -> u32 {
        if let Some(half) = self.high_half.take() {
            return half;
        }
        let draw = self.pcg.next_u64();
        self.high_half = Some((draw >> 32) as u32);
        draw as u32
    }

    /// A number from 0 to `max`: draws of as many bits as `max` has, until one is not above it.
    fn at_most(&mut self, max: u32) -> u32 {
        let mask = u32::MAX.checked_shr(max.leading_zeros()).unwrap_or(0);
        loop {
            let draw = self.next_u32() & mask;
            if draw <= max {
                return draw;
            }
        }
    }
}

/// `SeedSequence(seed).generate_state(8)`.
fn seed_words(seed: u128) -> [u32; 8] {
    let mut entropy = Vec::new();
    let mut rest = seed;
    while rest > 0 {
        entropy.push(rest as u32);
        rest >>= 32;
    }
    let mut constant = INIT_A;
    let mut hash = |value: u32| {
        let value = value ^ constant;
        constant = constant.wrapping_mul(MULT_A);
        let value = value.wrapping_mul(constant);
        value ^ value >> XSHIFT
    };
    // 128 bits fill the pool and leave nothing over that would be mixed in afterwards.
    let mut pool = [0; POOL_WORDS];
    for (i, word) in pool.iter_mut().enumerate() {
        *word = hash(entropy.get(i).copied().unwrap_or(0));
    }
    for from in 0..POOL_WORDS {
        for to in 0..POOL_WORDS {
            if from != to {
                let hashed = hash(pool[from]);
                let mixed = MIX_MULT_L
                    .wrapping_mul(pool[to])
                    .wrapping_sub(MIX_MULT_R.wrapping_mul(hashed));
                pool[to] = mixed ^ mixed >> XSHIFT;
            }
        }
    }
    let mut constant = INIT_B;
    std::array::from_fn(|i| {
        let value = pool[i % POOL_WORDS] ^ constant;
        constant = constant.wrapping_mul(MULT_B);
        let value = value.wrapping_mul(constant);
        value ^ value >> XSHIFT
    })
}
