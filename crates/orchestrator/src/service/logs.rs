//! The logs of a run's trainers: which there are, and what they say, also while they grow.

use std::fs::{self, File, OpenOptions};
use std::io::{self, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use imprint_proto::pb;
use imprint_proto::status::{internal, not_found, unavailable};
use imprint_store::runs::{RunRef, RunView};
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

/// A log, in the order in which a run's trainers wrote them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
    logs.sort();
    logs
}

/// The job of `job-7.log` or `job-7-4711.log`.
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
        let named = (!request.log.is_empty()).then_some(&request.log);
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
                why_none(&run)
            )));
        }
        let name = named
            .cloned()
            .or_else(|| logs.last().map(|log| log.name.clone()));
        let reader = Reader {
            service: self.clone(),
            is_fixed: named.is_some(),
            follow: request.follow,
            run,
            dir,
            to,
        };
        // Before the answer: what is written from then on is not passed over.
        let first = match name {
            Some(name) => Some(reader.open(name, request.tail_lines).await?),
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

/// What a run without a log does.
fn why_none(run: &RunView) -> String {
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
    to: Pieces,
}

/// A log that is open.
struct Open {
    name: String,
    file: AsyncFile,
    /// Where it is read from.
    from: u64,
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
        let Open {
            mut name,
            mut file,
            from,
        } = match first {
            Some(open) => open,
            None => {
                let name = self.wait_for_one().await?;
                self.open(name, None).await?
            }
        };
        if !self.follow {
            // One that grows faster than it is sent would have no end.
            let n_bytes = file
                .metadata()
                .await
                .map_err(|e| unreadable(&name, &e))?
                .len();
            return self
                .send(&name, &mut file.take(n_bytes.saturating_sub(from)))
                .await;
        }
        loop {
            // Asked before reading: what was said until then is read.
            let at_rest = self.is_at_rest().await?;
            let logs = list_soon(&self.dir).await?;
            self.send(&name, &mut file).await?;
            let mut behind = logs.into_iter().skip_while(|log| log.name != name).skip(1);
            match behind.next() {
                Some(next) if !self.is_fixed => {
                    Open { name, file, .. } = self.open(next.name, None).await?;
                }
                _ if at_rest => return Ok(()),
                _ => self.pause().await?,
            }
        }
    }

    /// The first log of a run that has none yet; meanwhile says why.
    async fn wait_for_one(&mut self) -> Result<String, End> {
        let mut said = String::new();
        loop {
            let at_rest = self.is_at_rest().await?;
            let logs = list_soon(&self.dir).await?;
            if let Some(log) = logs.into_iter().next() {
                return Ok(log.name);
            }
            if at_rest {
                return Err(End::Done);
            }
            // A database that is away is back some time.
            if let Ok(Some(run)) = self.service.store.run(RunRef::Id(self.run.run_id)).await {
                self.run = run;
            }
            let waiting = why_none(&self.run);
            if waiting != said {
                said.clone_from(&waiting);
                self.say(pb::ReadLogResponse {
                    waiting,
                    ..Default::default()
                })
                .await?;
            }
            self.pause().await?;
        }
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

    /// Opens a log where its last lines begin, or where it does.
    async fn open(&self, name: String, tail_lines: Option<u32>) -> Result<Open, Status> {
        let path = self.dir.join(&name);
        let opened = async {
            let opened = tokio::task::spawn_blocking(move || open(&path)).await;
            let mut file = AsyncFile::from_std(opened.map_err(io::Error::other)??);
            let from = match tail_lines {
                None => 0,
                Some(n_lines) => tail_start(&mut file, n_lines).await?,
            };
            file.seek(SeekFrom::Start(from)).await?;
            Ok((file, from))
        };
        match opened.await {
            Ok((file, from)) => Ok(Open { name, file, from }),
            Err(e) => Err(unreadable(&name, &e)),
        }
    }

    /// Sends what is there to read.
    async fn send(
        &self,
        name: &str,
        file: &mut (impl tokio::io::AsyncRead + Unpin),
    ) -> Result<(), End> {
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let n = file
                .read(&mut piece)
                .await
                .map_err(|e| unreadable(name, &e))?;
            if n == 0 {
                return Ok(());
            }
            self.say(pb::ReadLogResponse {
                log: name.to_owned(),
                text: piece[..n].to_vec(),
                waiting: String::new(),
            })
            .await?;
        }
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
