//! A trainer without a model: an attempt of a run as `imprint-trainer` makes it, with the same
//! protocol, spool, delivery and way to go on, and readings that follow from who measures them.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use imprint_core::{RunSpec, simulated as values};
use imprint_e2e::simulated::{self, LogWriter};
use imprint_proto::pb::{self, AttemptOutcome, attempts_client::AttemptsClient};
use imprint_proto::{Channel, answer, is_passing};
use imprint_spool::{
    Cursors, Delivery, DeliveryError, Record, ResumePoint, SpoolWriter, spool_dir,
};
use imprint_testkit::SeedRun;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use tonic::Code;

const BEGIN_WITHIN: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(100);
/// What a step takes.
const STEP: Duration = Duration::from_millis(5);
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Files larger than the process may write fail, where else this would end it.
const SIGXFSZ: i32 = 25;

type Error = Box<dyn std::error::Error + Send + Sync>;

#[derive(Clone, Debug, PartialEq)]
enum Stop {
    Asked,
    Stale,
    Failed(String),
}

#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let arguments: Vec<String> = std::env::args().collect();
    let of = |name: &str| {
        let at = arguments.iter().position(|a| a == name);
        at.and_then(|at| arguments.get(at + 1)).cloned()
    };
    let (Some(run_id), Some(orchestrator)) = (of("--run-id"), of("--orchestrator")) else {
        eprintln!("usage: simulated-trainer run --run-id N --orchestrator URL");
        return ExitCode::from(2);
    };
    match run(&orchestrator, run_id.parse().expect("a run's number")).await {
        Ok(code) => code,
        Err(e) => {
            eprintln!("simulated-trainer: {e}");
            ExitCode::FAILURE
        }
    }
}

async fn run(orchestrator: &str, run_id: i32) -> Result<ExitCode, Error> {
    let said = PathBuf::from(std::env::var_os(simulated::DIR).ok_or(simulated::DIR)?);
    let mut too_large = signal(SignalKind::from_raw(SIGXFSZ))?;
    tokio::spawn(async move { while too_large.recv().await.is_some() {} });
    let client = AttemptsClient::new(imprint_proto::connect_lazy(orchestrator)?);
    let begun = begin(client.clone(), run_id).await?;
    let log = LogWriter::begin(&said, run_id, begun.attempt)?;
    let spec: RunSpec = serde_json::from_str(&begun.spec_json)?;
    let mut attempt = Attempt {
        client,
        run_id,
        run: simulated::run(&spec.label),
        begun,
        stop: watch::Sender::new(None),
    };
    let (outcome, reason, patience, code) = match attempt.execute(log).await {
        Ok(()) => (
            AttemptOutcome::Finished,
            String::new(),
            attempt.deliver_timeout(),
            ExitCode::SUCCESS,
        ),
        Err(Stop::Asked) => (
            AttemptOutcome::Stopped,
            "asked to stop".to_owned(),
            LAST_WORDS,
            ExitCode::SUCCESS,
        ),
        Err(Stop::Stale) => return Ok(ExitCode::from(3)),
        Err(Stop::Failed(reason)) => (
            AttemptOutcome::Failed,
            reason,
            attempt.deliver_timeout(),
            ExitCode::FAILURE,
        ),
    };
    let request = pb::EndAttemptRequest {
        run_id,
        attempt: attempt.begun.attempt,
        outcome: outcome.into(),
        reason,
        step: 0,
    };
    let client = &mut attempt.client;
    let deadline = Instant::now() + patience;
    while let Err(status) = answer("orchestrator", client.end_attempt(request.clone())).await {
        if !is_passing(&status) || Instant::now() > deadline {
            return Err(status.into());
        }
        sleep(PAUSE).await;
    }
    Ok(code)
}

async fn begin(
    mut client: AttemptsClient<Channel>,
    run_id: i32,
) -> Result<pb::BeginAttemptResponse, Error> {
    let request = pb::BeginAttemptRequest {
        run_id,
        host: nix::unistd::gethostname()?.to_string_lossy().into_owned(),
        pid: std::process::id(),
        machine: "simulated".to_owned(),
        offline_seconds: None,
        ..Default::default()
    };
    let deadline = Instant::now() + BEGIN_WITHIN;
    loop {
        match answer("orchestrator", client.begin_attempt(request.clone())).await {
            Ok(begun) => return Ok(begun),
            Err(s) if is_passing(&s) && Instant::now() < deadline => sleep(PAUSE).await,
            Err(s) => return Err(s.into()),
        }
    }
}

