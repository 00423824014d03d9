//! One attempt of a run, from `BeginAttempt` to `EndAttempt`.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use imprint_core::{RunSpec, Settled, StepReadings, UpdateStats};
use imprint_data::TrainingData;
use imprint_lm::{Learner, PackedProbes};
use imprint_proto::Target;
use imprint_proto::pb::{self, AttemptOutcome};
use imprint_spool::{
    Cursors, Delivery, DeliveryError, Record, ResumePoint, SpoolWriter, spool_dir,
};
use imprint_telemetry::{Sampling, one_line, step_span, traceparent};
use tokio::sync::{mpsc, watch};
use tracing::{Instrument as _, Span};

use crate::control::{self, Control, Progress, Unrecorded};
use crate::machine::{self, Machine};
use crate::record::Record as AttemptRecord;
use crate::stage::{Stage, StageConfig};
use crate::start;
use crate::state::{self, AttemptDir, Position, StateWriter};
use crate::stop::{Stop, StopSignal};

/// How long the last words of a trainer may take that was asked to stop: there is little time.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Weight of the newest step in the reported speed.
const RATE_SMOOTHING: f32 = 0.1;

/// Exit code of an attempt whose run a later attempt has taken over.
const EXIT_STALE: u8 = 3;
/// Exit code of a process that was interrupted while it was about to stop.
const EXIT_INTERRUPTED: i32 = 130;

/// How the step loop ended.
enum Ending {
    /// All updates are made and all readings taken.
    Finished,
    Stopped(Stop),
}

impl Ending {
    /// How the attempt ended, as the orchestrator is told, and why.
    fn last_words(&self) -> (AttemptOutcome, String) {
        match self {
            Self::Finished => (AttemptOutcome::Finished, String::new()),
            Self::Stopped(Stop::Yield | Stop::Asked) => {
                (AttemptOutcome::Stopped, "asked to stop".to_owned())
            }
            Self::Stopped(Stop::Stale(reason)) => (AttemptOutcome::Stopped, reason.clone()),
            Self::Stopped(Stop::Failed(reason)) => (AttemptOutcome::Failed, reason.clone()),
        }
    }
}

/// Who says which attempt this is.
pub(crate) enum Source {
    /// The orchestrator at an address.
    Orchestrator {
        target: Target,
        run_id: i32,
        /// By which an executor started this process.
        job: Option<String>,
    },
    /// A file from `imprint take`: the services are out of reach.
    Ticket(PathBuf),
}

