use expect_test::expect;

use super::*;

#[test]
fn a_table_has_one_line_and_aligned_numbers() {
    let columns = [
        Column::Left("run"),
        Column::Right("steps"),
        Column::Left("why"),
    ];
    let rows = [
        ["a/b-c", "9", "waits for its parent"],
        ["a/longer-name", "1,000", ""],
    ];
    let text = table(&columns, rows.map(|r| r.map(str::to_owned).to_vec()));
    expect![[r#"
        run            steps  why
        ───────────────────────────────────────────
        a/b-c              9  waits for its parent
        a/longer-name  1,000
    "#]]
    .assert_eq(&(text + "\n"));
}

#[test]
fn numbers_that_are_not_there_are_a_dash() {
    assert_eq!(number(Some(1.005), 1), "1.0");
    assert_eq!(number(None, 2), "–");
}

#[test]
fn thousands_are_told_apart() {
    for (n, want) in [
        (0, "0"),
        (999, "999"),
        (1000, "1,000"),
        (1_234_567, "1,234,567"),
    ] {
        assert_eq!(thousands(n), want);
    }
}
