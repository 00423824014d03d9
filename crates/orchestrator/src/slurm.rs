//! Trainers as jobs of a Slurm cluster.
//!
//! Everything is asked of Slurm's own commands, and asked anew each time: what was submitted is found
//! again by the request id in its comment.

mod commands;
mod queue;
mod script;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use imprint_store::runs::Job;
use uuid::Uuid;

use self::commands::{Commands, Unanswered};
use self::queue::Told;
pub(crate) use self::script::check_template;
use crate::executor::{Executor, Phase, Refused, Seen, aside};
use crate::logs;
use crate::site::SlurmConfig;
use crate::trainer::TrainerCommand;

/// How far accounting is searched back beyond the time at which a job was last asked for: it may have
/// been asked for before.
const LOOK_BACK: Duration = Duration::from_secs(7 * 24 * 3600);

/// Jobs of a Slurm cluster, one a job of ours.
pub(crate) struct Slurm {
    config: SlurmConfig,
    /// See [`laboratory`].
    laboratory: String,
    runs_dir: PathBuf,
    commands: Commands,
    /// `false` once Slurm has said that there is none.
    has_accounting: bool,
}

/// What Slurm says of jobs.
struct Found {
    /// By their runs.
    told: BTreeMap<i32, Told>,
    /// Why the jobs that are not in the queue could not be looked for elsewhere.
    accounting: Result<(), String>,
}

/// What tells the jobs of a laboratory from those of another one of the same user: made once and kept
/// in the data directory, which is one laboratory's whichever orchestrator serves it.
///
/// # Errors
/// When its file can be neither read nor made, or holds something else.
pub(crate) fn laboratory(data_dir: &Path) -> io::Result<String> {
    let path = data_dir.join("laboratory");
    let made = Uuid::new_v4().simple().to_string();
    if !path.exists() {
        // Under its name only once it is whole, and never in the place of another orchestrator's.
        let new = data_dir.join(format!("laboratory.{made}"));
        let mut file = File::create_new(&new)?;
        file.write_all(&made.as_bytes()[..8])?;
        file.sync_all()?;
        match fs::hard_link(&new, &path) {
            // A file system without links.
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => fs::rename(&new, &path)?,
            _ => fs::remove_file(&new)?,
        }
    }
    let kept = fs::read_to_string(&path)?.trim().to_owned();
    match !kept.is_empty() && kept.len() <= 32 && kept.bytes().all(|b| b.is_ascii_alphanumeric()) {
        true => Ok(kept),
        false => Err(io::Error::other(format!(
            "{} is no mark of a laboratory, a few letters and digits; without jobs in Slurm, remove it",
            path.display()
        ))),
    }
}

impl Slurm {
    pub(crate) fn new(config: SlurmConfig, laboratory: String, runs_dir: PathBuf) -> Self {
        Self {
            config,
            laboratory,
            runs_dir,
            commands: Commands::default(),
            has_accounting: true,
        }
    }

    /// The same name for all jobs of a run: of those Slurm runs one at a time.
    fn name_of(&self, job: &Job) -> String {
        format!("{}-{}-{}", self.config.name, self.laboratory, job.run_id)
    }

    fn run_dir(&self, job: &Job) -> PathBuf {
        self.runs_dir.join(job.run_id.to_string())
    }

    fn log_of(&self, job: &Job, slurm_id: &str) -> PathBuf {
        let name = format!("job-{}-slurm-{slurm_id}.log", job.job);
        self.run_dir(job).join("logs").join(name)
    }

    /// The queue, and accounting where that does not know all of the jobs.
    async fn find(&mut self, jobs: &[Job]) -> Result<Found, String> {
        let queue = self.commands.run("squeue", queue::arguments()).await;
        let queue = queue.map_err(|e| format!("Slurm does not answer: {e}"))?;
        let names: Vec<String> = jobs.iter().map(|job| self.name_of(job)).collect();
        let queue = queue::of_squeue(&queue, &names).map_err(|e| format!("squeue: {e}"))?;
        let mut found = Found {
            told: BTreeMap::new(),
            accounting: Ok(()),
        };
        let mut missing = Vec::new();
        for job in jobs {
            match queue::pick(&queue, job, &self.name_of(job)) {
                Some(told) => drop(found.told.insert(job.run_id, told.clone())),
                None => missing.push(job),
            }
        }
        if missing.is_empty() || !self.has_accounting {
            return Ok(found);
        }
        let since = missing.iter().map(|job| job.asked_for).max();
        let names: Vec<String> = missing.iter().map(|job| self.name_of(job)).collect();
        let arguments = queue::sacct_arguments(&names, since.unwrap_or_default() + LOOK_BACK);
        match self.commands.run("sacct", arguments).await {
            Ok(records) => match queue::of_sacct(&records, &names) {
                Ok(records) => {
                    for job in missing {
                        // Accounting goes on calling a job alive that the queue has lost.
                        if let Some(told) = queue::pick(&records, job, &self.name_of(job))
                            && told.has_ended()
                        {
                            found.told.insert(job.run_id, told.clone());
                        }
                    }
                }
                Err(e) => found.accounting = Err(format!("sacct: {e}")),
            },
            Err(e) if e.to_string().contains("accounting storage is disabled") => {
                self.has_accounting = false;
            }
            Err(e) => found.accounting = Err(e.to_string()),
        }
        Ok(found)
    }

