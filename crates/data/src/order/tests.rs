use expect_test::expect;
use proptest::prelude::*;

use super::*;

fn order(order: CorpusOrder, seed: u64, n_instances: u64) -> DataOrder {
    DataOrder::new(order, seed, n_instances).unwrap()
}

#[test]
fn sequential_wraps_around() {
    let order = order(CorpusOrder::Sequential, 7, 5);
    assert_eq!(order.instances(3, 4), [3, 4, 0, 1]);
}

#[test]
fn a_shuffle_is_for_ever_the_same() {
    let shuffled = order(CorpusOrder::Shuffled, 0, 8).instances(0, 16);
    expect!["[6, 7, 3, 1, 4, 5, 2, 0, 5, 0, 3, 6, 1, 4, 2, 7]"].assert_eq(&format!("{shuffled:?}"));
    assert_ne!(
        shuffled,
        order(CorpusOrder::Shuffled, 1, 8).instances(0, 16)
    );
}

#[test]
fn places_are_equally_likely() {
    const N: u32 = 4;
    const SEEDS: u64 = 6000;
    let mut counts = [[0u32; N as usize]; N as usize];
    for seed in 0..SEEDS {
        for (place, instance) in shuffle(seed, 0, N).into_iter().enumerate() {
            counts[place][instance as usize] += 1;
        }
    }
    // Five standard deviations of a binomial count around 1500.
    let off = 5.0 * (SEEDS as f64 * 0.25 * 0.75).sqrt();
    for count in counts.into_iter().flatten() {
        assert!((f64::from(count) - 1500.0).abs() < off, "{counts:?}");
    }
}

#[test]
fn too_many_instances_to_shuffle_are_refused() {
    let n = u64::from(u32::MAX) + 1;
    assert!(DataOrder::new(CorpusOrder::Shuffled, 0, n).is_err());
    assert!(DataOrder::new(CorpusOrder::Sequential, 0, n).is_ok());
}

proptest! {
    #[test]
    fn every_epoch_passes_over_every_instance_once(seed: u64, n in 1u64..200, epoch in 0u64..9) {
        let order = order(CorpusOrder::Shuffled, seed, n);
        let mut seen = order.instances(epoch * n, n as u32);
        seen.sort_unstable();
        prop_assert_eq!(seen, (0..n).collect::<Vec<_>>());
    }

    #[test]
    fn batch_size_does_not_change_the_order(
        seed: u64, n in 1u64..50, batch_size in 1u32..20, start in 0u64..100,
    ) {
        let order = order(CorpusOrder::Shuffled, seed, n);
        let one_by_one: Vec<u64> = (0..60).flat_map(|i| order.instances(start + i, 1)).collect();
        let batches: Vec<u64> = (0..60 / batch_size)
            .flat_map(|b| order.instances(start + u64::from(b * batch_size), batch_size))
            .collect();
        prop_assert_eq!(&one_by_one[..batches.len()], batches.as_slice());
    }
}