struct Attempt {
    client: AttemptsClient<Channel>,
    run_id: i32,
    run: SeedRun,
    begun: pb::BeginAttemptResponse,
    stop: watch::Sender<Option<Stop>>,
}

impl Attempt {
    fn deliver_timeout(&self) -> Duration {
        Duration::from_millis(self.begun.deliver_timeout_ms.into())
    }

    async fn execute(&self, log: LogWriter) -> Result<(), Stop> {
        let failed = |e: &dyn std::fmt::Display| Stop::Failed(e.to_string());
        let run_dir = Path::new(&self.begun.run_dir);
        let number = self.begun.attempt;
        let states = run_dir
            .join("attempts")
            .join(number.to_string())
            .join("states");
        std::fs::create_dir_all(states).map_err(|e| failed(&e))?;
        tokio::spawn(heartbeats(
            self.client.clone(),
            self.run_id,
            number,
            self.stop.clone(),
        ));
        tokio::spawn(raise_on_term(self.stop.clone()));

        let steps = self.run.reading_steps();
        let resume = ResumePoint::find(&self.begun, &steps, |s| open_state(self.run_id, s));
        let from = resume.state.map_or(0, |(state, ())| state.attempt);
        let mut log = log;
        log.from(from, resume.step, resume.deliver_from)
            .map_err(|e| failed(&e))?;
        let open = pb::Open {
            run_id: self.run_id,
            attempt: number,
            resume_step: resume.deliver_from,
            machine: "simulated".to_owned(),
        };
        let mut spool = resume.begin_spool(run_dir, &open).map_err(|e| failed(&e))?;
        let (durable, mut acknowledged) = watch::channel(Cursors::default());
        let delivery = Delivery {
            metrics: self.begun.metrics_url.clone().into(),
            open,
            spool: spool_dir(run_dir, number),
            extent: spool.extent(),
            durable,
        };
        tokio::spawn(async move {
            while acknowledged.changed().await.is_ok() {
                let at = *acknowledged.borrow_and_update();
                log.acknowledged(at.reading, at.update)
                    .expect("say what was acknowledged");
            }
        });
        let delivery = tokio::spawn(deliver(delivery, self.stop.clone()));
        let (unrecorded, saved) = mpsc::unbounded_channel();
        let recording = tokio::spawn(record(
            self.client.clone(),
            self.run_id,
            number,
            saved,
            self.stop.clone(),
        ));

        let ended = self
            .steps(resume.step, &steps, &mut spool, &unrecorded)
            .await;
        drop(unrecorded);
        let synced = spool.sync();
        spool.close();
        let patience = match &ended {
            Err(Stop::Stale) => Duration::ZERO,
            Err(Stop::Asked) => LAST_WORDS,
            _ => self.deliver_timeout(),
        };
        let everything = async {
            let is_recorded = recording.await.is_ok();
            delivery.await.is_ok_and(|delivered| delivered) && is_recorded
        };
        let mut stop = self.stop.subscribe();
        let told = tokio::select! {
            told = timeout(patience, everything) => told.unwrap_or(false),
            _ = stop.wait_for(Option::is_some), if ended.is_ok() => false,
        };
        ended?;
        synced.map_err(|e| failed(&e))?;
        match self.stop.borrow().clone() {
            Some(stop) => Err(stop),
            None if told => Ok(()),
            None => Err(Stop::Asked),
        }
    }

    /// (save) → read → update, with a spool that is written as the real one is.
    async fn steps(
        &self,
        first: u32,
        reading_steps: &[u32],
        spool: &mut SpoolWriter,
        unrecorded: &mpsc::UnboundedSender<pb::SavedState>,
    ) -> Result<(), Stop> {
        let failed = |e: &dyn std::fmt::Display| Stop::Failed(e.to_string());
        let (number, n_updates) = (self.begun.attempt, self.run.n_updates);
        let mut index = reading_steps.partition_point(|&s| s < first);
        for step in first..=n_updates {
            let stop = self.stop.borrow().clone();
            if let Some(stop @ (Stop::Stale | Stop::Failed(_))) = stop {
                return Err(stop);
            }
            let is_saved = step.is_multiple_of(self.run.save_every) || step == n_updates;
            if step > first && (is_saved || stop.is_some()) {
                spool.sync().map_err(|e| failed(&e))?;
                let state = self.save(step).map_err(|e| failed(&e))?;
                let _ = unrecorded.send(state);
            }
            if let Some(stop) = stop {
                return Err(stop);
            }
            if reading_steps.get(index) == Some(&step) {
                let n_probes = self.run.n_probes();
                let reading = values::reading(self.run_id, index as u32, step, number, n_probes);
                spool
                    .append(Record::Reading((&reading).into()))
                    .map_err(|e| failed(&e))?;
                index += 1;
            }
            if step < n_updates {
                let update = values::update(self.run_id, step, number);
                spool
                    .append(Record::Update((&update).into()))
                    .map_err(|e| failed(&e))?;
            }
            sleep(STEP).await;
        }
        Ok(())
    }