/// Executes the run's next attempt on this machine; ends with `stopped_exit_code` when it yields to
/// SIGTERM or SIGUSR1.
///
/// # Errors
/// When the attempt cannot begin, or what it needs is missing or wrong; the orchestrator has been
/// told, as far as it could be reached.
pub(crate) fn run(
    source: Source,
    sampling: Sampling,
    stopped_exit_code: u8,
    stage: Option<StageConfig>,
) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("start the asynchronous runtime")?;
    let asked = StopSignal::new();
    runtime.spawn(raise_on_signals(asked.clone()));
    let asked_code = || match asked.raised() {
        Some(Stop::Yield) => ExitCode::from(stopped_exit_code),
        _ => ExitCode::SUCCESS,
    };
    let record_json = serde_json::to_string(&AttemptRecord::here())?;
    let (run_id, control, begun) = match source {
        Source::Orchestrator {
            target,
            run_id,
            job,
        } => {
            let request = pb::BeginAttemptRequest {
                run_id,
                host: machine::host(),
                pid: std::process::id(),
                machine: machine::features(),
                offline_seconds: None,
                job: job.unwrap_or_default(),
                record_json: record_json.clone(),
            };
            let begin = control::begin(target, request, &asked);
            let Some((control, begun)) = runtime.block_on(begin)? else {
                return Ok(asked_code());
            };
            (run_id, control, begun)
        }
        Source::Ticket(path) => {
            let (run_id, begun) = imprint_spool::read_ticket(&path)?;
            (run_id, Control::offline(run_id, begun.attempt), begun)
        }
    };
    let _in_attempt = tracing::info_span!("attempt", run_id, attempt = begun.attempt).entered();
    let attempt = Attempt {
        run_id,
        begun,
        record_json,
        sampling,
        stage,
        control: control.clone(),
        runtime: &runtime,
        asked: asked.clone(),
    };
    let mut step = 0;
    let ending = attempt
        .execute(&mut step)
        .unwrap_or_else(|e| Ending::Stopped(Stop::Failed(format!("{e:#}"))));
    if let Ending::Stopped(Stop::Stale(reason)) = &ending {
        tracing::warn!("this attempt is over: {reason}");
        return Ok(ExitCode::from(EXIT_STALE));
    }
    let (patience, code) = match &ending {
        Ending::Finished => (attempt.deliver_timeout(), ExitCode::SUCCESS),
        Ending::Stopped(Stop::Failed(reason)) => {
            tracing::error!("{reason}");
            (attempt.deliver_timeout(), ExitCode::FAILURE)
        }
        Ending::Stopped(_) => (LAST_WORDS, asked_code()),
    };
    let (outcome, reason) = ending.last_words();
    let told = runtime.block_on(async {
        tokio::select! {
            told = control.end(outcome, reason, step, patience) => told,
            () = last_words(&asked) => {
                Err(tonic::Status::cancelled("asked to stop while it could not be reached"))
            }
        }
    });
    if let Err(status) = told {
        tracing::warn!(
            "the orchestrator does not know how this attempt ended: {}",
            control::cause(&status)
        );
    }
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(code)
}

struct Attempt<'a> {
    run_id: i32,
    begun: pb::BeginAttemptResponse,
    /// What is needed to make the attempt again, beside the run's configuration.
    record_json: String,
    sampling: Sampling,
    stage: Option<StageConfig>,
    control: Control,
    runtime: &'a tokio::runtime::Runtime,
    /// Raised by whoever asks this process to stop: its signals and the orchestrator.
    asked: StopSignal,
}

