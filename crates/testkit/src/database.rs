//! A migrated database of its own for each test.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use imprint_store::Store;
use imprint_store::embedded::{Durability, Embedded};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

const STOP_LIMIT: Duration = Duration::from_secs(10);

/// A private Postgres cluster in a temporary directory; dropping it stops and removes it.
#[derive(Debug)]
pub struct TestDb {
    /// Connected and migrated.
    pub store: Store,
    pub url: String,
    embedded: Embedded,
    dir: TempDir,
}

impl TestDb {
    /// A new database that never waits for the disk.
    pub async fn start() -> Self {
        Self::with(&std::env::temp_dir(), Durability::TestOnly).await
    }

    /// A new database whose commits are on the disk, for tests that kill it.
    pub async fn start_durable() -> Self {
        Self::start_durable_below(&std::env::temp_dir()).await
    }

    /// The same on a disk of the test's choice.
    pub async fn start_durable_below(parent: &Path) -> Self {
        Self::with(parent, Durability::Durable).await
    }

    async fn with(parent: &Path, durability: Durability) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("imprint-test-")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .tempdir_in(parent)
            .expect("make a temporary directory");
        let embedded = Embedded::start(dir.path(), durability)
            .await
            .expect("start a private Postgres");
        let url = embedded.database_url();
        let store = Store::connect(&url)
            .await
            .expect("connect to the private Postgres");
        store.migrate().await.expect("migrate the database");
        Self {
            store,
            url,
            embedded,
            dir,
        }
    }

    /// The directory of the cluster.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Another database of the same cluster.
    pub fn url_of(&self, database: &str) -> String {
        let (server, _) = self.url.rsplit_once('/').expect("a URL names its database");
        format!("{server}/{database}")
    }

    pub fn postmaster_pid(&self) -> Option<i32> {
        self.embedded.postmaster_pid()
    }

    /// Kills the server's first process with SIGKILL, as the kernel would when memory is out.
    pub fn kill_postmaster(&self) {
        let pid = self.postmaster_pid().expect("the server runs");
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("kill the server");
        assert!(ends(pid), "process {pid} does not end");
    }

    /// Kills every process of the server at once, as a power failure would.
    pub fn kill_all(&self) {
        let Some(postmaster) = self.postmaster_pid() else {
            return;
        };
        // Stopped, it starts no further ones while they are looked for.
        let send = |pid, signal| {
            // It may have ended by itself.
            let _ = kill(Pid::from_raw(pid), signal);
        };
        send(postmaster, Signal::SIGSTOP);
        let children = fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children"));
        for child in children.unwrap_or_default().split_whitespace() {
            send(child.parse().expect("a process number"), Signal::SIGKILL);
        }
        send(postmaster, Signal::SIGKILL);
        assert!(ends(postmaster), "process {postmaster} does not end");
    }

    /// Brings a killed server back at the same address; connections recover by themselves.
    pub async fn restart(&self) {
        self.try_restart().await.expect("start the server again");
    }

    /// The same, where something may stand in its way.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn try_restart(&self) -> Result<(), imprint_store::embedded::Error> {
        self.embedded.ensure_running().await.map(drop)
    }
}

impl Drop for TestDb {
    fn drop(&mut self) {
        end_cluster(self.dir.path());
    }
}

/// Ends the server of a private cluster at once, where there is one, for nothing of it is kept.
pub(crate) fn end_cluster(dir: &Path) {
    if let Some(pid) = postmaster_of(dir) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGQUIT);
        if !ends(pid) {
            eprintln!("the server of {} does not end", dir.display());
        }
    }
    if let Ok(socket_dir) = fs::read_to_string(dir.join("socket_dir")) {
        let _ = fs::remove_dir_all(socket_dir.trim());
    }
}

/// The first process of a cluster's server, as the cluster records it.
fn postmaster_of(dir: &Path) -> Option<i32> {
    let data = fs::canonicalize(dir.join("data")).ok()?;
    let recorded = fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let pid = recorded.lines().next()?.trim().parse().ok()?;
    // The number may be another program's by now.
    let arguments = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
    arguments.contains(data.to_str()?).then_some(pid)
}

/// Whether a process that was killed ends in time.
pub(crate) fn ends(pid: i32) -> bool {
    let deadline = Instant::now() + STOP_LIMIT;
    while kill(Pid::from_raw(pid), None) != Err(Errno::ESRCH) && !is_zombie(pid) {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

/// Dead, but whoever started it has not asked after it yet.
fn is_zombie(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        stat.rsplit(')')
            .next()
            .is_some_and(|s| s.trim_start().starts_with('Z'))
    })
}
