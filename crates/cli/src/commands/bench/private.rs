//! What is started for a measurement: a database, and services in processes of their own.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use imprint_store::Store;
use imprint_store::embedded::{Durability, Embedded};
use imprint_telemetry::one_line;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::failure::Failure;

/// How long a service may take to answer, or to end.
const START_LIMIT: Duration = Duration::from_secs(30);

/// What a service of a measurement must not take over from whoever measures.
const NOT_FOR_SERVICES: [&str; 7] = [
    "IMPRINT_SITE",
    "IMPRINT_TOKENS",
    "IMPRINT_TLS_CERT",
    "IMPRINT_TLS_KEY",
    "IMPRINT_CLIENT_CA",
    "IMPRINT_ADVERTISE",
    "IMPRINT_METRICS",
];

/// A directory with a Postgres cluster of its own, whose commits are durable.
pub(super) struct Private {
    cluster: Embedded,
    dir: TempDir,
}

impl Private {
    /// Starts a cluster below `dir` with this program's schema.
    pub(super) async fn start(dir: &Path) -> Result<(Self, Store), Failure> {
        let dir = tempfile::Builder::new()
            .prefix("imprint-bench-")
            // The database's user enters it.
            .permissions(std::fs::Permissions::from_mode(0o755))
            .tempdir_in(dir)
            .map_err(Failure::doing(format_args!(
                "make a directory in {}",
                dir.display()
            )))?;
        let cluster = Embedded::start(&dir.path().join("postgres"), Durability::Durable).await?;
        let store = Store::connect(&cluster.database_url()).await?;
        store.migrate().await?;
        Ok((Self { cluster, dir }, store))
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(super) fn postmaster_pid(&self) -> Option<u32> {
        u32::try_from(self.cluster.postmaster_pid()?).ok()
    }

    /// Starts a role of this program at its own database, and waits until it answers.
    pub(super) async fn serve(
        &self,
        role: &'static str,
        arguments: &[String],
    ) -> Result<Served, Failure> {
        let doing = || Failure::doing(format!("start the {role} service"));
        let address = free_address().map_err(doing())?;
        let program = std::env::current_exe().map_err(doing())?;
        let mut command = Command::new(program);
        command
            .args(["serve", role, "--listen", &address.to_string()])
            .args(arguments)
            // Passwords are not for command lines.
            .env("DATABASE_URL", self.cluster.database_url())
            .env("IMPRINT_DATA_DIR", self.path())
            .env("RUST_LOG", "warn,sqlx=error")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            // Ours are not theirs: an interrupt ends the measurement, which ends the service.
            .process_group(0)
            .kill_on_drop(true);
        for name in NOT_FOR_SERVICES {
            command.env_remove(name);
        }
        let child = command.spawn().map_err(doing())?;
        let url = format!("http://{address}");
        let deadline = Instant::now() + START_LIMIT;
        while let Err(error) = imprint_proto::connect(role, &url).await {
            if Instant::now() > deadline {
                return Err(Failure::failed(one_line(&error)));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(Served { child, url })
    }

    /// Stops the cluster; where the directory is when it is kept.
    pub(super) async fn end(self, keep: bool) -> Result<Option<PathBuf>, Failure> {
        self.cluster.stop().await?;
        Ok(keep.then(|| self.dir.keep()))
    }
}

/// A service in a process of its own.
pub(super) struct Served {
    child: Child,
    url: String,
}

impl Served {
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    pub(super) async fn stop(mut self) {
        if let Some(pid) = self.child.id() {
            let _ = kill(Pid::from_raw(pid as i32), Signal::SIGTERM);
        }
        let ended = tokio::time::timeout(START_LIMIT, self.child.wait()).await;
        if ended.is_err() {
            let _ = self.child.kill().await;
        }
    }
}

/// A loopback address that was free a moment ago.
pub(super) fn free_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|free| free.local_addr())
}
