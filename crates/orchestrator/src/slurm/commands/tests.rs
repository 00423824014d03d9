use super::*;

/// What a shell script comes to.
async fn run(script: &str) -> Result<String, Unanswered> {
    Commands::default().run("sh", ["-c", script]).await
}

#[tokio::test]
async fn only_a_command_that_ended_by_itself_refuses() {
    let refused = run("echo error: no such partition >&2; exit 1").await;
    let Err(Unanswered::Refused(said)) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(said, "sh: error: no such partition");
    for (script, want) in [
        (
            "echo error: no such partition >&2; kill -TERM $$",
            "sh ended with signal: 15 (SIGTERM): error: no such partition",
        ),
        ("kill -KILL $$", "sh ended with signal: 9 (SIGKILL)"),
        ("exit 3", "sh ended with exit status: 3"),
    ] {
        let silent = run(script).await;
        let Err(Unanswered::Silent(said)) = silent else {
            panic!("{script}: {silent:?}");
        };
        assert_eq!(said, want);
    }
    let missing = Commands::default().run("/no/such/sbatch", [""]).await;
    assert!(
        matches!(missing, Err(Unanswered::NotStarted(_))),
        "{missing:?}"
    );
}

/// However much a site's plugins say, the command goes on to its last word.
#[tokio::test]
async fn what_is_said_is_read_to_its_end() {
    const SAYS_MUCH: &str = "i=0; while [ $i -lt 20000 ]; do echo verbose; i=$((i+1)); done >&2; ";
    let refused = run(&format!("{SAYS_MUCH} echo the last word >&2; exit 1")).await;
    let Err(Unanswered::Refused(said)) = refused else {
        panic!("{refused:?}");
    };
    assert!(said.ends_with("verbose; the last word"), "{said}");
    assert!(said.len() < 2 * ERROR_BYTES, "{}", said.len());
    let answered = run(&format!("{SAYS_MUCH} echo 12")).await;
    assert_eq!(answered.expect("it succeeds"), "12\n");
}
