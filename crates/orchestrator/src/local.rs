//! Trainer processes on this machine: start, observe, stop.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use imprint_access::{Grant, GrantSigner};
use imprint_telemetry::one_line;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::TrainerCertificates;
use crate::plan::Process;

/// Where a run's trainer finds its token, in the run's directory.
const TOKEN_FILE: &str = "token";

/// Secrets that the orchestrator may have in its environment and no trainer needs.
const NOT_FOR_TRAINERS: [&str; 3] = ["DATABASE_URL", "PGPASSWORD", "IMPRINT_TOKEN_FILE"];

/// How long a killed process may take to end; one that hangs in the kernel does not.
const KILLED_WITHIN: Duration = Duration::from_secs(5);

/// How often shutting down looks whether a process has ended.
const POLL: Duration = Duration::from_millis(20);

/// The end of a log in which its last line is looked for.
const LOG_TAIL_BYTES: u64 = 4096;

/// The longest line of a log that becomes part of a reason.
const LOG_LINE_CHARS: usize = 300;

/// What every trainer is started with.
pub(crate) struct Trainer {
    pub(crate) program: PathBuf,
    /// What it is told in its environment: nothing that is secret.
    pub(crate) environment: Vec<(&'static str, String)>,
    pub(crate) orchestrator_url: String,
    pub(crate) certificates: TrainerCertificates,
    /// Where absent, trainers need no tokens.
    pub(crate) signer: Option<Arc<GrantSigner>>,
    pub(crate) token_lasts: Duration,
}

impl Trainer {
    /// The command that starts a run's trainer.
    ///
    /// Its token lies in a file that only its owner can read: arguments and environments are seen by
    /// others, and kept.
    fn command(&self, run_id: i32, run_dir: &Path) -> Result<Command, String> {
        let mut command = Command::new(&self.program);
        command
            .args(["run", "--run-id", &run_id.to_string()])
            .args(["--orchestrator", &self.orchestrator_url])
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        for name in NOT_FOR_TRAINERS {
            command.env_remove(name);
        }
        if let Some(ca) = &self.certificates.ca {
            command.arg("--ca").arg(ca);
        }
        if let Some((certificate, key)) = &self.certificates.identity {
            command.arg("--client-cert").arg(certificate);
            command.arg("--client-key").arg(key);
        }
        if let Some(signer) = &self.signer {
            let path = run_dir.join(TOKEN_FILE);
            let expires = SystemTime::now() + self.token_lasts;
            let token = signer.sign(&Grant::for_run(run_id, expires));
            token.replace(&path).map_err(|e| one_line(&e))?;
            command.arg("--token-file").arg(path);
        }
        Ok(command)
    }
}

/// Trainer processes of this machine, one a run at most.
pub(crate) struct Local {
    trainer: Trainer,
    runs_dir: PathBuf,
    held: BTreeMap<i32, Held>,
}

struct Held {
    pid: u32,
    since: Instant,
    /// `None` for a process that an earlier orchestrator started.
    child: Option<Child>,
    log: Option<PathBuf>,
    stop_asked: Option<Instant>,
    exit: Option<String>,
}

impl Local {
    pub(crate) fn new(trainer: Trainer, runs_dir: PathBuf) -> Self {
        Self {
            trainer,
            runs_dir,
            held: BTreeMap::new(),
        }
    }

    /// Starts a run's trainer; one that cannot be started counts as ended at once.
    pub(crate) fn start(&mut self, run_id: i32) {
        let mut held = Held {
            pid: 0,
            since: Instant::now(),
            child: None,
            log: None,
            stop_asked: None,
            exit: None,
        };
        match self.spawn(run_id) {
            Ok((child, log)) => {
                held.pid = child.id();
                held.child = Some(child);
                held.log = Some(log);
            }
            Err(problem) => held.exit = Some(format!("could not be started: {problem}")),
        }
        self.held.insert(run_id, held);
    }

    fn spawn(&self, run_id: i32) -> Result<(Child, PathBuf), String> {
        let run_dir = self.runs_dir.join(run_id.to_string());
        let logs = run_dir.join("logs");
        let (log, path) =
            new_log(&logs).map_err(|e| format!("cannot write below {}: {e}", logs.display()))?;
        let mut command = self.trainer.command(run_id, &run_dir)?;
        let child = log.try_clone().and_then(|stderr| {
            command
                .stdin(Stdio::null())
                .stdout(log)
                .stderr(stderr)
                // A group of its own: Ctrl-C in the terminal is for the orchestrator, which then
                // asks its trainers to stop.
                .process_group(0)
                .spawn()
        });
        match child {
            Ok(child) => Ok((child, path)),
            Err(e) => Err(format!("{}: {e}", self.trainer.program.display())),
        }
    }

    /// Takes a process that an earlier orchestrator started under observation, unless another one is
    /// observed for the run.
    pub(crate) fn adopt(&mut self, run_id: i32, pid: u32) {
        if self.held.contains_key(&run_id) {
            return;
        }
        let mut held = Held {
            pid,
            since: Instant::now(),
            child: None,
            log: newest_log(&self.runs_dir.join(run_id.to_string()).join("logs")),
            stop_asked: None,
            exit: None,
        };
        held.look(run_id);
        self.held.insert(run_id, held);
    }

    /// Notes which processes have ended.
    pub(crate) fn observe(&mut self) {
        self.held
            .iter_mut()
            .for_each(|(&run_id, held)| held.look(run_id));
    }

