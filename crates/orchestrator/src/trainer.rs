//! The command that starts a run's trainer, wherever it runs.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use imprint_access::{Grant, GrantSigner};
use imprint_store::runs::Job;
use imprint_telemetry::one_line;

use crate::TrainerCertificates;
use crate::executor::aside;
use crate::site::Stage;

/// Where a run's trainer finds its token, in the run's directory.
const TOKEN_FILE: &str = "token";

/// Secrets that the orchestrator may have in its environment and no trainer needs.
pub(crate) const NOT_FOR_TRAINERS: [&str; 3] = ["DATABASE_URL", "PGPASSWORD", "IMPRINT_TOKEN_FILE"];

/// What every trainer is started with.
pub(crate) struct Trainer {
    pub(crate) program: PathBuf,
    /// What it is told in its environment: nothing that is secret.
    pub(crate) environment: Vec<(&'static str, String)>,
    pub(crate) orchestrator_url: String,
    pub(crate) certificates: TrainerCertificates,
    /// Where absent, trainers need no tokens.
    pub(crate) signer: Option<Arc<GrantSigner>>,
    pub(crate) token_lasts: Duration,
    /// Each run's files are in `<run id>` of it.
    pub(crate) runs_dir: PathBuf,
    /// By the executors whose nodes have one.
    pub(crate) stages: BTreeMap<String, Stage>,
}

/// A trainer's program, arguments and environment; nothing in it is secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TrainerCommand {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) environment: Vec<(&'static str, String)>,
    /// The run's directory, which exists.
    pub(crate) run_dir: PathBuf,
}

impl Trainer {
    /// The command for a job.
    ///
    /// Its token lies in a file that only its owner can read: arguments and environments are seen by
    /// others, and kept.
    pub(crate) async fn command(&self, job: &Job) -> Result<TrainerCommand, String> {
        let run_id = job.run_id.to_string();
        let run_dir = self.runs_dir.join(&run_id);
        (tokio::fs::create_dir_all(&run_dir).await)
            .map_err(|e| format!("cannot make {}: {e}", run_dir.display()))?;
        let token_file = match &self.signer {
            Some(signer) => {
                let path = run_dir.join(TOKEN_FILE);
                let expires = SystemTime::now() + self.token_lasts;
                let token = signer.sign(&Grant::for_run(job.run_id, expires));
                let to = path.clone();
                (aside(move || token.replace(&to)).await).map_err(|e| one_line(&e))?;
                Some(path)
            }
            None => None,
        };
        let mut arguments: Vec<OsString> = ["run", "--run-id", &run_id]
            .into_iter()
            .chain(["--job", &job.request_id])
            .chain(["--orchestrator", &self.orchestrator_url])
            .map(OsString::from)
            .collect();
        let mut option = |name: &str, path: &Path| {
            arguments.extend([name.into(), path.into()]);
        };
        if let Some(ca) = &self.certificates.ca {
            option("--ca", ca);
        }
        if let Some((certificate, key)) = &self.certificates.identity {
            option("--client-cert", certificate);
            option("--client-key", key);
        }
        if let Some(path) = &token_file {
            option("--token-file", path);
        }
        if let Some(stage) = self.stages.get(&job.executor) {
            option("--stage-dir", &stage.dir);
            option("--stage-gib", Path::new(&stage.gib.to_string()));
        }
        Ok(TrainerCommand {
            program: self.program.clone(),
            arguments,
            environment: self.environment.clone(),
            run_dir,
        })
    }
}
