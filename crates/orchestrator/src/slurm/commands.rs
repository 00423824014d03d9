//! Slurm's commands, each with a deadline: without a controller they try for long.

use std::env;
use std::ffi::OsStr;
use std::fmt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;

/// Longer than it takes the commands themselves to give up, as Slurm is usually set up.
pub(super) const LIMIT: Duration = Duration::from_secs(30);

/// What a command may say: some hundred thousand jobs of ours.
const OUTPUT_BYTES: u64 = 64 << 20;
const ERROR_BYTES: u64 = 4096;

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
    /// It said why.
    Refused(String),
    /// It did not end in time, or said too much.
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
            .map_err(|e| Unanswered::NotStarted(format!("{program}: {e}")))?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let ended = async {
            let (said, complaint) =
                tokio::join!(all(stdout, OUTPUT_BYTES), all(stderr, ERROR_BYTES));
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
                Err(match complaint.is_empty() {
                    false if complaint.starts_with(program) => Unanswered::Refused(complaint),
                    false => Unanswered::Refused(format!("{program}: {complaint}")),
                    true => Unanswered::Silent(format!("{program} ended with {status}")),
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

/// What is said, up to one byte more than a limit; the rest is read by nobody.
async fn all(pipe: Option<impl AsyncRead + Unpin>, limit: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        // What was said before a failure stands, and how the command ended says the rest.
        let _ = pipe.take(limit + 1).read_to_end(&mut bytes).await;
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