    fn save(&self, step: u32) -> std::io::Result<pb::SavedState> {
        let number = self.begun.attempt;
        let path =
            Path::new(&self.begun.run_dir).join(format!("attempts/{number}/states/step-{step}"));
        let unfinished = path.with_extension("unfinished");
        let content = content(self.run_id, number, step);
        std::fs::write(&unfinished, &content)?;
        std::fs::File::open(&unfinished)?.sync_all()?;
        std::fs::rename(unfinished, &path)?;
        Ok(pb::SavedState {
            step,
            attempt: number,
            path: path.display().to_string(),
            sha256: content,
            global_step: step.into(),
        })
    }
}

/// What a saved state holds.
fn content(run_id: i32, attempt: u32, step: u32) -> String {
    format!("run {run_id}, attempt {attempt}, step {step}")
}

fn open_state(run_id: i32, state: &pb::SavedState) -> Result<(), Error> {
    let found = std::fs::read_to_string(&state.path)?;
    match found == content(run_id, state.attempt, state.step) && found == state.sha256 {
        true => Ok(()),
        false => Err(format!("{} holds `{found}`", state.path).into()),
    }
}

async fn deliver(delivery: Delivery, stop: watch::Sender<Option<Stop>>) -> bool {
    let Err(error) = delivery.run().await else {
        return true;
    };
    raise(
        &stop,
        match error {
            DeliveryError::Stale(_) => Stop::Stale,
            other => Stop::Failed(other.to_string()),
        },
    );
    false
}

async fn heartbeats(
    mut client: AttemptsClient<Channel>,
    run_id: i32,
    attempt: u32,
    stop: watch::Sender<Option<Stop>>,
) {
    loop {
        let request = pb::HeartbeatRequest {
            run_id,
            attempt,
            ..Default::default()
        };
        match answer("orchestrator", client.heartbeat(request)).await {
            Ok(answer) if answer.stop => raise(&stop, Stop::Asked),
            Err(s) if s.code() == Code::Aborted => return raise(&stop, Stop::Stale),
            _ => {}
        }
        sleep(Duration::from_millis(500)).await;
    }
}

async fn record(
    mut client: AttemptsClient<Channel>,
    run_id: i32,
    attempt: u32,
    mut states: mpsc::UnboundedReceiver<pb::SavedState>,
    stop: watch::Sender<Option<Stop>>,
) {
    while let Some(state) = states.recv().await {
        let request = pb::RecordStateRequest {
            run_id,
            attempt,
            state: Some(state),
            keep: false,
        };
        loop {
            match answer("orchestrator", client.record_state(request.clone())).await {
                Ok(answer) => {
                    for state in answer.obsolete {
                        let _ = std::fs::remove_file(state.path);
                    }
                    break;
                }
                Err(s) if s.code() == Code::Aborted => return raise(&stop, Stop::Stale),
                Err(s) if is_passing(&s) => sleep(PAUSE).await,
                Err(s) => return raise(&stop, Stop::Failed(s.message().to_owned())),
            }
        }
    }
}

async fn raise_on_term(stop: watch::Sender<Option<Stop>>) {
    let mut term = signal(SignalKind::terminate()).expect("listen to signals");
    term.recv().await;
    raise(&stop, Stop::Asked);
}

/// The first reason stands, except that a lost run outranks a request.
fn raise(stop: &watch::Sender<Option<Stop>>, why: Stop) {
    stop.send_if_modified(|current| {
        let raised = matches!(current, None | Some(Stop::Asked)) && *current != Some(why.clone());
        if raised {
            *current = Some(why);
        }
        raised
    });
}
