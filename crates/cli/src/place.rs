//! Where things are: the data directory, the services, the database.

use std::env;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use clap::Args;
use imprint_orchestrator::TrainerCertificates;
use imprint_proto::{CredentialFiles, Target};
use imprint_telemetry::one_line;
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

    /// A file with your token, where services ask for one (`imprint token create --out FILE`).
    ///
    /// Nobody but you may be able to read it. Where absent: what `imprint up --tokens` wrote into the
    /// data directory, for its own services only.
    #[arg(long, global = true, value_name = "FILE", env = "IMPRINT_TOKEN_FILE")]
    token_file: Option<PathBuf>,

    /// Certificates of the authority that signed the services' (PEM), for https:// addresses.
    ///
    /// Where absent: those that this machine trusts.
    #[arg(long, global = true, value_name = "FILE", env = "IMPRINT_CA")]
    ca: Option<PathBuf>,

    /// Your certificate (PEM), where services ask for one.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "IMPRINT_CLIENT_CERT",
        requires = "client_key"
    )]
    client_cert: Option<PathBuf>,

    /// The key of your certificate (PEM); nobody but you may be able to read it.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "IMPRINT_CLIENT_KEY",
        requires = "client_cert"
    )]
    client_key: Option<PathBuf>,
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

    pub(crate) fn metrics_url(&self) -> String {
        let (url, _) = self.find(&self.metrics, |s| s.metrics, METRICS_PORT);
        url
    }

    /// The metrics service that was named, by an option or the environment.
    pub(crate) fn named_metrics_url(&self) -> Option<&str> {
        self.metrics.as_deref()
    }

    /// The orchestrator, and what to show there.
    ///
    /// # Errors
    /// When a file of the credentials cannot be used.
    pub(crate) fn orchestrator(&self) -> Result<Target, Failure> {
        self.target(self.find(&self.orchestrator, |s| s.orchestrator, ORCHESTRATOR_PORT))
    }

    /// The metrics service, and what to show there.
    ///
    /// # Errors
    /// When a file of the credentials cannot be used.
    pub(crate) fn metrics(&self) -> Result<Target, Failure> {
        self.target(self.find(&self.metrics, |s| s.metrics, METRICS_PORT))
    }

    /// The certificates of a client, for trainers that are started here.
    pub(crate) fn certificates(&self) -> TrainerCertificates {
        TrainerCertificates {
            ca: self.ca.as_ref().map(absolute),
            identity: self.identity(),
        }
    }

    fn identity(&self) -> Option<(PathBuf, PathBuf)> {
        let (certificate, key) = (self.client_cert.as_ref()?, self.client_key.as_ref()?);
        Some((absolute(certificate), absolute(key)))
    }

    /// An address, and whether it is one of the data directory's own services.
    fn find(
        &self,
        named: &Option<String>,
        of: impl FnOnce(Services) -> String,
        port: u16,
    ) -> (String, bool) {
        match (named, Services::load(&self.data_dir())) {
            (Some(url), _) => (url.clone(), false),
            (None, Some(services)) => (of(services), true),
            (None, None) => (format!("http://127.0.0.1:{port}"), false),
        }
    }

    fn target(&self, (url, is_own): (String, bool)) -> Result<Target, Failure> {
        let own = self.own_token_file();
        let files = CredentialFiles {
            ca: self.ca.clone(),
            identity: self.identity(),
            token: match &self.token_file {
                Some(path) => Some(path.clone()),
                None => (is_own && own.exists()).then_some(own),
            },
        };
        let credentials = files.load().map_err(|e| Failure::bad_input(one_line(&e)))?;
        Ok(Target { url, credentials })
    }

    /// Where `imprint up --tokens` leaves a token for this place's clients.
    pub(crate) fn own_token_file(&self) -> PathBuf {
        self.data_dir().join("token")
    }

    /// Where the key is that signs trainers' tokens.
    pub(crate) fn token_key(&self) -> PathBuf {
        self.data_dir().join("token-key.pem")
    }
}

fn absolute(path: &PathBuf) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.clone())
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
