//! The logs of a run's trainers: which there are, and what they say, also while they grow.

use std::fs::{self, File, OpenOptions};
use std::io::{self, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use imprint_proto::pb;
use imprint_proto::status::{internal, invalid, not_found, unavailable};
use imprint_store::runs::{RunRef, RunState, RunView};
use nix::fcntl::OFlag;
use tokio::fs::File as AsyncFile;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::sync::mpsc;
use tonic::Status;

use super::Service;

/// How often it is looked whether a followed log has grown.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// Text of one message, and what is read of a file at a time.
const PIECE_BYTES: usize = 64 << 10;

type Pieces = mpsc::Sender<Result<pb::ReadLogResponse, Status>>;

/// A log of a run's trainer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Log {
    /// 0 where the name says none.
    job: u32,
    changed: SystemTime,
    name: String,
    n_bytes: u64,
}

impl Log {
    pub(super) fn into_pb(self) -> pb::Log {
        let changed = self.changed.duration_since(SystemTime::UNIX_EPOCH);
        pb::Log {
            name: self.name,
            n_bytes: self.n_bytes,
            changed_unix_ms: changed.unwrap_or_default().as_millis() as i64,
            job: (self.job > 0).then_some(self.job),
        }
    }
}

/// The logs in a directory, the oldest first; none where there is no such directory.
fn list(dir: &Path) -> Vec<Log> {
    let mut logs: Vec<Log> = (fs::read_dir(dir).into_iter().flatten().flatten())
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let meta = entry.metadata().ok()?;
            // What a link leads to is nobody's log.
            (meta.is_file() && name.ends_with(".log")).then(|| Log {
                job: job_of(&name),
                changed: meta.modified().unwrap_or(SystemTime::UNIX_EPOCH),
                name,
                n_bytes: meta.len(),
            })
        })
        .collect();
    logs.sort_by(|a, b| order(&a.name).cmp(&order(&b.name)));
    logs
}

/// The order in which logs were begun: by job, and for one that was asked for twice by its executor's
/// number. Not by the time of the last word, which changes while a log is followed.
fn order(name: &str) -> (u32, u64, &str) {
    let stem = name.strip_suffix(".log").unwrap_or(name);
    let digits = stem.len() - stem.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    let number = stem[stem.len() - digits..].parse().unwrap_or(0);
    (job_of(name), number, name)
}

/// The job of `job-7.log` or `job-7-slurm-4711.log`.
fn job_of(name: &str) -> u32 {
    let number = name.strip_prefix("job-").map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_digit());
        &rest[..end.unwrap_or(rest.len())]
    });
    number.and_then(|n| n.parse().ok()).unwrap_or(0)
}

impl Service {
    pub(super) fn logs_of(&self, run_id: i32) -> PathBuf {
        self.runs_dir.join(run_id.to_string()).join("logs")
    }

    /// Begins to read a log.
    ///
    /// # Errors
    /// NOT_FOUND where there is none, and nobody waits for one.
    pub(super) async fn read_log_of(
        &self,
        run: RunView,
        request: pb::ReadLogRequest,
        to: Pieces,
    ) -> Result<(), Status> {
        let dir = self.logs_of(run.run_id);
        let logs = list_soon(&dir).await?;
        let fixed = (!request.log.is_empty()).then_some(&request.log);
        let at = request.at.as_ref().map(|at| &at.log);
        if let (Some(fixed), Some(at)) = (fixed, at)
            && fixed != at
        {
            return Err(invalid(
                "at.log",
                &format!("is `{at}`, and `log` is `{fixed}`"),
            ));
        }
        let named = fixed.or(at);
        if let Some(name) = named
            && !logs.iter().any(|log| log.name == *name)
        {
            let label = &run.label;
            return Err(not_found(match known(&logs) {
                None => format!("run `{label}` has no log here"),
                Some(known) => format!("run `{label}` has no log `{name}` here; it has {known}"),
            }));
        }
        if logs.is_empty() && !request.follow {
            return Err(not_found(format!(
                "run `{}` has no log here: {}",
                run.label,
                what_it_does(&run)
            )));
        }
        let name = named
            .cloned()
            .or_else(|| logs.last().map(|log| log.name.clone()));
        let start = match (&request.at, request.tail_lines) {
            (Some(at), _) => Start::At(at.offset),
            (None, Some(n_lines)) => Start::Tail(n_lines),
            (None, None) => Start::At(0),
        };
        let reader = Reader {
            service: self.clone(),
            is_fixed: fixed.is_some(),
            follow: request.follow,
            run,
            dir,
            said: String::new(),
            to,
        };
        // Before the answer: what is written from then on is not passed over.
        let first = match name {
            Some(name) => Some(reader.open(name, start).await?),
            None => None,
        };
        tokio::spawn(reader.read(first));
        Ok(())
    }
}

