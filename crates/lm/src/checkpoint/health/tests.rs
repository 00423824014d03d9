use super::*;

#[track_caller]
fn check(shape: &[usize], values: &[f32], want: Option<&str>) {
    let found = examine(Path::new("w"), "x", shape, values);
    let text = found.map(|finding| finding.to_string());
    assert_eq!(text.as_deref(), want);
}

#[test]
fn says_what_no_training_makes() {
    check(&[2, 2], &[1.0, 2.0, 3.0, 4.0], None);
    check(
        &[2, 2],
        &[1.0, f32::NAN, f32::INFINITY, 4.0],
        Some("tensor `x` in w has 1 NaN and 1 infinite values of 4"),
    );
    check(&[2, 2], &[0.0; 4], Some("tensor `x` in w is 0 throughout"));
    check(
        &[2, 2],
        &[0.5, 0.5, 1.0, 1.0],
        Some("tensor `x` in w has nothing but constant rows"),
    );
    check(
        &[3, 2],
        &[1.0, 2.0, 0.0, 0.0, 3.0, 3.0],
        Some("tensor `x` in w has 2 dead rows of 3: row 1 is 0 throughout"),
    );
}

#[test]
fn vectors_may_be_constant_and_anything_may_be_empty() {
    check(&[3], &[1.0; 3], None);
    check(&[3, 1], &[1.0; 3], None);
    check(&[], &[1.0], None);
    check(&[0, 4], &[], None);
    check(&[4, 0], &[], None);
    check(
        &[1],
        &[f32::NEG_INFINITY],
        Some("tensor `x` in w has 0 NaN and 1 infinite values of 1"),
    );
}

#[test]
fn moments_are_held_to_be_finite_only() {
    let name = format!("x{EXP_AVG_SQ}");
    assert_eq!(examine(Path::new("w"), &name, &[2, 2], &[0.0; 4]), None);
    assert!(examine(Path::new("w"), &name, &[1, 1], &[f32::NAN]).is_some());
}

#[test]
fn a_damaged_checkpoint_does_not_fill_a_log() {
    let finding = examine(Path::new("w"), "x", &[1], &[f32::NAN]).expect("it is not finite");
    let all = vec![finding; MAX_LINES + 7];
    let lines = lines(&all);
    assert_eq!(lines.len(), MAX_LINES + 1);
    assert_eq!(lines[MAX_LINES], "7 more tensors look wrong");
}
