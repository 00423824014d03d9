use std::fs;
use std::process::Command;

use expect_test::expect;

use super::*;
use crate::executor::asked_job;

fn job() -> Job {
    asked_job(7, 3, "request-1")
}

fn command(program: &str, arguments: &[&str]) -> TrainerCommand {
    TrainerCommand {
        program: program.into(),
        arguments: arguments.iter().map(OsString::from).collect(),
        environment: Vec::new(),
        run_dir: "/lab/runs/7".into(),
    }
}

fn text(config: &SlurmConfig, command: &TrainerCommand) -> String {
    String::from_utf8(of(config, &job(), command)).expect("text")
}

#[test]
fn a_script_sets_up_and_becomes_the_trainer() {
    let config = SlurmConfig {
        setup: vec!["module load cuda/12".to_owned(), "ulimit -c 0".to_owned()],
        ..SlurmConfig::default()
    };
    let mut command = command("/opt/imprint-trainer", &["run", "--run-id", "7"]);
    command.environment = vec![("IMPRINT_LOG_FORMAT", "json".to_owned())];
    expect![[r#"
        #!/bin/bash -l
        # The trainer of run 7 of imprint, job 3; Slurm has a copy of this file.
        # Until the trainer listens, a notice that the job's time is about to end must not kill it.
        trap '' USR1
        module load cuda/12
        ulimit -c 0
        # In the place of this shell, so that it hears the signals.
        exec env IMPRINT_LOG_FORMAT=json /opt/imprint-trainer run --run-id 7
    "#]]
    .assert_eq(&text(&config, &command));
    // Without lines of set-up nobody logs in.
    let bare = text(&SlurmConfig::default(), &command);
    assert!(
        bare.starts_with("#!/bin/bash\n# The trainer of run 7"),
        "{bare}"
    );
    assert!(bare.contains("trap '' USR1\n# In the place of"), "{bare}");
}

#[test]
fn a_site_may_have_a_script_of_its_own() {
    let template = "#!/bin/sh\n# {{run}}/{{job}} {{unknown}}\nsrun --ntasks=1 {{trainer}}\n";
    check_template(template).expect("it starts the trainer");
    let config = SlurmConfig {
        template: Some(template.to_owned()),
        ..SlurmConfig::default()
    };
    let script = text(&config, &command("/opt/a trainer", &["{{run}}"]));
    let want = "#!/bin/sh\n# 7/3 {{unknown}}\nsrun --ntasks=1 '/opt/a trainer' '{{run}}'\n";
    assert_eq!(script, want);
    let refused = check_template("#!/bin/sh\nimprint-trainer run\n").expect_err("it does not");
    assert!(refused.contains("exec {{trainer}}"), "{refused}");
    let refused = check_template("#!/bin/sh\n#SBATCH --array=1-3\nexec {{trainer}}\n");
    let refused = refused.expect_err("its options would be the job's");
    assert!(refused.contains("`#SBATCH --array=1-3`"), "{refused}");
}

/// Whatever is in an argument or in the environment, the shell hands it on.
#[test]
fn a_shell_takes_every_word_as_it_is() {
    let words = [
        "", "a b", "'", "''\"", "$HOME", "`id`", "$(id)", "a\nb", "\\", "!x", "*", "~", "#", "é",
        ";", "-n", "{{job}}",
    ];
    let dir = tempfile::tempdir().expect("make a directory");
    let mut command = command("/usr/bin/printf", &["%s\\0"]);
    command.arguments.extend(words.map(OsString::from));
    command
        .arguments
        .push(OsStr::from_bytes(b"\xff").to_owned());
    let path = dir.path().join("script");
    fs::write(&path, of(&SlurmConfig::default(), &job(), &command)).expect("write");
    let said = Command::new("bash")
        .arg(&path)
        .output()
        .expect("run a shell");
    assert!(said.status.success(), "{said:?}");
    let mut want: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    want.extend([b"\xff".as_slice(), b""]);
    assert_eq!(said.stdout.split(|&b| b == 0).collect::<Vec<_>>(), want);

    command.program = "/usr/bin/env".into();
    command.arguments = vec!["-0".into()];
    command.environment = vec![("ODD", "a 'b'\n$c".to_owned())];
    fs::write(&path, of(&SlurmConfig::default(), &job(), &command)).expect("write");
    let said = Command::new("bash")
        .arg(&path)
        .output()
        .expect("run a shell");
    let mut variables = said.stdout.split(|&b| b == 0);
    assert!(variables.any(|v| v == b"ODD=a 'b'\n$c"), "{said:?}");
}