fn known(logs: &[Log]) -> Option<String> {
    let names: Vec<String> = logs.iter().map(|log| format!("`{}`", log.name)).collect();
    (!names.is_empty()).then(|| names.join(", "))
}

/// What a run does of whose trainer nothing is heard.
fn what_it_does(run: &RunView) -> String {
    match (run.reason.as_str(), run.n_attempts) {
        ("", 0) => run.state.as_str().to_owned(),
        // It has made attempts all the same.
        ("", _) => format!(
            "{}, by trainers that were not started here",
            run.state.as_str()
        ),
        (reason, _) => format!("{}, {reason}", run.state.as_str()),
    }
}

/// Sends a run's logs to somebody who asked.
struct Reader {
    service: Service,
    run: RunView,
    dir: PathBuf,
    /// One log was asked for, and no other.
    is_fixed: bool,
    follow: bool,
    /// Why the run waits, as it was said last.
    said: String,
    to: Pieces,
}

/// Where in a log reading begins.
enum Start {
    /// At a byte.
    At(u64),
    /// Where the last so many lines do.
    Tail(u32),
}

/// A log that is open.
struct Open {
    name: String,
    file: AsyncFile,
    /// Where it is read next.
    at: u64,
}

/// Why nothing more is sent.
enum End {
    /// All is said.
    Done,
    /// Nobody listens.
    Gone,
    Failed(Status),
}

impl From<Status> for End {
    fn from(status: Status) -> Self {
        Self::Failed(status)
    }
}

impl Reader {
    async fn read(mut self, first: Option<Open>) {
        // Nobody may be listening any more.
        if let Err(End::Failed(status)) = self.try_read(first).await {
            let _ = self.to.send(Err(status)).await;
        }
    }

    async fn try_read(&mut self, first: Option<Open>) -> Result<(), End> {
        let mut log = match first {
            Some(open) => open,
            None => {
                let name = self.wait_for_one().await?;
                self.open(name, Start::At(0)).await?
            }
        };
        if !self.follow {
            // One that grows faster than it is sent would have no end.
            let meta = log.file.metadata().await;
            let n_bytes = meta.map_err(|e| unreadable(&log.name, &e))?.len();
            return self.send(&mut log, n_bytes).await;
        }
        loop {
            // Asked before reading: what was said until then is read.
            let at_rest = self.is_at_rest().await?;
            let logs = list_soon(&self.dir).await?;
            self.send(&mut log, u64::MAX).await?;
            let next = (logs.into_iter()).find(|next| order(&next.name) > order(&log.name));
            match next {
                Some(next) if !self.is_fixed => log = self.open(next.name, Start::At(0)).await?,
                _ if at_rest => return Ok(()),
                _ => {
                    self.look_again().await;
                    let waits = match self.run.state {
                        RunState::Queued | RunState::Delivering if !self.run.reason.is_empty() => {
                            what_it_does(&self.run)
                        }
                        _ => String::new(),
                    };
                    self.say_waiting(&log.name, waits).await?;
                    self.pause().await?;
                }
            }
        }
    }

    /// The first log of a run that has none yet; meanwhile says why.
    async fn wait_for_one(&mut self) -> Result<String, End> {
        loop {
            let at_rest = self.is_at_rest().await?;
            let logs = list_soon(&self.dir).await?;
            if let Some(log) = logs.into_iter().next() {
                return Ok(log.name);
            }
            if at_rest {
                return Err(End::Done);
            }
            self.look_again().await;
            self.say_waiting("", what_it_does(&self.run)).await?;
            self.pause().await?;
        }
    }

    async fn look_again(&mut self) {
        // A database that is away is back some time.
        if let Ok(Some(run)) = self.service.store.run(RunRef::Id(self.run.run_id)).await {
            self.run = run;
        }
    }

