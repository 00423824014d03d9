use super::{ReadingSteps, Trajectory};

#[test]
fn every_step_by_default() {
    assert_eq!(ReadingSteps::default().expand(3, Some(1)), [0, 1, 2, 3]);
}

#[test]
fn a_thinned_tail_keeps_the_last_reading() {
    let thin = ReadingSteps {
        dense_after_last_injection: Some(2),
        then_every: 10,
    };
    assert_eq!(thin.expand(33, Some(3)), [0, 1, 2, 3, 4, 5, 10, 20, 30, 33]);
    assert_eq!(thin.expand(25, None), [0, 10, 20, 25]);
}

/// Reading t is taken on θ_t, so an injection at step t first shows in reading t+1, and a run of T
/// updates ends with reading T.
#[test]
fn an_injection_shows_in_the_next_reading() {
    let injected_at = 2;
    let n_updates = 4;
    let mut theta = 0.0;
    let readings = (0..=n_updates).map(|t| {
        let reading = (t, theta);
        if t == injected_at {
            theta += 1.0;
        }
        reading
    });
    let trajectory = Trajectory::new(readings);
    assert_eq!(trajectory.steps().len() as u32, n_updates + 1);
    assert_eq!(trajectory.at(injected_at), Some(0.0));
    assert_eq!(trajectory.at(injected_at + 1), Some(1.0));
    assert_eq!(trajectory.after(injected_at, 99).next(), Some((3, 1.0)));
}
