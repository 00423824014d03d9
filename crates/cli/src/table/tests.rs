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

/// A table of labels with notes, in a terminal of so many columns.
fn noted(width: Option<usize>) -> String {
    let columns = [
        Column::Name("run"),
        Column::Left("state"),
        Column::Right("step"),
    ];
    let row = |run: &str, state: &str, step: &str, note: &str| {
        let cells = [run, state, step].map(str::to_owned).to_vec();
        (cells, note.to_owned())
    };
    let rows = vec![
        row("mine/scratch-late-once-b2048-s0", "running", "120/1000", ""),
        row(
            "mine/scratch-late-once-b2048-s1",
            "failed",
            "120/1000",
            "the loss of update 120 is NaN",
        ),
        row(
            "mine/scratch-late-once-b2048-s2",
            "queued",
            "0/1000",
            "waits for step 250 of pre/scratch-none-b2048-s0, which failed: the loss is NaN",
        ),
    ];
    with_notes(&columns, "why", rows, width) + "\n"
}

#[test]
fn notes_stand_at_the_end_where_there_is_room() {
    expect![[r#"
        run                              state        step  why
        ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
        mine/scratch-late-once-b2048-s0  running  120/1000
        mine/scratch-late-once-b2048-s1  failed   120/1000  the loss of update 120 is NaN
        mine/scratch-late-once-b2048-s2  queued     0/1000  waits for step 250 of pre/scratch-none-b2048-s0, which failed: the loss is NaN
    "#]]
    .assert_eq(&noted(None));
}

#[test]
fn in_a_narrower_terminal_notes_take_more_lines() {
    expect![[r#"
        run                              state        step  why
        ─────────────────────────────────────────────────────────────────────────────────────
        mine/scratch-late-once-b2048-s0  running  120/1000
        mine/scratch-late-once-b2048-s1  failed   120/1000  the loss of update 120 is NaN
        mine/scratch-late-once-b2048-s2  queued     0/1000  waits for step 250 of
                                                            pre/scratch-none-b2048-s0, which
                                                            failed: the loss is NaN
    "#]]
    .assert_eq(&noted(Some(90)));
}

#[test]
fn a_narrow_terminal_has_notes_below_and_short_names() {
    expect![[r#"
        run                              state        step
        ───────────────────────────────────────────────────
        mine/scratch-late-once-b2048-s0  running  120/1000
        mine/scratch-late-once-b2048-s1  failed   120/1000
          the loss of update 120 is NaN
        mine/scratch-late-once-b2048-s2  queued     0/1000
          waits for step 250 of pre/scratch-none-b2048-s0, which failed: the loss is NaN
    "#]]
    .assert_eq(&noted(Some(80)));
    expect![[r#"
        run                   state        step
        ────────────────────────────────────────
        mine/scra…e-b2048-s0  running  120/1000
        mine/scra…e-b2048-s1  failed   120/1000
          the loss of update 120 is NaN
        mine/scra…e-b2048-s2  queued     0/1000
          waits for step 250 of
          pre/scratch-none-b2048-s0, which
          failed: the loss is NaN
    "#]]
    .assert_eq(&noted(Some(40)));
    for width in [30, 40, 60, 80, 100, 120] {
        for line in noted(Some(width)).lines() {
            assert!(line.chars().count() <= width.max(34), "{width}: {line}");
        }
    }
}

#[test]
fn a_text_loses_its_middle() {
    for (text, width, want) in [
        ("late-once-b32-s0", 16, "late-once-b32-s0"),
        ("late-once-b32-s0", 15, "late-on…-b32-s0"),
        ("late-once-b32-s0", 1, "…"),
        ("größe", 4, "g…ße"),
        ("", 0, ""),
    ] {
        assert_eq!(shorten(text, width), want);
    }
}

#[test]
fn a_text_is_broken_between_words() {
    for (text, width, want) in [
        (
            "waits for a free slot",
            10,
            &["waits for", "a free", "slot"][..],
        ),
        ("one  two", 20, &["one two"]),
        (
            "/a/very/long/path of it",
            8,
            &["/a/very/", "long/pat", "h of it"],
        ),
        ("", 8, &[]),
        ("\u{1b}[31mred\u{7}\nalert", 20, &["[31mred alert"]),
    ] {
        assert_eq!(wrap(text, width), want);
    }
}

#[test]
fn times_have_two_units_at_most() {
    for (seconds, want) in [
        (0, "0 s"),
        (119, "119 s"),
        (120, "2 m"),
        (7199, "119 m"),
        (7200, "2 h 0 m"),
        (12_000, "3 h 20 m"),
        (172_800, "2 d 0 h"),
        (u64::MAX, "213503982334601 d 7 h"),
    ] {
        assert_eq!(time(seconds), want);
    }
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
