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

/// Separates columns. Free text, which may have it in it, comes last.
const SEPARATOR: char = '|';

/// Columns of `squeue`, in which longer values are cut.
const COLUMNS: &str = "JobID:16|,State:24|,exit_code:12|,RestartCnt:12|,EndTime:24|,NodeList:64|,\
    Name:128|,Reason:160|,Comment:64|";

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

/// The jobs that `squeue` tells of.
///
/// # Errors
/// Where a line with one of our `names` cannot be read: its job is there, and would be missing.
pub(super) fn of_squeue(text: &str, names: &[String]) -> Result<Vec<Told>, String> {
    read(text, names, |line| {
        let mut columns = line.splitn(9, SEPARATOR).map(str::trim);
        let mut next = || columns.next();
        let told = Told {
            id: next().filter(|id| is_number(id))?.to_owned(),
            state: next()?.to_owned(),
            exit: Exit::of_wait_status(next()?.parse().ok()?),
            n_restarts: next()?.parse().ok()?,
            ended_at: next()?.parse().ok().map(Duration::from_secs),
            nodes: next()?.to_owned(),
            name: next()?.to_owned(),
            reason: next().map(|reason| match reason {
                "None" => String::new(),
                reason => reason.to_owned(),
            })?,
            comment: next()?.trim_end_matches(SEPARATOR).trim_end().to_owned(),
        };
        Some(told)
    })
}

/// The jobs that `sacct` tells of.
///
/// # Errors
/// As [`of_squeue`].
pub(super) fn of_sacct(text: &str, names: &[String]) -> Result<Vec<Told>, String> {
    read(text, names, |line| {
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
    })
}

/// The jobs of all lines. A line that is no job, and not about one of ours, is left out.
fn read(
    text: &str,
    names: &[String],
    told: impl Fn(&str) -> Option<Told>,
) -> Result<Vec<Told>, String> {
    let mut all = Vec::new();
    for line in text.lines() {
        if let Some(told) = told(line) {
            all.push(told);
        } else if names.iter().any(|name| line.contains(name)) {
            // Columns are padded.
            let words: Vec<&str> = line.split_whitespace().collect();
            let words = words.join(" ");
            return Err(format!(
                "a line about a job of ours cannot be read: `{words}`"
            ));
        }
    }
    Ok(all)
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

/// Whether no further try can succeed where `sbatch` said this: the request itself is wrong, or not
/// allowed here. Whatever else is said may pass: of a controller that is away or in standby, a drained
/// partition, a limit on what one may submit.
pub(super) fn is_final(said: &str) -> bool {
    // As the versions since 22.05 say it.
    const FINAL: [&str; 36] = [
        // Of the command itself, before it asks anybody.
        "nrecognized option",
        "invalid option --",
        "requires an argument",
        "doesn't allow an argument",
        "is ambiguous",
        "Invalid numeric value",
        "Batch script is empty",
        "Batch script contains",
        "does not look like a batch script",
        "NULL character",
        "directive found in batch script",
        // Invalid ones of features, GRES, QOS, licenses, memory, times, counts of nodes and so on.
        "specification",
        "Invalid partition name",
        "No partition specified",
        "Invalid account",
        "Invalid node name",
        "Invalid node count",
        "Invalid time specified",
        "Invalid cluster name",
        "Invalid mcs_label",
        "Invalid --nice value",
        "Burst Buffer request invalid",
        "Requested reservation is invalid",
        // More than there is, or than one job may have.
        "Requested node configuration is not available",
        "Requested nodes not in this partition",
        "Requested more tasks than available processors",
        "More processors requested than permitted",
        "Memory required by task is not available",
        "Requested time limit is invalid",
        "PerJob",
        "option unsupported",
        "not supported",
        // Of a user's group, account or QOS.
        "not permitted to use this partition",
        "Access/permission denied",
        "Access denied",
        "Burst Buffer permission denied",
    ];
    FINAL.iter().any(|last| said.contains(last))
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

    /// How a job ended that Slurm has put back into its queue and lets nobody start, after a node could
    /// not launch it; in words that follow "the trainer". What people hold is theirs to release.
    pub(super) fn held_by_slurm(&self) -> Option<String> {
        let is_held = self.stage() == Stage::Waits
            && self.reason.contains("requeued")
            && self.reason.contains("held");
        is_held.then(|| {
            let (id, reason) = (&self.id, self.reason.replace('_', " "));
            format!("could not be launched, {reason} (Slurm job {id})")
        })
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
