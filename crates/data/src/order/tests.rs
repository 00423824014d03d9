use expect_test::expect;
use proptest::prelude::*;

use super::*;

fn order(order: &OrderIdentity, seed: u64, n_instances: u64) -> DataOrder {
    DataOrder::new(order, seed, n_instances, None).unwrap()
}

fn instances(order: &DataOrder, start: u64, n: u32) -> Vec<u64> {
    order.instances(start, n).unwrap()
}

#[test]
fn sequential_wraps_around() {
    let order = order(&OrderIdentity::Sequential, 7, 5);
    assert_eq!(instances(&order, 3, 4), [3, 4, 0, 1]);
}

#[test]
fn a_shuffle_is_for_ever_the_same() {
    let of_seed = |seed| instances(&order(&OrderIdentity::Shuffled, seed, 8), 0, 16);
    let shuffled = of_seed(0);
    expect!["[6, 7, 3, 1, 4, 5, 2, 0, 5, 0, 3, 6, 1, 4, 2, 7]"].assert_eq(&format!("{shuffled:?}"));
    assert_ne!(shuffled, of_seed(1));
}

#[derive(serde::Deserialize)]
struct Shuffle {
    seed: String,
    n: u32,
    first: Vec<u32>,
    sha256: String,
}

#[test]
fn shuffles_are_numpys() {
    let json = include_str!("../../tests/fixtures/order.json");
    let shuffles: Vec<Shuffle> = serde_json::from_str(json).unwrap();
    assert!(shuffles.len() > 9);
    for Shuffle {
        seed,
        n,
        first,
        sha256,
    } in shuffles
    {
        let shuffled = numpy::shuffled(seed.parse().unwrap(), n);
        assert_eq!(shuffled[..first.len()], first, "seed {seed}, {n}");
        let mut hasher = Sha256::new();
        for index in shuffled {
            hasher.update(index.to_le_bytes());
        }
        assert_eq!(
            format!("{:x}", hasher.finalize()),
            sha256,
            "seed {seed}, {n}"
        );
    }
}

fn pcg64(epoch: u32, world_size: u32, n_instances: Option<u64>) -> OrderIdentity {
    OrderIdentity::Pcg64(Pcg64Order {
        seed: 6198,
        epoch,
        world_size,
        n_instances,
    })
}

#[test]
fn an_epoch_of_pcg64_is_cut_to_the_world_and_adds_to_the_seed() {
    // Seeds 6198 and 6199, as NumPy shuffles ten; the last two of each are dropped.
    let (first, second) = ([2, 4, 7, 3, 8, 9, 0, 6], [6, 4, 1, 8, 3, 2, 5, 9]);
    let order_of_four = order(&pcg64(0, 4, None), 99, 10);
    assert_eq!(order_of_four.epoch_len(), 8);
    assert_eq!(instances(&order_of_four, 0, 16), [first, second].concat());
    assert_eq!(instances(&order_of_four, 6, 4), [0, 6, 6, 4]);
    assert_eq!(instances(&order(&pcg64(1, 4, None), 0, 10), 0, 8), second);
    assert_eq!(order(&pcg64(0, 1, Some(10)), 0, 10).epoch_len(), 10);
}

#[test]
fn a_corpus_of_another_length_is_refused() {
    let refuse = |order: &OrderIdentity, n| DataOrder::new(order, 0, n, None).unwrap_err();
    assert!(matches!(
        refuse(&pcg64(0, 1, Some(11)), 10),
        Error::OrderOfOtherCorpus {
            expected: 11,
            n_instances: 10
        }
    ));
    assert!(matches!(
        refuse(&pcg64(0, 11, None), 10),
        Error::WorldTooLarge {
            world_size: 11,
            n_instances: 10
        }
    ));
}

fn order_file(bytes: &[u8], n_instances: u64) -> Result<DataOrder> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("global_indices.npy");
    std::fs::write(&path, bytes).unwrap();
    let file = Arc::new(OrderFile::open(&path)?);
    let identity = OrderIdentity::File {
        sha256: String::new(),
    };
    DataOrder::new(&identity, 0, n_instances, Some(file))
}

