//! One command: said aloud, run, and its failure told in one line.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use crate::root;

/// Why a task ended early, in one line, and what to exit with.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    code: u8,
}

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            code: 1,
        }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self {
            code: 2,
            ..Self::new(message)
        }
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// A line about what happens, apart from what the commands print.
pub(crate) fn say(line: &str) {
    eprintln!("xtask: {line}");
}

/// A command to be run.
#[derive(Debug)]
pub(crate) struct Step {
    program: OsString,
    command: Command,
}

impl Step {
    pub(crate) fn new(program: impl Into<PathBuf>) -> Self {
        let program = program.into().into_os_string();
        Self {
            command: Command::new(&program),
            program,
        }
    }

    pub(crate) fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    pub(crate) fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.command.args(arguments);
        self
    }

    pub(crate) fn dir(mut self, dir: PathBuf) -> Self {
        self.command.current_dir(dir);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs it with our own input and output.
    ///
    /// # Errors
    /// When it cannot be started or ends with another exit code than 0, which becomes ours.
    pub(crate) fn run(mut self) -> Result<(), Failure> {
        say(&self.to_string());
        let status = self
            .command
            .status()
            .map_err(|err| Failure::new(format!("start {}: {err}", self.program.display())))?;
        if status.success() {
            return Ok(());
        }
        Err(Failure {
            message: format!("`{self}` ended with {status}"),
            code: status
                .code()
                .and_then(|c| u8::try_from(c).ok())
                .unwrap_or(1),
        })
    }

    /// Whether it can be started and exits with 0; says nothing.
    pub(crate) fn succeeds(mut self) -> bool {
        self.command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }

    /// What it prints, where it can be started and exits with 0; says nothing.
    pub(crate) fn output(mut self) -> Option<String> {
        let output = self
            .command
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .ok()?;
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.program.display().fmt(f)?;
        for argument in self.command.get_args() {
            write!(f, " {}", argument.display())?;
        }
        Ok(())
    }
}

/// The cargo that runs us, in the workspace.
pub(crate) fn cargo<const N: usize>(arguments: [&str; N]) -> Step {
    let program = env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), Into::into);
    Step::new(program).args(arguments).dir(root())
}
