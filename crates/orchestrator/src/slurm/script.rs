//! The script that Slurm runs.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;

use imprint_store::runs::Job;

use crate::site::SlurmConfig;
use crate::trainer::TrainerCommand;

/// Where a template has the command that starts the trainer.
const TRAINER: &str = "{{trainer}}";

/// Lines of set-up may need what only a login shell has, such as `module`. Without them there is none:
/// a profile may be slow, and leave locks behind when the job is killed.
const DEFAULT: &str = "\
#!/bin/bash{{login}}
# The trainer of run {{run}} of imprint, job {{job}}; Slurm has a copy of this file.
# Until the trainer listens, a notice that the job's time is about to end must not kill it.
trap '' USR1
{{setup}}# In the place of this shell, so that it hears the signals.
exec {{trainer}}
";

/// How lines of a script begin that `sbatch` takes for its options.
const DIRECTIVES: [&str; 3] = ["#SBATCH", "#PBS", "#BSUB"];

/// Fails in words that follow the template's name where a job by it would start no trainer, or would
/// have options that nobody has looked at.
pub(crate) fn check_template(template: &str) -> Result<(), String> {
    let directives = template.lines().find(|line| {
        let mut known = DIRECTIVES.iter();
        known.any(|directive| line.starts_with(directive))
    });
    if let Some(line) = directives {
        return Err(format!(
            "has options of `sbatch` (`{line}`): they belong into the site file, as its keys or as \
             `arguments = [\"--option=value\"]`"
        ));
    }
    match template.contains(TRAINER) {
        true => Ok(()),
        false => Err(format!(
            "starts no trainer: it needs a line `exec {TRAINER}`"
        )),
    }
}

/// A job's script: the site's template or our own, with what `{{…}}` stands for.
pub(super) fn of(config: &SlurmConfig, job: &Job, command: &TrainerCommand) -> Vec<u8> {
    let template = config.template.as_deref().unwrap_or(DEFAULT);
    let setup: String = config
        .setup
        .iter()
        .map(|line| format!("{line}\n"))
        .collect();
    let login = match config.setup.is_empty() {
        true => "",
        false => " -l",
    };
    let [run, job] = [job.run_id.to_string(), job.job.to_string()];
    let trainer = shell_words(command);
    let values = [
        ("{{run}}", run.as_bytes()),
        ("{{job}}", job.as_bytes()),
        ("{{login}}", login.as_bytes()),
        ("{{setup}}", setup.as_bytes()),
        (TRAINER, &trainer),
    ];
    let mut script = Vec::new();
    let mut rest = template;
    // One pass: what is put in is not looked at again.
    while let Some(at) = rest.find("{{") {
        script.extend_from_slice(&rest.as_bytes()[..at]);
        rest = &rest[at..];
        let known = values.iter().find(|(name, _)| rest.starts_with(name));
        let (name, value) = known.copied().unwrap_or(("{{", b"{{"));
        script.extend_from_slice(value);
        rest = &rest[name.len()..];
    }
    script.extend_from_slice(rest.as_bytes());
    script
}

/// The trainer's program, arguments and environment for a shell.
fn shell_words(command: &TrainerCommand) -> Vec<u8> {
    let mut words = Vec::new();
    if !command.environment.is_empty() {
        words.push(OsString::from("env"));
        let set = |(name, value): &(&str, String)| OsString::from(format!("{name}={value}"));
        words.extend(command.environment.iter().map(set));
    }
    words.push(command.program.clone().into());
    words.extend(command.arguments.iter().cloned());
    let quoted: Vec<Vec<u8>> = words.iter().map(|word| quoted(word)).collect();
    quoted.join(&b' ')
}

/// A word that a shell takes as it is.
fn quoted(word: &OsStr) -> Vec<u8> {
    let bytes = word.as_bytes();
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_./:=,@+%".contains(byte);
    if !bytes.is_empty() && bytes.iter().all(is_plain) {
        return bytes.to_owned();
    }
    let mut quoted = vec![b'\''];
    for &byte in bytes {
        match byte {
            b'\'' => quoted.extend(br"'\''"),
            byte => quoted.push(byte),
        }
    }
    quoted.push(b'\'');
    quoted
}

#[cfg(test)]
mod tests;