    /// Says why the run waits, if it does and for another reason than before: numbers in it count
    /// down.
    async fn say_waiting(&mut self, log: &str, waiting: String) -> Result<(), End> {
        let words = |text: &str| text.replace(|c: char| c.is_ascii_digit(), "");
        if words(&waiting) == words(&self.said) {
            return Ok(());
        }
        self.said.clone_from(&waiting);
        if waiting.is_empty() {
            return Ok(());
        }
        self.say(pb::ReadLogResponse {
            log: log.to_owned(),
            waiting,
            ..Default::default()
        })
        .await
    }

    /// Whether nothing more will be written; not while the database does not say so.
    async fn is_at_rest(&self) -> Result<bool, End> {
        match self.service.store.is_at_rest(self.run.run_id).await {
            Ok(at_rest) => Ok(at_rest),
            Err(error) if error.is_unavailable() => Ok(false),
            Err(error) => Err(End::Failed(crate::status::from_store(error))),
        }
    }

    async fn pause(&mut self) -> Result<(), End> {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => Ok(()),
            () = self.to.closed() => Err(End::Gone),
            _ = self.service.stopping.wait_for(|&stopping| stopping) => Err(End::Failed(
                unavailable("SHUTTING_DOWN", "the orchestrator is shutting down"),
            )),
        }
    }

    async fn open(&self, name: String, start: Start) -> Result<Open, Status> {
        let path = self.dir.join(&name);
        let opened = async {
            let opened = tokio::task::spawn_blocking(move || open(&path)).await;
            let mut file = AsyncFile::from_std(opened.map_err(io::Error::other)??);
            let at = match start {
                Start::At(at) => at,
                Start::Tail(n_lines) => tail_start(&mut file, n_lines).await?,
            };
            file.seek(SeekFrom::Start(at)).await?;
            Ok((file, at))
        };
        match opened.await {
            Ok((file, at)) => Ok(Open { name, file, at }),
            Err(e) => Err(unreadable(&name, &e)),
        }
    }

    /// Sends what is there to read, up to a byte.
    async fn send(&self, log: &mut Open, end: u64) -> Result<(), End> {
        let mut piece = vec![0; PIECE_BYTES];
        while log.at < end {
            let n_wanted = (end - log.at).min(PIECE_BYTES as u64) as usize;
            let read = log.file.read(&mut piece[..n_wanted]).await;
            let n = read.map_err(|e| unreadable(&log.name, &e))?;
            if n == 0 {
                return Ok(());
            }
            self.say(pb::ReadLogResponse {
                log: log.name.clone(),
                text: piece[..n].to_vec(),
                waiting: String::new(),
                offset: log.at,
            })
            .await?;
            log.at += n as u64;
        }
        Ok(())
    }

    async fn say(&self, message: pb::ReadLogResponse) -> Result<(), End> {
        self.to.send(Ok(message)).await.map_err(|_| End::Gone)
    }
}

/// The same, without keeping others waiting.
pub(super) async fn list_soon(dir: &Path) -> Result<Vec<Log>, Status> {
    let dir = dir.to_owned();
    tokio::task::spawn_blocking(move || list(&dir))
        .await
        .map_err(|e| internal(format!("looking for logs failed: {e}")))
}

fn unreadable(name: &str, error: &io::Error) -> Status {
    internal(format!("cannot read {name}: {error}"))
}

/// Opens a file and nothing else: a link could lead anywhere, and a pipe could wait for ever.
fn open(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits())
        .open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is no file")),
    }
}

/// Where the last `n_lines` lines of a file begin.
async fn tail_start(file: &mut AsyncFile, n_lines: u32) -> io::Result<u64> {
    let n_bytes = file.metadata().await?.len();
    let mut left = n_lines;
    let mut end = n_bytes;
    if n_lines == 0 {
        return Ok(n_bytes);
    }
    while end > 0 {
        let start = end.saturating_sub(PIECE_BYTES as u64);
        let mut piece = vec![0; (end - start) as usize];
        file.seek(SeekFrom::Start(start)).await?;
        file.read_exact(&mut piece).await?;
        for (at, _) in piece
            .iter()
            .enumerate()
            .rev()
            .filter(|(_, byte)| **byte == b'\n')
        {
            let behind = start + at as u64 + 1;
            // The end of the last line begins none.
            if behind < n_bytes {
                left -= 1;
                if left == 0 {
                    return Ok(behind);
                }
            }
        }
        end = start;
    }
    Ok(0)
}

#[cfg(test)]
mod tests;