    async fn phase(&self, job: &Job, told: &Told) -> Phase {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let phase = told.phase(now.unwrap_or_default(), self.config.requeue_exit);
        match phase {
            Phase::Ended { how } => {
                let log = self.log_of(job, &told.id);
                let how = match aside(move || logs::last_line(&log)).await {
                    Some(line) => format!("{how}: {line}"),
                    None => how,
                };
                Phase::Ended { how }
            }
            phase => phase,
        }
    }

    /// Takes a job out of the queue that would stay in it for ever: another one can be submitted then.
    async fn give_up(&self, job: &Job, slurm_id: &str, how: String) -> Phase {
        let job = Job {
            external_id: Some(slurm_id.to_owned()),
            ..job.clone()
        };
        match self.scancel(&job, []).await {
            Ok(()) => Phase::Ended { how },
            Err(problem) => Phase::Waiting {
                reason: format!("the trainer {how}, and cannot be cancelled: {problem}"),
            },
        }
    }

    /// Writes the job's script, which stays where its user can see it.
    async fn write_script(
        &self,
        path: &Path,
        job: &Job,
        command: &TrainerCommand,
    ) -> Result<(), String> {
        let mut command = command.clone();
        if self.config.requeue {
            let code = self.config.requeue_exit.to_string();
            (command.arguments).extend(["--stopped-exit-code".into(), code.into()]);
        }
        let script = script::of(&self.config, job, &command);
        let written = async {
            tokio::fs::create_dir_all(command.run_dir.join("logs")).await?;
            tokio::fs::create_dir_all(path.parent().unwrap_or(path)).await?;
            tokio::fs::write(path, &script).await
        };
        (written.await).map_err(|e| format!("cannot write {}: {e}", path.display()))
    }

    /// What `sbatch` is told; its own options first, so that those of the site file count.
    fn sbatch_arguments(&self, job: &Job, script: &Path) -> Vec<OsString> {
        let config = &self.config;
        let run_dir = self.run_dir(job);
        let mut arguments: Vec<OsString> = vec![
            "--parsable".into(),
            format!("--job-name={}", self.name_of(job)).into(),
            format!("--comment={}", job.request_id).into(),
            "--dependency=singleton".into(),
            // What `sbatch` has of us. Otherwise Slurm runs a login for each job, which takes as long
            // as the user's profile does and may fail.
            "--export=ALL".into(),
            "--open-mode=append".into(),
            joined("--chdir=", &run_dir),
            joined("--output=", &escaped(&self.log_of(job, "%j"), "%j.log")),
            format!("--signal=B:USR1@{}", config.signal_seconds).into(),
            match config.requeue {
                true => "--requeue".into(),
                false => "--no-requeue".into(),
            },
        ];
        let options = [
            ("--partition=", &config.partition),
            ("--account=", &config.account),
            ("--qos=", &config.qos),
            ("--gres=", &config.gres),
            ("--constraint=", &config.constraint),
        ];
        for (option, value) in options {
            if let Some(value) = value {
                arguments.push(format!("{option}{value}").into());
            }
        }
        if let Some(limit) = config.time_limit {
            let (minutes, seconds) = (limit.as_secs() / 60, limit.as_secs() % 60);
            arguments.push(format!("--time={minutes}:{seconds}").into());
        }
        arguments.extend(config.arguments.iter().map(OsString::from));
        arguments.push(script.into());
        arguments
    }

