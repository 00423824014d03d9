//! What Slurm tells of jobs, and what that means.
//!
//! Its commands are asked for columns of text, which are the same in every version. Their JSON is
//! not, and in 22.05 not to be relied on: `squeue --json` lists everyone's jobs whatever is asked for
//! and calls an absent controller an empty queue (exit code 0), and `sacct --json` gives exit code 0
//! for jobs that failed.

use std::time::Duration;

use imprint_store::runs::Job;
use nix::sys::signal::Signal;
use uuid::Uuid;

use crate::executor::Phase;

/// How long after its end a job of which nothing else is known may yet be requeued.
const REQUEUED_WITHIN: Duration = Duration::from_secs(60);

/// Separates columns. The last ones may have it in them.
const SEPARATOR: char = '|';

/// Columns of `squeue`, in which longer values are cut.
const COLUMNS: &str = "JobID:16|,State:24|,exit_code:12|,RestartCnt:12|,EndTime:24|,NodeList:64|,\
    Reason:160|,Name:128|,Comment:64|";

/// Columns of `sacct`. The line by which a job was submitted has its comment, which not every
/// database of jobs keeps.
const FIELDS: &str = "JobIDRaw,State,ExitCode,NodeList,JobName,Comment,SubmitLine";

/// What Slurm says of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    /// Its number.
    pub(super) id: String,
    /// A word such as `PENDING`.
    state: String,
    exit: Exit,
    n_restarts: u32,
    /// Since the epoch; `None` where it has not ended.
    ended_at: Option<Duration>,
    /// Empty where it had none.
    nodes: String,
    /// A word or a sentence; empty where there is none.
    reason: String,
    name: String,
    /// Its comment, and the line by which it was submitted where that is told.
    comment: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Exit {
    code: u8,
    /// 0 where no signal ended it.
    signal: u8,
}

/// Where a job is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Waits,
    Lives,
    /// It ended by no fault of its own, and may be requeued.
    Interrupted,
    Ended,
    Unknown,
}

/// What `squeue` is told: all jobs of this user that the controller remembers.
pub(super) fn arguments() -> [String; 4] {
    let format = format!("--Format={COLUMNS}");
    ["--noheader", "--me", "--states=all", &format].map(str::to_owned)
}

/// What `sacct` is told: this user's jobs of some names that existed within a time before now.
pub(super) fn sacct_arguments(names: &[String], within: Duration) -> [String; 7] {
    [
        "--noheader".to_owned(),
        "--parsable2".to_owned(),
        "--allocations".to_owned(),
        format!("--format={FIELDS}"),
        format!("--user={}", nix::unistd::geteuid()),
        format!("--name={}", names.join(",")),
        format!("--starttime=now-{}seconds", within.as_secs()),
    ]
}

/// The jobs that `squeue` tells of; a line that is none is left out.
pub(super) fn of_squeue(text: &str) -> Vec<Told> {
    let told = |line: &str| {
        let mut columns = line.split(SEPARATOR).map(str::trim);
        let mut next = || columns.next();
        let told = Told {
            id: next().filter(|id| is_number(id))?.to_owned(),
            state: next()?.to_owned(),
            exit: Exit::of_wait_status(next()?.parse().ok()?),
            n_restarts: next()?.parse().ok()?,
            ended_at: next()?.parse().ok().map(Duration::from_secs),
            nodes: next()?.to_owned(),
            reason: next().map(|reason| match reason {
                "None" => String::new(),
                reason => reason.to_owned(),
            })?,
            name: next()?.to_owned(),
            comment: next()?.to_owned(),
        };
        Some(told)
    };
    text.lines().filter_map(told).collect()
}

/// The jobs that `sacct` tells of; a line that is none is left out.
pub(super) fn of_sacct(text: &str) -> Vec<Told> {
    let told = |line: &str| {
        let mut columns = line.splitn(6, SEPARATOR).map(str::trim);
        let mut next = || columns.next();
        Some(Told {
            id: next().filter(|id| is_number(id))?.to_owned(),
            // `CANCELLED by 1000`
            state: next()?.split(' ').next()?.to_owned(),
            exit: Exit::of_pair(next()?)?,
            n_restarts: 0,
            // Whatever is asked of accounting, the queue has forgotten.
            ended_at: Some(Duration::ZERO),
            nodes: next().map(|nodes| match nodes {
                "None assigned" => String::new(),
                nodes => nodes.to_owned(),
            })?,
            reason: String::new(),
            name: next()?.to_owned(),
            comment: next()?.trim_matches(SEPARATOR).to_owned(),
        })
    };
    text.lines().filter_map(told).collect()
}

/// What is told of a job of ours; of several that were submitted for it, the one that has not ended.
pub(super) fn pick<'a>(told: &'a [Told], job: &Job, name: &str) -> Option<&'a Told> {
    let is_it = |told: &&Told| {
        told.comment.contains(&job.request_id)
            // A site may keep no comments, or write its own; another request's means another job,
            // for Slurm may give a number again.
            || Uuid::try_parse(&told.comment).is_err()
                && told.name == name
                && job.external_id.as_ref() == Some(&told.id)
    };
    let mut of_job = told.iter().filter(is_it);
    let first = of_job.next()?;
    let alive = std::iter::once(first)
        .chain(of_job)
        .find(|t| !t.has_ended());
    Some(alive.unwrap_or(first))
}