impl Attempt<'_> {
    fn deliver_timeout(&self) -> Duration {
        Duration::from_millis(self.begun.deliver_timeout_ms.into())
    }

    /// Runs the attempt; `at_step` is kept at the number of updates made.
    fn execute(&self, at_step: &mut u32) -> anyhow::Result<Ending> {
        let stop = StopSignal::new();
        let (progress, heartbeat_progress) = watch::channel(Progress::default());
        let every = Duration::from_millis(self.begun.heartbeat_ms.max(100).into());
        let control = self.control.clone();
        self.runtime.spawn(
            control
                .heartbeats(every, heartbeat_progress, self.asked.clone(), stop.clone())
                .in_current_span(),
        );
        let (asked, when_asked) = (self.asked.clone(), stop.clone());
        self.runtime
            .spawn(async move { when_asked.raise(asked.wait().await) });

        let stage = Stage::new(self.stage.clone(), {
            let stop = stop.clone();
            move || stop.raised().is_some()
        });
        let mut spec: RunSpec =
            serde_json::from_str(&self.begun.spec_json).context("read the run's configuration")?;
        let run_dir = Path::new(&self.begun.run_dir);
        let dir = AttemptDir::of(run_dir, self.begun.attempt);
        std::fs::create_dir_all(dir.path().join("states"))
            .with_context(|| format!("make the directory {}", dir.path().display()))?;
        let run = spec.identity.hash();
        state::sweep(run_dir, &run, self.begun.attempt, &self.begun.states);
        let machine = Machine::here(&spec.resources.device, spec.resources.threads);
        let _copies = start::on_node(&mut spec, &stage);
        if let Some(stop) = stop.raised() {
            return Ok(Ending::Stopped(stop));
        }
        let data = TrainingData::open(&spec)?;
        for warning in data.warnings() {
            tracing::warn!("{warning}");
        }
        if let Some(stop) = stop.raised() {
            return Ok(Ending::Stopped(stop));
        }
        let resume = ResumePoint::find(&self.begun, data.reading_steps(), state::open);
        *at_step = resume.step;
        if let Some(stop) = stop.raised() {
            return Ok(Ending::Stopped(stop));
        }
        let settled = self.settled_before()?;
        let (mut learner, settled) = match &resume.state {
            Some((state, manifest)) => {
                manifest.check_position(&spec.identity)?;
                if manifest.machine != machine {
                    tracing::warn!(
                        "the state was saved on another machine, so last digits may differ from \
                         here on: it was {}, this is {machine}",
                        manifest.machine
                    );
                }
                let options = start::options(&spec, &data)?;
                let learner = Learner::load_state(Path::new(&state.path), &options)?;
                (learner, settled.unwrap_or_else(|| manifest.settled.clone()))
            }
            None => {
                let (learner, standing) = start::load(&spec, &data, &self.begun.parents, &stage)?;
                let settled = match settled {
                    Some(settled) => Ok(settled),
                    None => self.settle(&start::settle(&spec, &learner, standing)?, &stop),
                };
                match settled {
                    Ok(settled) => (learner, settled),
                    Err(stop) => return Ok(Ending::Stopped(stop)),
                }
            }
        };
        if let Some(stop) = stop.raised() {
            return Ok(Ending::Stopped(stop));
        }
        learner.set_micro_batch_rows(settled.micro_batch_rows as usize)?;
        let vocab_size = learner.config().vocab_size;
        anyhow::ensure!(
            data.vocab_size() as usize <= vocab_size,
            "the vocabulary of the tokenizer {} ({}) exceeds the model's ({vocab_size})",
            spec.files.tokenizer.display(),
            data.vocab_size()
        );

        let open = pb::Open {
            run_id: self.run_id,
            attempt: self.begun.attempt,
            resume_step: resume.deliver_from,
            machine: machine.to_string(),
        };
        let mut spool = resume.begin_spool(run_dir, &open)?;
        dir.sync()?;
        spool.append(Record::Settled(pb::SettleRunRequest {
            run_id: self.run_id,
            attempt: self.begun.attempt,
            settled_json: serde_json::to_string(&settled)?,
            // Whoever took the ticket could not say it.
            record_json: self.record_json.clone(),
        }))?;
        let (durable, durable_now) = watch::channel(Cursors {
            reading: self.begun.next_reading,
            update: self.begun.next_update,
        });
        let delivery = Delivery {
            metrics: self.control.metrics(),
            open,
            spool: spool_dir(run_dir, self.begun.attempt),
            extent: spool.extent(),
            durable,
        };
        let is_offline = self.control.is_offline();
        let delivering = deliver(delivery, stop.clone());
        let delivering = async move { if is_offline { Ok(()) } else { delivering.await } };
        let delivery = self.runtime.spawn(delivering.in_current_span());
        let (unrecorded, saved) = mpsc::unbounded_channel();
        let control = self.control.clone();
        let keep_last = spec.saving.keep_last;
        let recording = control.record_states(saved, run_dir.to_owned(), keep_last, stop.clone());
        let recording = self.runtime.spawn(recording.in_current_span());

        let states = StateWriter {
            dir,
            run,
            settled,
            machine,
        };
        let mut steps = Steps {
            spec: &spec,
            data: &data,
            probes: learner.pack(data.tokenized_probes())?,
            learner: &mut learner,
            spool: &mut spool,
            states: &states,
            run_id: self.run_id,
            attempt: self.begun.attempt,
            sampling: self.sampling,
            resumed_at: resume.step,
            saved_at: Instant::now(),
            stop: &stop,
            progress: &progress,
            durable: &durable_now,
            unrecorded,
        };
        let ending = steps.run_from(resume.step, at_step);
        drop(steps);
        let ending = ending.unwrap_or_else(|e| Ending::Stopped(Stop::Failed(format!("{e:#}"))));
        let (outcome, reason) = ending.last_words();
        let closed = spool.append(Record::End(pb::EndAttemptRequest {
            run_id: self.run_id,
            attempt: self.begun.attempt,
            outcome: outcome.into(),
            reason,
            step: *at_step,
        }));
        let closed = closed.and_then(|()| spool.sync());
        spool.close();
        // A full disk, say: what is in the spool is still delivered.
        let ending = match (closed, ending) {
            (Err(e), Ending::Finished | Ending::Stopped(Stop::Yield | Stop::Asked)) => {
                Ending::Stopped(Stop::Failed(format!("{e:#}")))
            }
            (_, ending) => ending,
        };
        if is_offline {
            let path = spool_dir(run_dir, self.begun.attempt);
            tracing::info!("`imprint import {}` delivers what was read", path.display());
        }

        if let Ending::Stopped(Stop::Failed(reason)) = &ending {
            tracing::warn!("this attempt has failed, what it measured is delivered: {reason}");
        }
        // What was saved is worth recording, and what was measured worth delivering, also when the
        // loop ended early; who asks to stop leaves little time for it, a later attempt none.
        let are_states_recorded = Cell::new(false);
        let delivered = self.runtime.block_on(async {
            let everything = async {
                are_states_recorded.set(recording.await.is_ok());
                delivery.await.unwrap_or_else(|e| Err(e.to_string()))
            };
            tokio::select! {
                outcome = tokio::time::timeout(self.deliver_timeout(), everything) => outcome.ok(),
                () = last_words(&self.asked) => None,
                _ = stop.wait_for(|stop| matches!(stop, Stop::Stale(_))) => None,
                () = report_delivery(durable_now, &progress, data.reading_steps()) => None,
            }
        });
        match (ending, stop.raised(), delivered) {
            (_, Some(stop @ (Stop::Stale(_) | Stop::Failed(_))), _) => Ok(Ending::Stopped(stop)),
            // Others may start from the last state: it is not the run's until it is recorded.
            (Ending::Finished, _, _) if !are_states_recorded.get() => {
                tracing::warn!("the last state could not be recorded; a later attempt goes on");
                Ok(Ending::Stopped(Stop::Asked))
            }
            (Ending::Finished, _, None) => {
                tracing::warn!("not everything could be delivered; the spool keeps it");
                Ok(Ending::Finished)
            }
            (ending, _, _) => Ok(ending),
        }
    }

    /// What an earlier attempt settled of what the configuration leaves open.
    fn settled_before(&self) -> anyhow::Result<Option<Settled>> {
        if self.begun.settled_json.is_empty() {
            return Ok(None);
        }
        serde_json::from_str(&self.begun.settled_json)
            .map(Some)
            .context("read what an earlier attempt settled")
    }

    /// Settles for all attempts what the configuration leaves open; waits for the orchestrator.
    fn settle(&self, settled: &Settled, stop: &StopSignal) -> Result<Settled, Stop> {
        let mut control = self.control.clone();
        self.runtime.block_on(async {
            tokio::select! {
                settled = control.settle(settled) => settled,
                stop = stop.wait() => Err(stop),
            }
        })
    }
}

