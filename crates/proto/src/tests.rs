use imprint_core::StepReadings;

use crate::pb;

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
