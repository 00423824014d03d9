use imprint_core::{StepReadings, UpdateStats};

use crate::{check_text, pb};

fn readings() -> StepReadings {
    StepReadings {
        index: 3,
        step: 30,
        measured_by: 2,
        first_sum_nats: vec![-1.5, 0.0],
        target_sum_nats: vec![-2.5, -0.25],
        full_sum_nats: vec![-9.0, -8.0],
    }
}

#[test]
fn readings_survive_the_wire() {
    let sent = readings();
    let received = StepReadings::try_from(pb::Reading::from(&sent)).unwrap();
    assert_eq!(received, sent);
}

#[test]
fn impossible_readings_are_refused() {
    let mut positive = readings();
    positive.target_sum_nats[1] = 0.5;
    let refused = StepReadings::try_from(pb::Reading::from(&positive)).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "target_sum_nats: probe 1 has the value 0.5; a log-probability is finite and at most 0"
    );
    let mut uneven = readings();
    uneven.full_sum_nats.pop();
    assert!(StepReadings::try_from(pb::Reading::from(&uneven)).is_err());
    let mut torn = pb::Reading::from(&readings());
    torn.first_sum_nats.truncate(5);
    assert!(StepReadings::try_from(torn).is_err());
}

#[test]
fn an_update_that_diverges_is_taken_and_one_that_cannot_be_is_not() {
    let of = |change: fn(&mut UpdateStats)| {
        let mut update = UpdateStats::default();
        change(&mut update);
        UpdateStats::try_from(pb::Update::from(&update))
    };
    assert!(of(|u| u.grad_norm = f64::INFINITY).is_ok());
    assert!(of(|u| u.update_norm = f64::NAN).is_ok());
    assert_eq!(
        of(|u| u.duration_ms = -1.5).unwrap_err().to_string(),
        "duration_ms: update 0 cannot have the value -1.5"
    );
}

#[test]
fn text_with_nul_is_refused() {
    assert!(check_text("run", "test/ü").is_ok());
    assert_eq!(
        check_text("run", "test/\0").unwrap_err().to_string(),
        "run: byte 5 is NUL"
    );
}
