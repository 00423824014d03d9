//! Where things are: the data directory, the services, the database.

use std::env;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

pub(crate) const METRICS_PORT: u16 = 7431;
pub(crate) const ORCHESTRATOR_PORT: u16 = 7432;
/// Where Prometheus looks by custom.
pub(crate) const VITALS_PORT: u16 = 9464;

/// Options of every command.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Where things are")]
pub(crate) struct Place {
    /// Directory of the private database, the runs' files and the services' addresses.
    ///
    /// Where absent: /var/lib/imprint for root, else ~/.local/share/imprint.
    #[arg(long, global = true, value_name = "DIR", env = "IMPRINT_DATA_DIR")]
    data_dir: Option<PathBuf>,

    /// Address of the orchestrator.
    ///
    /// Where absent: what `imprint up` wrote into the data directory, else http://127.0.0.1:7432.
    #[arg(long, global = true, value_name = "URL", env = "IMPRINT_ORCHESTRATOR")]
    orchestrator: Option<String>,

    /// Address of the metrics service.
    ///
    /// Where absent: what `imprint up` wrote into the data directory, else http://127.0.0.1:7431.
    #[arg(long, global = true, value_name = "URL", env = "IMPRINT_METRICS")]
    metrics: Option<String>,

    /// A Postgres database of your own (postgres://user@host:port/database).
    ///
    /// Where absent: a private cluster in the data directory, started when it is needed.
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "DATABASE_URL",
        hide_env_values = true
    )]
    database_url: Option<String>,
}

impl Place {
    /// A place with a data directory of its own and nothing else said.
    pub(crate) fn private(data_dir: &Path) -> Self {
        Self {
            data_dir: Some(data_dir.to_owned()),
            ..Self::default()
        }
    }

    /// The data directory, absolute.
    pub(crate) fn data_dir(&self) -> PathBuf {
        let dir = self.data_dir.clone().unwrap_or_else(default_data_dir);
        std::path::absolute(&dir).unwrap_or(dir)
    }

    /// The user's own database; `None` for the private one.
    pub(crate) fn database_url(&self) -> Option<&str> {
        self.database_url.as_deref().filter(|url| !url.is_empty())
    }

    pub(crate) fn orchestrator_url(&self) -> String {
        self.orchestrator.clone().unwrap_or_else(|| {
            Services::load(&self.data_dir()).map_or_else(
                || format!("http://127.0.0.1:{ORCHESTRATOR_PORT}"),
                |services| services.orchestrator,
            )
        })
    }

    pub(crate) fn metrics_url(&self) -> String {
        self.metrics.clone().unwrap_or_else(|| {
            Services::load(&self.data_dir()).map_or_else(
                || format!("http://127.0.0.1:{METRICS_PORT}"),
                |services| services.metrics,
            )
        })
    }
}

fn default_data_dir() -> PathBuf {
    if nix::unistd::geteuid().is_root() {
        return PathBuf::from("/var/lib/imprint");
    }
    let from = |name: &str| {
        env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    from("XDG_DATA_HOME")
        .or_else(|| Some(from("HOME")?.join(".local/share")))
        .unwrap_or_else(|| PathBuf::from("."))
        .join("imprint")
}

/// The addresses at which `imprint up` serves a data directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Services {
    pub(crate) pid: u32,
    pub(crate) metrics: String,
    pub(crate) orchestrator: String,
}

impl Services {
    fn path(data_dir: &Path) -> PathBuf {
        data_dir.join("services.json")
    }

    /// What was written last; `None` where nothing was, or nothing that can be read.
    pub(crate) fn load(data_dir: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(Self::path(data_dir)).ok()?).ok()
    }

    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn save(&self, data_dir: &Path) -> Result<(), Failure> {
        let path = Self::path(data_dir);
        let json = serde_json::to_vec_pretty(self).expect("addresses are plain data");
        // Renamed into place: a client never reads half a file.
        let half = path.with_extension("json.new");
        fs::write(&half, json)
            .and_then(|()| fs::rename(&half, &path))
            .map_err(Failure::doing(format_args!("write {}", path.display())))
    }

    /// # Errors
    /// When the file is there and cannot be removed.
    pub(crate) fn remove(data_dir: &Path) -> Result<(), Failure> {
        let path = Self::path(data_dir);
        match fs::remove_file(&path) {
            Err(err) if err.kind() != ErrorKind::NotFound => {
                Err(Failure::failed(format!("remove {}: {err}", path.display())))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
