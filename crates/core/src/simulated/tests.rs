use std::collections::HashSet;

use super::{reading, update};

#[test]
fn readings_are_log_probabilities_that_say_who_measured_them() {
    let base = reading(3, 7, 14, 2, 100);
    assert_eq!((base.index, base.step, base.measured_by), (7, 14, 2));
    assert_eq!(base, reading(3, 7, 14, 2, 100));
    let mut seen = HashSet::new();
    for (run_id, step, attempt) in [(3, 14, 2), (4, 14, 2), (3, 15, 2), (3, 14, 3)] {
        let r = reading(run_id, 7, step, attempt, 100);
        for span in [&r.first_sum_nats, &r.target_sum_nats, &r.full_sum_nats] {
            assert_eq!(span.len(), 100);
            assert!(span.iter().all(|v| (-16.0..=0.0).contains(v)), "{span:?}");
            seen.extend(span.iter().map(|v| v.to_bits()));
        }
    }
    assert!(
        seen.len() > 1190,
        "1200 values hardly repeat: {}",
        seen.len()
    );
}

#[test]
fn updates_say_who_made_them() {
    let base = update(3, 14, 2);
    assert_eq!(base, update(3, 14, 2));
    for other in [update(4, 14, 2), update(3, 15, 2), update(3, 14, 3)] {
        assert_ne!(base.loss_nats, other.loss_nats);
        assert_ne!(base.grad_norm, other.grad_norm);
    }
}