#[test]
fn a_file_is_followed() {
    let bytes = [3u32, 0, 2, 1].map(u32::to_le_bytes).concat();
    let order = order_file(&bytes, 5).unwrap();
    assert_eq!(order.epoch_len(), 4);
    assert_eq!(instances(&order, 1, 3), [0, 2, 1]);
}

#[test]
fn order_files_that_cannot_be_followed_are_refused_with_numbers() {
    let of =
        |indices: &[u32]| -> Vec<u8> { indices.iter().flat_map(|i| i.to_le_bytes()).collect() };
    let refuses = |bytes: &[u8], n_instances, want: &expect_test::Expect| {
        let error = order_file(bytes, n_instances).unwrap_err().to_string();
        want.assert_eq(&error[error.find("global").unwrap()..]);
    };
    refuses(
        &of(&[3, 0, 7, 1]),
        5,
        &expect![
            "global_indices.npy: index 2 is 7, but the corpus has 5 instances; is the corpus complete, and are its files, their order and `data.seq_len` those that the order was made for?"
        ],
    );
    refuses(
        &of(&[3, 0])[..7],
        5,
        &expect![
            "global_indices.npy: 7 bytes are no whole number of 4-byte integers; is it cut short, or of another type?"
        ],
    );
    refuses(&[], 5, &expect!["global_indices.npy holds no indices"]);
    let header = "{'descr': '<i8', 'fortran_order': False, 'shape': (2,), }";
    let mut npy = b"\x93NUMPY\x01\x00".to_vec();
    npy.extend((header.len() as u16).to_le_bytes());
    npy.extend(header.as_bytes());
    npy.extend([1_i64, -1].map(i64::to_le_bytes).concat());
    refuses(
        &npy,
        5,
        &expect![
            "global_indices.npy: index 1 is -1; an order file holds unsigned 32-bit indices, or a NumPy header that says otherwise"
        ],
    );
}

#[test]
fn places_are_equally_likely() {
    const N: u32 = 4;
    const SEEDS: u64 = 6000;
    let mut counts = [[0u32; N as usize]; N as usize];
    for seed in 0..SEEDS {
        for (place, instance) in shuffled(seed, 0, N).into_iter().enumerate() {
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
    let is_ok = |order| DataOrder::new(&order, 0, n, None).is_ok();
    assert!(!is_ok(OrderIdentity::Shuffled));
    assert!(!is_ok(pcg64(0, 1, None)));
    assert!(is_ok(OrderIdentity::Sequential));
}

/// Every order that needs no file.
fn any_order() -> impl Strategy<Value = OrderIdentity> {
    let pcg64 = |(seed, epoch)| {
        OrderIdentity::Pcg64(Pcg64Order {
            seed,
            epoch,
            world_size: 1,
            n_instances: None,
        })
    };
    prop_oneof![
        Just(OrderIdentity::Shuffled),
        Just(OrderIdentity::Sequential),
        any::<(u64, u32)>().prop_map(pcg64),
    ]
}

proptest! {
    #[test]
    fn every_epoch_passes_over_every_instance_once(
        identity in any_order(), seed: u64, n in 1u64..200, epoch in 0u64..9,
    ) {
        let order = order(&identity, seed, n);
        let mut seen = instances(&order, epoch * n, n as u32);
        seen.sort_unstable();
        prop_assert_eq!(seen, (0..n).collect::<Vec<_>>());
    }

    #[test]
    fn batch_size_does_not_change_the_order(
        identity in any_order(),
        seed: u64, n in 1u64..50, batch_size in 1u32..20, start in 0u64..100,
    ) {
        let order = order(&identity, seed, n);
        let one_by_one: Vec<u64> = (0..60).flat_map(|i| instances(&order, start + i, 1)).collect();
        let batches: Vec<u64> = (0..60 / batch_size)
            .flat_map(|b| instances(&order, start + u64::from(b * batch_size), batch_size))
            .collect();
        prop_assert_eq!(&one_by_one[..batches.len()], batches.as_slice());
    }
}
