//! Trainer processes on this machine.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use imprint_store::runs::Job;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::executor::{Executor, Phase, Refused, Seen, aside};
use crate::logs;
use crate::trainer::{NOT_FOR_TRAINERS, TrainerCommand};

/// How often it is looked whether a process has ended.
const POLL: Duration = Duration::from_millis(100);

/// How often shutting down looks.
const SHUT_DOWN_POLL: Duration = Duration::from_millis(20);

/// How long a killed process may take to end; one that hangs in the kernel does not.
const KILLED_WITHIN: Duration = Duration::from_secs(5);

/// The processes of jobs: those that it started, and those of an earlier orchestrator that it found.
pub(crate) struct Local {
    host: String,
    /// The GPU of each slot; where there is none, processes see what this one sees.
    gpus: Vec<u32>,
    runs_dir: PathBuf,
    /// By the request ids of their jobs.
    held: BTreeMap<String, Held>,
}

struct Held {
    pid: u32,
    /// `None` for a process that an earlier orchestrator started.
    child: Option<Child>,
    exit: Option<String>,
}

impl Local {
    /// `host` tells this machine's processes from those of others.
    pub(crate) fn new(host: String, gpus: Vec<u32>, runs_dir: PathBuf) -> Self {
        Self {
            host,
            gpus,
            runs_dir,
            held: BTreeMap::new(),
        }
    }

    fn log_of(&self, job: &Job) -> PathBuf {
        let run_dir = self.runs_dir.join(job.run_id.to_string());
        run_dir.join("logs").join(logs::name_of(job.job))
    }

    /// Takes the process of a job under observation, if there is one here; whether it is known.
    async fn hold(&mut self, job: &Job) -> bool {
        if self.held.contains_key(&job.request_id) {
            return true;
        }
        let pid = match &job.external_id {
            Some(id) => match id.rsplit_once(':') {
                Some((host, pid)) if host == self.host => pid.parse().ok(),
                _ => return false,
            },
            // Its number got lost on the way.
            None => {
                let request_id = job.request_id.clone();
                aside(move || find(&request_id)).await
            }
        };
        let Some(pid) = pid else { return false };
        let child = None;
        let exit = None;
        self.held
            .insert(job.request_id.clone(), Held { pid, child, exit });
        true
    }

    fn signal(&mut self, job: &Job, signal: Signal) -> Result<(), String> {
        self.look();
        let Some(held) = self.held.get(&job.request_id) else {
            return Err("its process is not on this machine".to_owned());
        };
        match held.exit {
            Some(_) => Ok(()),
            None => kill(Pid::from_raw(held.pid as i32), signal)
                .map_err(|e| format!("process {}: {e}", held.pid)),
        }
    }

    /// Notes which processes have ended.
    fn look(&mut self) {
        for (request_id, held) in &mut self.held {
            held.look(request_id);
        }
    }

    fn alive(&self) -> impl Iterator<Item = u32> {
        let alive = self.held.values().filter(|held| held.exit.is_none());
        alive.map(|held| held.pid)
    }

    fn signal_all(&mut self, signal: Signal) {
        self.look();
        for pid in self.alive() {
            if let Err(e) = kill(Pid::from_raw(pid as i32), signal) {
                tracing::warn!(pid, "cannot send {signal}: {e}");
            }
        }
    }

    /// Whether all processes have ended, or do so within a time.
    async fn have_ended(&mut self, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        loop {
            self.look();
            if self.alive().next().is_none() {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(SHUT_DOWN_POLL).await;
        }
    }
}

#[tonic::async_trait]
impl Executor for Local {
    fn poll_every(&self) -> Duration {
        POLL
    }

    async fn submit(&mut self, job: &Job, command: &TrainerCommand) -> Result<String, Refused> {
        if !self.hold(job).await {
            let (command, log) = (command.clone(), self.log_of(job));
            let gpu = job.slot.and_then(|slot| self.gpus.get(slot as usize));
            let gpu = gpu.copied();
            let child = aside(move || spawn(&command, &log, gpu)).await;
            let child = child.map_err(|e| Refused::Ended(format!("could not be started: {e}")))?;
            let held = Held {
                pid: child.id(),
                child: Some(child),
                exit: None,
            };
            self.held.insert(job.request_id.clone(), held);
        }
        Ok(format!("{}:{}", self.host, self.held[&job.request_id].pid))
    }

