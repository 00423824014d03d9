//! The metrics service that is measured, and its database.

use std::net::{Ipv4Addr, TcpListener};
use std::num::NonZeroU16;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use imprint_store::Store;
use imprint_store::embedded::{Durability, Embedded};
use imprint_telemetry::one_line;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::database::Database;
use crate::failure::Failure;
use crate::place::Place;

const START_LIMIT: Duration = Duration::from_secs(30);

pub(super) struct Service {
    pub(super) store: Store,
    /// Once it serves.
    metrics_url: String,
    own: Option<Own>,
    /// The user's own, otherwise.
    database: Option<Database>,
}

/// What was started for this measurement.
struct Own {
    metrics: Option<Child>,
    cluster: Embedded,
    dir: TempDir,
}

impl Service {
    /// The service that the place names, or one of our own below `dir`.
    pub(super) async fn provide(place: &Place, dir: &Path) -> Result<Self, Failure> {
        if let Some(url) = place.named_metrics_url() {
            let database = Database::open(place).await?;
            return Ok(Self {
                store: database.store.clone(),
                metrics_url: url.to_owned(),
                own: None,
                database: Some(database),
            });
        }
        let dir = tempfile::Builder::new()
            .prefix("imprint-bench-")
            // The database's user enters it.
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .tempdir_in(dir)
            .map_err(Failure::doing(format_args!(
                "make a directory in {}",
                dir.display()
            )))?;
        let cluster = Embedded::start(&dir.path().join("postgres"), Durability::Durable).await?;
        let store = Store::connect(&cluster.database_url()).await?;
        store.migrate().await?;
        Ok(Self {
            store,
            metrics_url: String::new(),
            own: Some(Own {
                metrics: None,
                cluster,
                dir,
            }),
            database: None,
        })
    }

    /// Serves anew with so many steps a commit, where the service is our own.
    pub(super) async fn serve(&mut self, steps_per_commit: NonZeroU16) -> Result<(), Failure> {
        let Some(own) = &mut self.own else {
            return Ok(());
        };
        own.stop_metrics().await;
        let database_url = own.cluster.database_url();
        let (metrics, url) = serve(&database_url, own.dir.path(), steps_per_commit).await?;
        own.metrics = Some(metrics);
        self.metrics_url = url;
        Ok(())
    }

    pub(super) fn metrics_url(&self) -> &str {
        &self.metrics_url
    }

    pub(super) fn metrics_pid(&self) -> Option<u32> {
        self.own.as_ref()?.metrics.as_ref()?.id()
    }

    pub(super) fn postmaster_pid(&self) -> Option<u32> {
        let pid = self.own.as_ref()?.cluster.postmaster_pid()?;
        u32::try_from(pid).ok()
    }

    /// Stops what was started; says how to reach what is kept.
    pub(super) async fn end(self, keep: bool) -> Result<Option<String>, Failure> {
        self.store.pool().close().await;
        if let Some(database) = self.database {
            database.close().await?;
        }
        let Some(mut own) = self.own else {
            return Ok(None);
        };
        own.stop_metrics().await;
        own.cluster.stop().await?;
        if !keep {
            return Ok(None);
        }
        let dir = own.dir.keep();
        Ok(Some(format!("`imprint --data-dir {} sql`", dir.display())))
    }
}

impl Own {
    async fn stop_metrics(&mut self) {
        let Some(mut metrics) = self.metrics.take() else {
            return;
        };
        if let Some(pid) = metrics.id() {
            let _ = kill(Pid::from_raw(pid as i32), Signal::SIGTERM);
        }
        let ended = tokio::time::timeout(START_LIMIT, metrics.wait()).await;
        if ended.is_err() {
            let _ = metrics.kill().await;
        }
    }
}

/// Starts a metrics service of this program in a process of its own, and waits until it answers.
async fn serve(
    database_url: &str,
    data_dir: &Path,
    steps_per_commit: NonZeroU16,
) -> Result<(Child, String), Failure> {
    let doing = "start a metrics service";
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|free| free.local_addr())
        .map_err(Failure::doing(doing))?;
    let program = std::env::current_exe().map_err(Failure::doing(doing))?;
    let metrics = Command::new(program)
        .args(["serve", "metrics", "--listen", &address.to_string()])
        .args(["--steps-per-commit", &steps_per_commit.to_string()])
        // Passwords are not for command lines.
        .env("DATABASE_URL", database_url)
        .env("IMPRINT_DATA_DIR", data_dir)
        .env("RUST_LOG", "warn,sqlx=error")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        // Ours are not theirs: an interrupt ends the measurement, which ends the service.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(Failure::doing(doing))?;
    let url = format!("http://{address}");
    let deadline = Instant::now() + START_LIMIT;
    while let Err(error) = imprint_proto::connect("metrics", &url).await {
        if Instant::now() > deadline {
            return Err(Failure::failed(one_line(&error)));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok((metrics, url))
}
