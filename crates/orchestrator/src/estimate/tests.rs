use super::*;

fn question() -> MemoryQuestion {
    MemoryQuestion {
        model: ModelSource::Directory("/nowhere".into()),
        batch_size: 8,
        seq_len: 64,
        micro_batch_rows: None,
        resources: ResourcesSpec::default(),
    }
}

/// Programs that are no trainers, asked for `memory`.
#[tokio::test]
async fn a_trainer_that_does_not_answer_says_why() {
    let question = question();
    for (program, want) in [
        ("/bin/ls", "/bin/ls memory: exit status: 2: "),
        ("/bin/ls", "'memory': No such file or directory"),
        ("/bin/false", "/bin/false memory: exit status: 1"),
        ("/bin/true", "/bin/true memory: an odd answer: "),
        ("/nowhere/trainer", "/nowhere/trainer memory: No such file"),
    ] {
        let problem = ask(Path::new(program), &[&question]).await.unwrap_err();
        assert!(problem.contains(want), "`{want}` is not in: {problem}");
        assert!(!problem.ends_with(": "), "{problem}");
    }
}

#[test]
fn what_was_said_is_one_line_that_keeps_its_end() {
    assert_eq!(said(b""), "");
    assert_eq!(said(b" a \n\n\tb\r\n"), "a; b");
    let long = format!("{}\nthe \u{e9}nd\n", "x".repeat(5_000));
    let said = said(long.as_bytes());
    assert!(
        said.starts_with("…x") && said.ends_with("x; the énd"),
        "{said}"
    );
    assert!(said.chars().count() <= SAID_CHARS + 2);
}