    async fn sbatch(&mut self, job: &Job, script: &Path) -> Result<String, Refused> {
        let arguments = self.sbatch_arguments(job, script);
        match self.commands.run("sbatch", arguments).await {
            // `<number>` or `<number>;<cluster>`, after what a plugin of the site may have said.
            Ok(said) => (said.lines().rev())
                .filter_map(|line| line.trim().split(';').next())
                .find(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
                .map(str::to_owned)
                .ok_or_else(|| Refused::Unclear(format!("sbatch gives no number: {said:?}"))),
            Err(Unanswered::Refused(said)) if queue::is_final(&said) => {
                Err(Refused::Ended(format!("could not be started: {said}")))
            }
            Err(e @ Unanswered::NotStarted(_)) => {
                Err(Refused::Ended(format!("could not be started: {e}")))
            }
            Err(e) => Err(Refused::Unclear(e.to_string())),
        }
    }

    /// `scancel`, of the job by its name and number: Slurm may give a number again after it has lost
    /// what it knew.
    async fn scancel<const N: usize>(&self, job: &Job, options: [&str; N]) -> Result<(), String> {
        let Some(slurm_id) = &job.external_id else {
            return Err("its number in Slurm is not known yet".to_owned());
        };
        let mut arguments = vec![format!("--name={}", self.name_of(job))];
        arguments.extend(options.map(str::to_owned));
        arguments.push(slurm_id.clone());
        let cancelled = self.commands.run("scancel", arguments).await;
        cancelled.map(drop).map_err(|e| e.to_string())
    }
}

#[tonic::async_trait]
impl Executor for Slurm {
    fn poll_every(&self) -> Duration {
        Duration::from_secs(self.config.poll_seconds.into())
    }

    async fn submit(&mut self, job: &Job, command: &TrainerCommand) -> Result<String, Refused> {
        let script = (command.run_dir.join("jobs")).join(format!("{}.sh", job.job));
        // The script is written before Slurm is asked, so without one nobody was asked.
        let may_be_there = tokio::fs::try_exists(&script).await;
        if may_be_there.map_err(|e| Refused::Unclear(format!("{}: {e}", script.display())))? {
            let mut found = self
                .find(std::slice::from_ref(job))
                .await
                .map_err(Refused::Unclear)?;
            if let Some(told) = found.told.remove(&job.run_id) {
                return Ok(told.id);
            }
            found.accounting.map_err(Refused::Unclear)?;
        }
        (self.write_script(&script, job, command).await)
            .map_err(|e| Refused::Ended(format!("could not be started: {e}")))?;
        self.sbatch(job, &script).await
    }

    async fn observe(&mut self, jobs: &[Job]) -> Result<BTreeMap<i32, Seen>, String> {
        if jobs.is_empty() {
            return Ok(BTreeMap::new());
        }
        let found = self.find(jobs).await?;
        let mut all = BTreeMap::new();
        for job in jobs {
            let seen = match (found.told.get(&job.run_id), &found.accounting) {
                (Some(told), _) => Seen {
                    external_id: told.id.clone(),
                    phase: match told.held_by_slurm() {
                        Some(how) => self.give_up(job, &told.id, how).await,
                        None => self.phase(job, told).await,
                    },
                },
                (None, Ok(())) => continue,
                (None, Err(problem)) => {
                    let Some(external_id) = job.external_id.clone() else {
                        continue;
                    };
                    let reason = format!(
                        "Slurm job {external_id} is not in the queue, and how it ended cannot be \
                         told: {problem}"
                    );
                    Seen {
                        external_id,
                        phase: Phase::Waiting { reason },
                    }
                }
            };
            all.insert(job.run_id, seen);
        }
        Ok(all)
    }

    async fn stop(&mut self, job: &Job) -> Result<(), String> {
        // After SIGTERM the trainer asks Slurm to be started again, after SIGINT not.
        if job.alive_for.is_some()
            && let Ok(()) = self.scancel(job, ["--batch", "--signal=INT"]).await
        {
            return Ok(());
        }
        // It waits, or waits again.
        self.scancel(job, []).await
    }

    async fn kill(&mut self, job: &Job) -> Result<(), String> {
        if job.alive_for.is_some() {
            // At once, and not after the time that Slurm gives (`KillWait`); it fails where the job
            // waits again.
            let killed = self.scancel(job, ["--batch", "--signal=KILL"]).await;
            // What does not end by that leaves the queue by this, which fails where it has ended.
            let cancelled = self.scancel(job, []).await;
            return killed.or(cancelled);
        }
        self.scancel(job, []).await
    }

    async fn shut_down(&mut self, _grace: Duration) {
        // Jobs outlive us, and whoever comes next finds them.
    }
}

fn joined(option: &str, path: &Path) -> OsString {
    let mut joined = OsString::from(option);
    joined.push(path);
    joined
}

/// A path as a file name of `sbatch`, which replaces what follows a `%`; its end is meant so.
fn escaped(path: &Path, end: &str) -> PathBuf {
    let bytes = path.as_os_str().as_bytes();
    let (plain, end) = bytes.split_at(bytes.len() - end.len());
    let mut escaped = Vec::new();
    for &byte in plain {
        escaped.push(byte);
        if byte == b'%' {
            escaped.push(b'%');
        }
    }
    escaped.extend(end);
    OsString::from_vec(escaped).into()
}

#[cfg(test)]
mod tests;
