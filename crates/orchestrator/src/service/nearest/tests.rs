use super::*;

#[track_caller]
fn check(asked: &str, known: &[&str], want: &[&str]) {
    let known: Vec<String> = known.iter().map(|&name| name.to_owned()).collect();
    assert_eq!(nearest(asked, &known), want, "{asked}");
}

#[test]
fn the_nearest_names_are_those_of_few_other_letters_or_the_same_beginning() {
    let known = ["mine", "mine-2", "late", "pre"];
    check("mien", &known, &["mine"]);
    check("Mine", &known, &["mine"]);
    check("min", &known, &["mine", "mine-2"]);
    check("prep", &known, &["pre"]);
    check("something-else", &known, &[]);
    check("", &known, &[]);
    let runs = [
        "mine/late-once-b32-s0",
        "mine/late-once-b32-s1",
        "mine/late-twice-b32-s0",
    ];
    check("mine/late-twice", &runs, &["mine/late-twice-b32-s0"]);
    check(
        "mine/late-onse-b32-s1",
        &runs,
        &[
            "mine/late-once-b32-s1",
            "mine/late-once-b32-s0",
            "mine/late-twice-b32-s0",
        ],
    );
}

#[test]
fn a_name_without_end_costs_nothing() {
    check(&"x".repeat(1 << 22), &["x"], &[]);
}

#[test]
fn the_distance_counts_letters() {
    for (a, b, want) in [
        ("", "", 0),
        ("", "ab", 2),
        ("ab", "ba", 1),
        ("kitten", "sitting", 3),
        ("größe", "grosse", 3),
    ] {
        assert_eq!(distance(a, b), want, "{a} {b}");
        assert_eq!(distance(b, a), want, "{b} {a}");
    }
}

#[tokio::test]
async fn a_status_names_them_for_programs_too() {
    use tonic_types::StatusExt as _;
    let known = vec!["mine".to_owned()];
    let status = not_found("there is no experiment `mien`", "mien", known).await;
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(
        status.message(),
        "there is no experiment `mien`; did you mean `mine`?"
    );
    let info = status.get_details_error_info().unwrap();
    assert_eq!(info.metadata["nearest"], "mine");
}
