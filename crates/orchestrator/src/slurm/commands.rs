//! Slurm's commands, each with a deadline: without a controller they try for long.

use std::env;
use std::ffi::OsStr;
use std::fmt;
use std::io::ErrorKind;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;

/// Longer than it takes the commands themselves to give up, as Slurm is usually set up.
pub(super) const LIMIT: Duration = Duration::from_secs(30);

/// What a command may say: some hundred thousand jobs of ours.
const OUTPUT_BYTES: u64 = 64 << 20;

/// The end of what it says of its errors: the last line is the one that decides.
const ERROR_BYTES: usize = 4096;

/// What commands get of our environment, and jobs of theirs: who and where we are, where Slurm is,
/// and where a trainer finds what it needs. Nothing secret, and none of the variables that change
/// what Slurm's commands do.
const PASSED_ON: [&str; 19] = [
    "BASH_ENV",
    "CUDA_HOME",
    "CUDA_PATH",
    "HOME",
    "IMPRINT_CACHE_DIR",
    "KRB5CCNAME",
    "LANG",
    "LD_LIBRARY_PATH",
    "LOGNAME",
    "PATH",
    "SHELL",
    "SLURM_CLUSTERS",
    "SLURM_CONF",
    "SLURM_CONF_SERVER",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TZ",
    "USER",
    "XDG_CACHE_HOME",
];

/// The same of whole families: languages, and `module` with what it has loaded.
const PASSED_ON_PREFIXES: [&str; 5] = ["BASH_FUNC_", "LC_", "LMOD_", "LOADEDMODULES", "MODULE"];

pub(super) struct Commands {
    pub(super) limit: Duration,
    /// What they get in the place of what we have.
    pub(super) environment: Vec<(&'static str, PathBuf)>,
}

impl Default for Commands {
    fn default() -> Self {
        Self {
            limit: LIMIT,
            environment: Vec::new(),
        }
    }
}

/// Why a command has no answer, in one line.
#[derive(Debug)]
pub(super) enum Unanswered {
    /// It is not here, or cannot be run.
    NotStarted(String),
    /// It ended by itself and said why.
    Refused(String),
    /// It did not end in time, was ended by a signal, or said nothing or too much: what became of
    /// what it was asked nobody knows.
    Silent(String),
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::NotStarted(line) | Self::Refused(line) | Self::Silent(line)) = self;
        f.write_str(line)
    }
}

impl Commands {
    /// What a command prints.
    pub(super) async fn run<A: AsRef<OsStr>>(
        &self,
        program: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<String, Unanswered> {
        let mut command = Command::new(program);
        command.args(arguments).env_clear();
        command.envs(env::vars_os().filter(|(name, _)| is_passed_on(&name.to_string_lossy())));
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        // What `sbatch` has of these, jobs have.
        if program != "sbatch" {
            // Seconds of the epoch.
            command.env("SLURM_TIME_FORMAT", "%s");
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C in the terminal is not for a submission that is under way.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| {
                let line = format!("{program}: {e}");
                match e.kind() {
                    ErrorKind::NotFound | ErrorKind::PermissionDenied => {
                        Unanswered::NotStarted(line)
                    }
                    // The machine lacks memory or processes, and will have some again.
                    _ => Unanswered::Silent(line),
                }
            })?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let ended = async {
            let (said, complaint) =
                tokio::join!(head(stdout, OUTPUT_BYTES), tail(stderr, ERROR_BYTES));
            (said, complaint, child.wait().await)
        };
        let Ok((said, complaint, status)) = tokio::time::timeout(self.limit, ended).await else {
            let limit = self.limit;
            return Err(Unanswered::Silent(format!(
                "{program} does not answer within {limit:?}"
            )));
        };
        if said.len() as u64 > OUTPUT_BYTES {
            return Err(Unanswered::Silent(format!("{program} says too much")));
        }
        match status {
            Ok(status) if status.success() => Ok(String::from_utf8_lossy(&said).into_owned()),
            Ok(status) => {
                let complaint = one_line(&String::from_utf8_lossy(&complaint));
                let ended = format!("{program} ended with {status}");
                Err(match (status.signal(), &*complaint) {
                    (_, "") => Unanswered::Silent(ended),
                    // It may have been heard before.
                    (Some(_), said) => Unanswered::Silent(format!("{ended}: {said}")),
                    (None, said) if said.starts_with(program) => Unanswered::Refused(complaint),
                    (None, said) => Unanswered::Refused(format!("{program}: {said}")),
                })
            }
            Err(e) => Err(Unanswered::Silent(format!("{program}: {e}"))),
        }
    }
}

fn is_passed_on(name: &str) -> bool {
    PASSED_ON.contains(&name)
        || PASSED_ON_PREFIXES
            .iter()
            .any(|prefix| name.starts_with(prefix))
}

/// The beginning of what is said, one byte more than a limit at most. The rest is read as well: a
/// command that nobody hears is ended by that.
async fn head(pipe: Option<impl AsyncRead + Unpin>, limit: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        // What was said before a failure stands, and how the command ended says the rest.
        let _ = (&mut pipe).take(limit + 1).read_to_end(&mut bytes).await;
        let _ = tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await;
    }
    bytes
}

/// The end of what is said.
async fn tail(pipe: Option<impl AsyncRead + Unpin>, limit: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        while let Ok(1..) = pipe.read_buf(&mut bytes).await {
            bytes.drain(..bytes.len().saturating_sub(limit));
        }
    }
    bytes
}

fn one_line(text: &str) -> String {
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect();
    lines.join("; ")
}

#[cfg(test)]
mod tests;
