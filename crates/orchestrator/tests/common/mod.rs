//! An orchestrator in this process, for tests.

use std::path::Path;
use std::time::Duration;

use imprint_orchestrator::{Config, Error, Limits, Site, TrainerCertificates};
use imprint_store::Store;
use imprint_telemetry::Vitals;
use imprint_world::{World, WorldConfig};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// Writes facts, a corpus and a tokenizer, small and synthetic.
pub(crate) fn write_world(dir: &Path) {
    World::generate(WorldConfig {
        n_people: 20,
        n_facts: 4,
        n_held_out: 2,
        n_tokens: 20_000,
        ..WorldConfig::ci()
    })
    .unwrap()
    .write(dir)
    .unwrap();
}

/// At a free port, with its data in `dir`; it starts nothing.
pub(crate) async fn config(dir: &Path) -> Config {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    Config {
        door: listener.into(),
        url: None,
        signer: None,
        trainer_certificates: TrainerCertificates::default(),
        metrics_url: "http://127.0.0.1:1".to_owned(),
        data_dir: dir.join("data"),
        trainer: imprint_testkit::bin("imprint-trainer"),
        environment: Vec::new(),
        site: Site::local(0),
        limits: Limits::default(),
        vitals: Vitals::default(),
    }
}

/// An orchestrator at work.
pub(crate) struct Serving {
    pub(crate) url: String,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<Result<(), Error>>,
}

impl Serving {
    pub(crate) fn start(config: Config, store: Store) -> Self {
        let url = format!("http://{}", config.door.address().unwrap());
        let (stop, stopped) = oneshot::channel::<()>();
        let ended = tokio::spawn(imprint_orchestrator::serve(config, store, async {
            let _ = stopped.await;
        }));
        Self { url, stop, ended }
    }

    pub(crate) async fn shut_down(self) {
        self.stop.send(()).unwrap();
        let ended = tokio::time::timeout(LIMIT, self.ended).await;
        ended.expect("it shuts down in time").unwrap().unwrap();
    }
}