/// Delivers everything; what ends it early raises `stop`.
async fn deliver(delivery: Delivery, stop: StopSignal) -> Result<(), String> {
    let error = match delivery.run().await {
        Ok(()) => return Ok(()),
        Err(e) => e,
    };
    let reason = one_line(&error);
    stop.raise(match error {
        DeliveryError::Stale(_) => Stop::Stale(reason.clone()),
        DeliveryError::Rejected(_)
        | DeliveryError::Elsewhere { .. }
        | DeliveryError::Unusable(_)
        | DeliveryError::Spool(_) => Stop::Failed(reason.clone()),
    });
    Err(reason)
}

async fn raise_on_signals(stop: StopSignal) {
    use tokio::signal::unix::{SignalKind, signal};
    let listen = |kind| signal(kind).inspect_err(|e| tracing::error!("no signal handler: {e}"));
    let (Ok(mut term), Ok(mut int), Ok(mut usr1)) = (
        listen(SignalKind::terminate()),
        listen(SignalKind::interrupt()),
        listen(SignalKind::user_defined1()),
    ) else {
        return;
    };
    tokio::select! {
        _ = term.recv() => stop.raise(Stop::Yield),
        _ = usr1.recv() => stop.raise(Stop::Yield),
        _ = int.recv() => stop.raise(Stop::Asked),
    }
    tracing::info!("asked to stop; Ctrl-C now does not wait");
    // The other signals may well come twice: from a batch system, or from an orchestrator that goes.
    // A first SIGINT after one of them is a request, too: not to be started again.
    if stop.raised() == Some(Stop::Yield) {
        int.recv().await;
        stop.raise(Stop::Asked);
    }
    int.recv().await;
    tracing::warn!("interrupted: what was not saved is lost");
    std::process::exit(EXIT_INTERRUPTED);
}