    /// The processes as they were when last observed.
    pub(crate) fn processes(&self) -> BTreeMap<i32, Process> {
        let process = |held: &Held| Process {
            pid: held.pid,
            age: held.since.elapsed(),
            exit: held.exit.clone(),
            stopping_for: held.stop_asked.map(|t| t.elapsed()),
        };
        self.held
            .iter()
            .map(|(&run_id, held)| (run_id, process(held)))
            .collect()
    }

    /// Asks a process to save and end.
    pub(crate) fn stop(&mut self, run_id: i32) {
        self.signal(run_id, Signal::SIGTERM);
    }

    /// Ends a process at once.
    pub(crate) fn kill(&mut self, run_id: i32) {
        self.signal(run_id, Signal::SIGKILL);
    }

    fn signal(&mut self, run_id: i32, signal: Signal) {
        let Some(held) = self.held.get_mut(&run_id) else {
            return;
        };
        held.stop_asked.get_or_insert_with(Instant::now);
        // A look first: the number of a process that has ended may be another's by now.
        held.look(run_id);
        if held.exit.is_none()
            && let Err(e) = kill(Pid::from_raw(held.pid as i32), signal)
        {
            tracing::warn!(run_id, pid = held.pid, "cannot send {signal}: {e}");
        }
    }

    /// Stops looking at a process that has ended.
    pub(crate) fn forget(&mut self, run_id: i32) {
        self.held.remove(&run_id);
    }

    /// Asks all processes to save and end, and ends those that have not within `grace`.
    pub(crate) async fn shut_down(mut self, grace: Duration) {
        let run_ids: Vec<i32> = self.held.keys().copied().collect();
        run_ids.iter().for_each(|&run_id| self.stop(run_id));
        if self.have_ended(grace).await {
            return;
        }
        run_ids.iter().for_each(|&run_id| self.kill(run_id));
        if !self.have_ended(KILLED_WITHIN).await {
            let pids: Vec<u32> = self.alive().map(|held| held.pid).collect();
            tracing::warn!("killed trainers have not ended: processes {pids:?}");
        }
    }

    /// Whether all processes have ended, or do so within a time.
    async fn have_ended(&mut self, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        loop {
            self.observe();
            if self.alive().next().is_none() {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn alive(&self) -> impl Iterator<Item = &Held> {
        self.held.values().filter(|held| held.exit.is_none())
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        let run_ids: Vec<i32> = self.held.keys().copied().collect();
        run_ids.into_iter().for_each(|run_id| self.stop(run_id));
    }
}

impl Held {
    fn look(&mut self, run_id: i32) {
        if self.exit.is_some() {
            return;
        }
        let end = match &mut self.child {
            Some(child) => match child.try_wait() {
                Ok(None) => return,
                Ok(Some(status)) => describe(status),
                Err(e) => format!("cannot be observed: {e}"),
            },
            None if is_trainer_of(self.pid, run_id) => return,
            None => "is gone".to_owned(),
        };
        let said = self.log.as_deref().and_then(last_line);
        self.exit = Some(match said {
            Some(line) => format!("{end}: {line}"),
            None => end,
        });
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => match Signal::try_from(signal) {
            Ok(signal) => format!("was ended by {signal}"),
            Err(_) => format!("was ended by signal {signal}"),
        },
        (None, None) => "ended".to_owned(),
    }
}

/// Whether a process is the trainer of a run, and not another that got its number later.
fn is_trainer_of(pid: u32, run_id: i32) -> bool {
    if !Path::new("/proc/self/cmdline").exists() {
        return kill(Pid::from_raw(pid as i32), None).is_ok();
    }
    // A process that has ended and was not waited for has no arguments any more.
    let Ok(arguments) = fs::read(format!("/proc/{pid}/cmdline")) else {
        return false;
    };
    let arguments: Vec<&[u8]> = arguments.split(|&b| b == 0).collect();
    let run_id = run_id.to_string();
    arguments
        .windows(2)
        .any(|w| w == [b"--run-id".as_slice(), run_id.as_bytes()])
}

/// The next `trainer-<number>.log` of a directory.
fn new_log(logs: &Path) -> io::Result<(File, PathBuf)> {
    fs::create_dir_all(logs)?;
    let mut number = 1;
    loop {
        let path = logs.join(format!("trainer-{number}.log"));
        match File::options().create_new(true).append(true).open(&path) {
            Ok(file) => return Ok((file, path)),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => number += 1,
            Err(e) => return Err(e),
        }
    }
}

fn newest_log(logs: &Path) -> Option<PathBuf> {
    (1..)
        .map(|number| logs.join(format!("trainer-{number}.log")))
        .take_while(|path| path.exists())
        .last()
}

/// The last line of a log that says something.
fn last_line(log: &Path) -> Option<String> {
    let mut file = File::open(log).ok()?;
    let n_bytes = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(n_bytes.saturating_sub(LOG_TAIL_BYTES)))
        .ok()?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail).ok()?;
    let tail = String::from_utf8_lossy(&tail);
    let line = tail.lines().map(str::trim).rfind(|line| !line.is_empty())?;
    // A log may be JSON, an object a line.
    let object = serde_json::from_str::<serde_json::Value>(line).ok();
    let message = object.as_ref().and_then(|o| o.get("message")?.as_str());
    Some(
        message
            .unwrap_or(line)
            .chars()
            .take(LOG_LINE_CHARS)
            .collect(),
    )
}

#[cfg(test)]
mod tests;
