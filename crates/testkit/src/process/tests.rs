use super::*;

const PATIENCE: Duration = Duration::from_secs(60);

fn sh(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command
}

#[test]
fn a_program_says_things_and_ends() {
    let said = output(&mut sh("echo out; echo err >&2; exit 3"), PATIENCE);
    assert_eq!(said.status.code(), Some(3));
    assert_eq!(
        (&said.stdout[..], &said.stderr[..]),
        (&b"out\n"[..], &b"err\n"[..])
    );
}

#[test]
#[should_panic(expected = "does not end within")]
fn a_program_that_does_not_end_fails_the_test() {
    output(&mut sh("exec sleep 600"), Duration::from_millis(100));
}

#[test]
fn a_home_ends_what_was_told_of_it() {
    let (home, other) = (crate::Home::new(), crate::Home::new());
    let sleep = |home: &crate::Home| {
        let mut command = sh("exec sleep 600");
        ChildGuard::spawn(command.env("IMPRINT_DATA_DIR", home.data_dir()))
    };
    let (mut of_home, of_other) = (sleep(&home), sleep(&other));
    assert_eq!(home.pids(), [of_home.pid() as i32]);
    drop(home);
    assert!(of_home.wait(PATIENCE).is_some());
    assert_eq!(other.pids(), [of_other.pid() as i32]);
}