/// Ends when a process that was asked to stop should have said its last words.
async fn last_words(asked: &StopSignal) {
    asked.wait().await;
    tokio::time::sleep(LAST_WORDS).await;
}

/// Keeps the heartbeats true while nothing but delivery is left.
async fn report_delivery(
    mut durable: watch::Receiver<Cursors>,
    progress: &watch::Sender<Progress>,
    reading_steps: &[u32],
) {
    loop {
        let first = reading_steps
            .get(durable.borrow_and_update().reading as usize)
            .copied();
        progress.send_modify(|p| p.undelivered_since_step = first);
        if durable.changed().await.is_err() {
            // Delivery has ended; whoever waits for its outcome has it.
            return std::future::pending().await;
        }
    }
}

/// The step loop: (save) → read → batch → inject → update.
struct Steps<'a> {
    spec: &'a RunSpec,
    data: &'a TrainingData,
    probes: PackedProbes,
    learner: &'a mut Learner,
    spool: &'a mut SpoolWriter,
    states: &'a StateWriter,
    run_id: i32,
    attempt: u32,
    sampling: Sampling,
    resumed_at: u32,
    /// When a state was last saved, or this began.
    saved_at: Instant,
    stop: &'a StopSignal,
    progress: &'a watch::Sender<Progress>,
    durable: &'a watch::Receiver<Cursors>,
    unrecorded: mpsc::UnboundedSender<Unrecorded>,
}