    async fn observe(&mut self, jobs: &[Job]) -> Result<BTreeMap<i32, Seen>, String> {
        let mut known = Vec::new();
        for job in jobs {
            if self.hold(job).await {
                known.push(job);
            }
        }
        self.look();
        let mut seen = BTreeMap::new();
        for job in known {
            let held = &self.held[&job.request_id];
            let phase = match &held.exit {
                None => Phase::Alive,
                Some(exit) => {
                    let log = self.log_of(job);
                    let how = match aside(move || logs::last_line(&log)).await {
                        Some(line) => format!("{exit}: {line}"),
                        None => exit.clone(),
                    };
                    Phase::Ended { how }
                }
            };
            let external_id = format!("{}:{}", self.host, held.pid);
            seen.insert(job.run_id, Seen { external_id, phase });
        }
        // One that lives is waited for, whatever has become of its job.
        let listed = |id: &String| jobs.iter().any(|job| job.request_id == *id);
        self.held
            .retain(|id, held| held.exit.is_none() || listed(id));
        Ok(seen)
    }

    async fn stop(&mut self, job: &Job) -> Result<(), String> {
        self.signal(job, Signal::SIGTERM)
    }

    async fn kill(&mut self, job: &Job) -> Result<(), String> {
        self.signal(job, Signal::SIGKILL)
    }

    async fn shut_down(&mut self, grace: Duration) {
        self.signal_all(Signal::SIGTERM);
        if self.have_ended(grace).await {
            return;
        }
        self.signal_all(Signal::SIGKILL);
        if !self.have_ended(KILLED_WITHIN).await {
            let pids: Vec<u32> = self.alive().collect();
            tracing::warn!("killed trainers have not ended: processes {pids:?}");
        }
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.signal_all(Signal::SIGTERM);
    }
}

impl Held {
    fn look(&mut self, request_id: &str) {
        if self.exit.is_some() {
            return;
        }
        self.exit = match &mut self.child {
            Some(child) => match child.try_wait() {
                Ok(None) => None,
                Ok(Some(status)) => Some(describe(status)),
                Err(e) => Some(format!("cannot be observed: {e}")),
            },
            None if is_trainer_of(self.pid, request_id) => None,
            None => Some("is gone".to_owned()),
        };
    }
}

fn spawn(command: &TrainerCommand, log: &Path, gpu: Option<u32>) -> Result<Child, String> {
    let logged = logs::dir_of(&command.run_dir)
        .and_then(|_| File::options().create(true).append(true).open(log))
        .and_then(|log| Ok((log.try_clone()?, log)));
    let (stdout, stderr) = logged.map_err(|e| format!("cannot write {}: {e}", log.display()))?;
    let environment = command.environment.iter();
    let mut process = Command::new(&command.program);
    process
        .args(&command.arguments)
        .envs(environment.map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(stderr)
        // A group of its own: Ctrl-C in the terminal is for the orchestrator, which then asks its
        // trainers to stop.
        .process_group(0);
    for name in NOT_FOR_TRAINERS {
        process.env_remove(name);
    }
    if let Some(gpu) = gpu {
        process.env("CUDA_VISIBLE_DEVICES", gpu.to_string());
    }
    let program = command.program.display();
    process.spawn().map_err(|e| format!("{program}: {e}"))
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

/// The process of a job on this machine.
fn find(request_id: &str) -> Option<u32> {
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .find(|&pid| is_trainer_of(pid, request_id))
}

/// Whether a process is the trainer of a job, and not another that got its number later.
fn is_trainer_of(pid: u32, request_id: &str) -> bool {
    if !Path::new("/proc/self/cmdline").exists() {
        return kill(Pid::from_raw(pid as i32), None).is_ok();
    }
    // A process that has ended and was not waited for has no arguments any more.
    let Ok(arguments) = fs::read(format!("/proc/{pid}/cmdline")) else {
        return false;
    };
    let arguments: Vec<&[u8]> = arguments.split(|&b| b == 0).collect();
    let pair = [b"--job".as_slice(), request_id.as_bytes()];
    arguments.windows(2).any(|w| w == pair)
}

#[cfg(test)]
mod tests;
