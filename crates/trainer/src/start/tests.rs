use imprint_core::LearningRate;

use super::*;
use crate::state::tests::{learner, position, writer};

/// OLMo-7B was pretrained with batches of 2160 rows of 2048 tokens.
const SEEN_AT_40000: u64 = 40_000 * 2160 * 2048;

/// The learning rates of the reference's early 7B run, from the trainer state of its checkpoint.
#[test]
fn the_schedule_is_settled_from_the_checkpoints_own_trainer_state() {
    let dir = tempfile::tempdir().unwrap();
    let mut state_writer = writer(dir.path(), 1, Some(SEEN_AT_40000));
    state_writer.settled.first_global_step = 40_000;
    let saved = state_writer.save(&learner(), &position(0)).unwrap();

    let manifest = state::find(Path::new(&saved.path)).unwrap().unwrap();
    let standing = manifest.standing();
    let rate: LearningRate = serde_json::from_value(serde_json::json!({
        "kind": "linear", "peak": 3e-4, "warmup_steps": 5000, "max_tokens": 2_000_000_000_000_u64,
    }))
    .unwrap();
    let schedule = rate.settle(standing.global_step, standing.tokens_seen, 2048 * 2048);
    let schedule = schedule.unwrap();
    assert_eq!(schedule.max_steps(), Some(474_649));
    for (got, want) in [
        (schedule.at(40_000), 0.000_279_878_590_181_177_86),
        (
            schedule.of_update(standing.global_step, 0),
            0.000_279_878_015_283_754_47,
        ),
    ] {
        assert!((got - want).abs() < 1e-12, "{got} against {want}");
    }
}

#[test]
fn a_smaller_memory_makes_smaller_micro_batches() {
    let learner = learner();
    let rows = |gib: f64| {
        let bytes = (gib * f64::from(1 << 30)) as u64;
        learner.micro_batch_rows_in(1 << 14, 8, bytes, true)
    };
    assert_eq!(rows(64.0), 1 << 14);
    assert_eq!(rows(1e-9), 1);
    assert!((2..1 << 13).contains(&rows(0.01)), "{}", rows(0.01));
}