impl Steps<'_> {
    fn run_from(&mut self, first: u32, at_step: &mut u32) -> anyhow::Result<Ending> {
        let n_updates = self.spec.identity.training.steps;
        let reading_steps = self.data.reading_steps();
        let mut index = reading_steps.partition_point(|&s| s < first);
        let mut rate = 0.0;
        for step in first..=n_updates {
            *at_step = step;
            let began = Instant::now();
            let stop = self.stop.raised();
            let asked = stop.as_ref().is_some_and(Stop::is_request);
            if let Some(stop) = stop.clone().filter(|s| !s.is_request()) {
                return Ok(Ending::Stopped(stop));
            }
            if step > self.resumed_at && (asked || self.is_saved(step)) {
                self.save(step)?;
            }
            if let Some(stop) = stop {
                return Ok(Ending::Stopped(stop));
            }
            let span = match self.sampling.takes(step) {
                true => {
                    // Signed, which is what traces have as numbers.
                    let (run_id, attempt) = (self.run_id, i64::from(self.attempt));
                    step_span!("step", run_id, attempt, step = i64::from(step))
                }
                false => Span::none(),
            };
            if reading_steps.get(index) == Some(&step) {
                self.read(index as u32, step, &span)?;
                index += 1;
            }
            if step < n_updates {
                self.update(step, &span)?;
            }
            let step_seconds = began.elapsed().as_secs_f32().max(1e-6);
            rate = if rate == 0.0 {
                1.0 / step_seconds
            } else {
                RATE_SMOOTHING / step_seconds + (1.0 - RATE_SMOOTHING) * rate
            };
            let next = reading_steps
                .get(self.durable.borrow().reading as usize)
                .copied();
            self.progress.send_replace(Progress {
                step: (step + 1).min(n_updates),
                steps_per_second: rate,
                undelivered_since_step: next.filter(|&s| s <= step),
            });
        }
        Ok(Ending::Finished)
    }

    /// Saved are every n-th state, one after so much time, those that other runs start from, and the
    /// last.
    fn is_saved(&self, step: u32) -> bool {
        let saving = &self.spec.saving;
        let longest = (saving.every_minutes).map(|n| Duration::from_secs(60 * u64::from(n.get())));
        step.is_multiple_of(saving.every)
            || longest.is_some_and(|longest| self.saved_at.elapsed() >= longest)
            || saving.keep.contains(&step)
            || step == self.spec.identity.training.steps
    }

    /// Saves θ_step before reading `step`, so that nothing measured on it precedes it.
    fn save(&mut self, step: u32) -> anyhow::Result<()> {
        self.saved_at = Instant::now();
        self.spool.sync()?;
        let position = Position::at(&self.spec.identity, step);
        let state = self.states.save(self.learner, &position)?;
        let keep = self.spec.saving.keep.contains(&step);
        self.spool.append(Record::State(pb::RecordStateRequest {
            run_id: self.run_id,
            attempt: self.attempt,
            state: Some(state.clone()),
            keep,
        }))?;
        // The receiver lives as long as the attempt.
        let _ = self.unrecorded.send(Unrecorded { state, keep });
        Ok(())
    }

    fn read(&mut self, index: u32, step: u32, span: &Span) -> anyhow::Result<()> {
        let reading = step_span!(parent: span, "read");
        let sums = reading.in_scope(|| self.learner.read(&self.probes));
        drop(reading);
        if let Some(probe) = sums.iter().position(|s| !s.full_nats.is_finite()) {
            anyhow::bail!(
                "reading {step}: the log-probability of probe {probe} is not finite: the model has \
                 diverged; a lower learning rate may help"
            );
        }
        let readings = StepReadings {
            index,
            step,
            measured_by: self.attempt,
            first_sum_nats: sums.iter().map(|s| s.first_nats).collect(),
            target_sum_nats: sums.iter().map(|s| s.target_nats).collect(),
            full_sum_nats: sums.iter().map(|s| s.full_nats).collect(),
        };
        let mut readings = pb::Reading::from(&readings);
        readings.traceparent = traceparent(span);
        let _appending = step_span!(parent: span, "append");
        self.spool.append(Record::Reading(readings))?;
        Ok(())
    }

    fn update(&mut self, step: u32, span: &Span) -> anyhow::Result<()> {
        let began = Instant::now();
        let updating = step_span!(parent: span, "update");
        let batch = self.data.batch(step)?;
        let (identity, settled) = (&self.spec.identity, &self.states.settled);
        let learning_rate = identity.learning_rate(settled, step);
        let optimizer = &identity.training.optimizer;
        self.learner
            .set_clip_norm(optimizer.clip_of_update(settled.first_global_step, step))?;
        let report = self
            .learner
            .update(&batch.tokens, batch.seq_len as usize, learning_rate)
            .with_context(|| format!("update {step}"))?;
        let stats = UpdateStats {
            step,
            measured_by: self.attempt,
            loss_nats: report.loss_nats,
            learning_rate,
            grad_norm: report.grad_norm,
            update_norm: report.update_norm,
            n_tokens: batch.tokens.len() as u32,
            n_injected_tokens: batch.n_injected_tokens,
            duration_ms: began.elapsed().as_secs_f32() * 1000.0,
        };
        drop(updating);
        let mut stats = pb::Update::from(&stats);
        stats.traceparent = traceparent(span);
        let _appending = step_span!(parent: span, "append");
        self.spool.append(Record::Update(stats))?;
        Ok(())
    }
}
