use super::*;

#[test]
fn states_that_end_are_named_as_in_sql() {
    let ended: Vec<&str> = RunState::ALL
        .into_iter()
        .filter(|s| s.has_ended())
        .map(RunState::as_str)
        .collect();
    assert_eq!(ended, ["complete", "failed", "cancelled"]);
}