/// Whether another try may succeed where `sbatch` said this.
pub(super) fn is_passing(said: &str) -> bool {
    const PASSING: [&str; 12] = [
        "Unable to contact",
        "timed out",
        "Zero Bytes",
        "onnection refused",
        "onnection failure",
        "onnection reset",
        "emporarily",
        "again later",
        "authentication",
        "Munge",
        "MaxSubmitJob",
        "job submit limit",
    ];
    PASSING.iter().any(|passing| said.contains(passing))
}

impl Told {
    /// What it means now; the exit code `requeue_exit` asks Slurm to requeue a job.
    pub(super) fn phase(&self, now: Duration, requeue_exit: u8) -> Phase {
        let id = &self.id;
        let waits = |reason: &str| Phase::Waiting {
            reason: match self.n_restarts {
                0 => format!("Slurm job {id} waits: {reason}"),
                1 => format!("Slurm job {id} waits: {reason} (requeued once)"),
                n => format!("Slurm job {id} waits: {reason} (requeued {n} times)"),
            },
        };
        match self.stage() {
            Stage::Lives => Phase::Alive,
            Stage::Waits => match (&*self.state, &*self.reason) {
                ("PENDING" | "REQUEUED", "") => waits("the scheduler has not looked at it yet"),
                (state, "") => waits(state),
                ("PENDING", reason) => waits(reason),
                (state, reason) => waits(&format!("{state}, {reason}")),
            },
            Stage::Unknown => waits(&format!("what {} means is not known", self.state)),
            Stage::Interrupted if self.ended_at.is_none_or(|end| now < end + REQUEUED_WITHIN) => {
                waits(&self.state)
            }
            Stage::Interrupted | Stage::Ended => Phase::Ended {
                how: format!("{} ({})", self.end(requeue_exit), self.place()),
            },
        }
    }

    /// Whether this is the last word, said by a queue or a database that has no other one.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.stage(), Stage::Ended | Stage::Interrupted)
    }

    fn stage(&self) -> Stage {
        match &*self.state {
            "PENDING" | "REQUEUED" | "REQUEUE_FED" | "REQUEUE_HOLD" | "RESV_DEL_HOLD"
            | "SPECIAL_EXIT" | "CONFIGURING" | "POWER_UP_NODE" | "SUSPENDED" | "STOPPED" => {
                Stage::Waits
            }
            "RUNNING" | "COMPLETING" | "RESIZING" | "SIGNALING" | "STAGE_OUT" | "UPDATE_DB" => {
                Stage::Lives
            }
            "PREEMPTED" | "NODE_FAIL" => Stage::Interrupted,
            "COMPLETED" | "FAILED" | "CANCELLED" | "TIMEOUT" | "OUT_OF_MEMORY" | "BOOT_FAIL"
            | "DEADLINE" | "REVOKED" | "LAUNCH_FAILED" | "RECONFIG_FAIL" => Stage::Ended,
            _ => Stage::Unknown,
        }
    }

    /// How it ended, in words that follow "the trainer".
    fn end(&self, requeue_exit: u8) -> String {
        match &*self.state {
            "CANCELLED" => "was cancelled in Slurm".to_owned(),
            "TIMEOUT" => "ran into its time limit".to_owned(),
            "DEADLINE" => "ran into its deadline".to_owned(),
            "OUT_OF_MEMORY" => "was ended for more memory than it had asked for".to_owned(),
            "PREEMPTED" => "was preempted and not requeued".to_owned(),
            "NODE_FAIL" => "lost its node and was not requeued".to_owned(),
            "BOOT_FAIL" => "could not be started, its node did not boot".to_owned(),
            "COMPLETED" | "FAILED" if !self.nodes.is_empty() => self.exit.end(requeue_exit),
            state => match &*self.reason {
                "" => format!("could not be started: {state}"),
                reason => format!("could not be started: {state}, {reason}"),
            },
        }
    }

    fn place(&self) -> String {
        match &*self.nodes {
            "" => format!("Slurm job {}", self.id),
            nodes => format!("Slurm job {} on {nodes}", self.id),
        }
    }
}

impl Exit {
    /// As `wait` has it.
    fn of_wait_status(status: u32) -> Self {
        Self {
            code: (status >> 8) as u8,
            signal: (status & 0x7f) as u8,
        }
    }

    /// Of `code:signal`.
    fn of_pair(pair: &str) -> Option<Self> {
        let (code, signal) = pair.split_once(':')?;
        Some(Self {
            code: code.parse().ok()?,
            signal: signal.parse().ok()?,
        })
    }

    fn end(self, requeue_exit: u8) -> String {
        match (self.code, self.signal) {
            (code, 0) if code == requeue_exit => {
                format!("stopped with exit code {code} to be requeued, and was not")
            }
            (code, 0) => format!("ended with exit code {code}"),
            (_, signal) => match Signal::try_from(i32::from(signal)) {
                Ok(signal) => format!("was ended by {signal}"),
                Err(_) => format!("was ended by signal {signal}"),
            },
        }
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests;
