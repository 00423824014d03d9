use super::*;
use crate::learner::{Learner, LearnerOptions};

fn config() -> ModelConfig {
    let mut config = ModelConfig::tiny_olmo(40, 16, 24, 2, true);
    config.max_position_embeddings = 20;
    config
}

/// Probes of lengths 2 to 21, longest first, so that packing must reorder them.
fn probes() -> Vec<TokenizedProbe> {
    (2..=21_usize)
        .rev()
        .map(|n| TokenizedProbe {
            tokens: (0..n as u32).map(|i| (i * 7 + n as u32 * 3) % 40).collect(),
            n_target_tokens: 1 + n % 3 % (n - 1),
        })
        .collect()
}

fn pack(probes: &[TokenizedProbe], kernels: Kernels) -> Result<PackedProbes, Error> {
    PackedProbes::new(probes, &config(), kernels, &Device::flex())
}

#[test]
fn every_token_but_the_first_has_one_place() {
    for kernels in [Kernels::Host, Kernels::Tensor] {
        let packed = pack(&probes(), kernels).expect("probes fit");
        let mut ranges: Vec<_> = packed
            .places
            .iter()
            .map(|place| place.tokens.clone())
            .collect();
        ranges.sort_by_key(|range| range.start);
        let mut at = 0;
        for range in ranges {
            assert_eq!(range.start, at);
            at = range.end;
        }
        let n_targets: usize = packed.groups.iter().map(|g| g.targets.ids.len()).sum();
        assert_eq!(at, n_targets);
    }
}

#[test]
fn padding_changes_no_reading() {
    let learner = Learner::initialise(config(), 1, &LearnerOptions::default()).expect("model");
    let probes = probes();
    let exact = pack(&probes, Kernels::Host).expect("probes fit");
    let padded = pack(&probes, Kernels::Tensor).expect("probes fit");
    assert!(exact.groups.iter().all(|group| group.kept.is_none()));
    assert!(padded.groups.iter().any(|group| group.kept.is_some()));
    assert!(padded.groups.len() < exact.groups.len());
    for (a, b) in learner.read(&exact).iter().zip(learner.read(&padded)) {
        assert!((a.full_nats - b.full_nats).abs() < 1e-4, "{a:?} {b:?}");
        assert!((a.target_nats - b.target_nats).abs() < 1e-4, "{a:?} {b:?}");
        assert!((a.first_nats - b.first_nats).abs() < 1e-4, "{a:?} {b:?}");
    }
}

#[test]
fn spans_are_first_target_and_all_but_the_first_token() {
    let probe = |n, n_target_tokens| TokenizedProbe {
        tokens: vec![0; n],
        n_target_tokens,
    };
    let packed = pack(&[probe(4, 2), probe(2, 1)], Kernels::Host).expect("probes fit");
    // The shorter probe is read first.
    let sums = packed.sums(&[-9.0, -1.0, -2.0, -4.0]);
    let as_row = |sums: &ProbeSums| [sums.first_nats, sums.target_nats, sums.full_nats];
    assert_eq!(as_row(&sums[0]), [-2.0, -6.0, -7.0]);
    assert_eq!(as_row(&sums[1]), [-9.0, -9.0, -9.0]);
}

#[test]
fn refuses_probes_that_cannot_be_read_and_says_which() {
    let good = TokenizedProbe {
        tokens: vec![1, 2, 3],
        n_target_tokens: 1,
    };
    for (tokens, n_target_tokens, reason) in [
        (vec![1, 2, 3], 0, "no tokens"),
        (vec![1, 2, 3], 3, "leave no prompt"),
        (vec![], 1, "leave no prompt"),
        (vec![0; 22], 1, "context of 20"),
        (vec![1, 40, 3], 1, "token id 40"),
    ] {
        let bad = TokenizedProbe {
            tokens,
            n_target_tokens,
        };
        let err = match pack(&[good.clone(), bad], Kernels::Host) {
            Ok(_) => panic!("a probe was taken that should fail: {reason}"),
            Err(err) => err.to_string(),
        };
        assert!(
            err.starts_with("probe 1: ") && err.contains(reason),
            "{err}"
        );
    }
}

#[test]
fn no_probes_are_no_readings() {
    let learner = Learner::initialise(config(), 1, &LearnerOptions::default()).expect("model");
    let packed = learner.pack(&[]).expect("nothing to refuse");
    assert!(packed.is_empty());
    assert!(learner.read(&packed).is_empty());
}
