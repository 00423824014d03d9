//! A laboratory in which everything can be made to fail, and which puts it right again.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use imprint_e2e::{Lab, simulated};
use imprint_proto::pb::{
    self, ingest_request::Message, ingest_response, metrics_client::MetricsClient,
};
use imprint_spool::{Record, SpoolReader, spool_dir};
use imprint_testkit::{ChildGuard, Proxy, TestDb, Tmpfs, bin, seed_run};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio_stream::wrappers::ReceiverStream;

use crate::check;
use crate::plan::{Fault, KINDS, Kind, Plan};

/// Runs at a time: more than there are slots, so that some wait.
const N_RUNS: u32 = 3;
/// How often the rig looks after everything.
const TICK: Duration = Duration::from_millis(50);
/// How long runs may take to complete after the last fault.
const COMPLETE_WITHIN: Duration = Duration::from_secs(180);
/// A cluster, its log, and room for what a test stores.
const DISK_BYTES: u64 = 640 << 20;
/// Why a run fails whose spool may not grow.
const NO_ROOM: &str = "File too large";
/// How long a paused trainer waits for its successor to begin.
const SUCCEED_WITHIN: Duration = Duration::from_secs(10);

pub(crate) struct Rig {
    lab: Lab,
    proxy: Proxy,
    /// Under the database; `None` where mounting is not allowed.
    disk: Option<Tmpfs>,
    seed: u64,
    plan: Plan,
    /// The runs of this round, by number.
    runs: BTreeMap<i32, String>,
    n_rounds: u32,
    wants_metrics: bool,
    wants_orchestrator: bool,
    wants_database: bool,
    /// What is to be put right, and when.
    repairs: VecDeque<(Instant, Repair)>,
    successors: Vec<ChildGuard>,
    counts: BTreeMap<Kind, u32>,
    n_retries: u32,
    n_full_spools: u32,
}

/// What came of it.
pub(crate) struct Suffered {
    counts: BTreeMap<Kind, u32>,
    /// Where there is none, the database's disk is not filled.
    pub(crate) has_small_disk: bool,
    /// Runs that failed because their spool could not be written.
    pub(crate) n_full_spools: u32,
    pub(crate) found: check::Found,
}

impl Suffered {
    /// The kinds of faults that never happened.
    pub(crate) fn missing(&self) -> Vec<Kind> {
        let happened = |kind: &Kind| self.counts.contains_key(kind);
        KINDS.into_iter().filter(|k| !happened(k)).collect()
    }
}

#[derive(Clone, Copy, Debug)]
enum Repair {
    Metrics,
    Orchestrator,
    Database,
    Everything,
    Disk,
    Network,
    CutAndNetwork,
    Continue {
        pid: i32,
    },
    ContinueZombie {
        pid: i32,
        run_id: i32,
        give_up: Instant,
    },
}

impl Rig {
    pub(crate) async fn start(seed: u64) -> Self {
        println!("IMPRINT_FAULT_SEED={seed}");
        let disk = Tmpfs::mount(DISK_BYTES);
        let disk = disk
            .inspect_err(|why| println!("the database's disk is not filled: {why}"))
            .ok();
        let db = match &disk {
            Some(disk) => TestDb::start_durable_below(disk.path()).await,
            None => TestDb::start_durable().await,
        };
        let mut lab = Lab::new(db, bin("simulated-trainer"));
        fs::create_dir(lab.dir().join("said")).expect("make a directory");
        lab.set_env(simulated::DIR, lab.dir().join("said"));
        let proxy = lab.deliver_through_proxy().await;
        lab.start_metrics().await;
        lab.start_orchestrator().await;
        Self {
            lab,
            proxy,
            disk,
            seed,
            plan: Plan::new(seed),
            runs: BTreeMap::new(),
            n_rounds: 0,
            wants_metrics: true,
            wants_orchestrator: true,
            wants_database: true,
            repairs: VecDeque::new(),
            successors: Vec::new(),
            counts: BTreeMap::new(),
            n_retries: 0,
            n_full_spools: 0,
        }
    }

    /// Rounds of runs under faults, each completed and checked, until there were `n_faults`.
    pub(crate) async fn suffer(mut self, n_faults: usize) -> Suffered {
        let began = Instant::now();
        let mut found = check::Found::default();
        while self.n_faults() < n_faults {
            self.begin_round().await;
            while self.n_faults() < n_faults && !self.is_complete().await {
                let fault = self.plan.next().expect("there is always another");
                self.tend_until(Instant::now() + fault.after).await;
                if self.inflict(fault).await {
                    *self.counts.entry(fault.kind).or_default() += 1;
                }
            }
            self.complete().await;
            for (&run_id, label) in &self.runs {
                found += check::run(&self.lab, &self.said(), run_id, label).await;
            }
        }
        println!(
            "{} faults in {} rounds of {N_RUNS} runs, {:.0} s, seed {}: {:?}\n\
             {} failed runs were retried, {} of them for a full spool; {found}",
            self.n_faults(),
            self.n_rounds,
            began.elapsed().as_secs_f32(),
            self.seed,
            self.counts,
            self.n_retries,
            self.n_full_spools,
        );
        Suffered {
            counts: std::mem::take(&mut self.counts),
            has_small_disk: self.disk.is_some(),
            n_full_spools: self.n_full_spools,
            found,
        }
    }

    fn n_faults(&self) -> usize {
        self.counts.values().sum::<u32>() as usize
    }

    fn said(&self) -> PathBuf {
        self.lab.dir().join("said")
    }

    async fn begin_round(&mut self) {
        self.n_rounds += 1;
        self.runs.clear();
        for n in 0..N_RUNS {
            let label = format!("faults/{}-{n}", self.n_rounds);
            let run_id = seed_run(&self.lab.db.store, &simulated::run(&label)).await;
            self.runs.insert(run_id, label);
        }
    }

    /// (state, reason) of the runs of this round; `None` while the database does not answer.
    async fn states(&self) -> Option<Vec<(String, String)>> {
        self.lab.db.postmaster_pid()?;
        let states = sqlx::query_as("select state, reason from imprint.run where run_id = any($1)")
            .bind(self.runs.keys().copied().collect::<Vec<_>>())
            .fetch_all(self.lab.db.store.pool());
        tokio::time::timeout(Duration::from_millis(500), states)
            .await
            .ok()?
            .ok()
    }

    async fn is_complete(&self) -> bool {
        let states = self.states().await;
        states.is_some_and(|s| s.iter().all(|(state, _)| state == "complete"))
    }

    /// Puts everything right and waits for the runs.
    async fn complete(&mut self) {
        let deadline = Instant::now() + COMPLETE_WITHIN;
        while !self.repairs.is_empty() || !self.is_complete().await || !self.is_served().await {
            if Instant::now() > deadline {
                let states = self.states().await;
                for (&run_id, label) in &self.runs {
                    println!("--- {label}\n{}", self.lab.trainer_log(run_id));
                }
                panic!(
                    "{:?} are not complete within {COMPLETE_WITHIN:?}: {states:?}; seed {}",
                    self.runs, self.seed
                );
            }
            self.tend_until(Instant::now() + TICK).await;
        }
    }

    /// Whether the metrics service answers.
    async fn is_served(&self) -> bool {
        let url = format!("http://127.0.0.1:{}", self.proxy.port());
        let Ok(channel) = imprint_proto::connect("metrics", &url).await else {
            return false;
        };
        let run = self.runs.values().next().cloned().unwrap_or_default();
        let mut client = MetricsClient::new(channel);
        let verified = client.verify_run(pb::VerifyRunRequest { run });
        imprint_proto::answer("metrics", verified).await.is_ok()
    }

    /// Lets time pass, and does what supervisors and operators do.
    async fn tend_until(&mut self, until: Instant) {
        loop {
            let now = Instant::now();
            for _ in 0..self.repairs.len() {
                match self.repairs.pop_front() {
                    Some((due, repair)) if due <= now => self.repair(repair).await,
                    Some(later) => self.repairs.push_back(later),
                    None => {}
                }
            }
            if self.wants_database && self.lab.db.postmaster_pid().is_none() {
                // A full disk may stop it once more.
                let _ = self.lab.db.try_restart().await;
            }
            self.lab
                .supervise(self.wants_metrics, self.wants_orchestrator);
            self.successors
                .retain_mut(|s| matches!(s.child().try_wait(), Ok(None)));
            self.retry_failed().await;
            if now >= until {
                return;
            }
            tokio::time::sleep(TICK.min(until - now)).await;
        }
    }

    /// Asks for failed runs once more, if they failed for a reason that a fault explains.
    async fn retry_failed(&mut self) {
        let Some(states) = self.states().await else {
            return;
        };
        let reasons = states.into_iter().filter(|(state, _)| state == "failed");
        let reasons: Vec<String> = reasons.map(|(_, reason)| reason).collect();
        if reasons.is_empty() || !self.wants_orchestrator {
            return;
        }
        for reason in &reasons {
            let is_explained = ["got no further", NO_ROOM]
                .iter()
                .any(|why| reason.contains(why));
            assert!(is_explained, "a run failed: {reason}; seed {}", self.seed);
        }
        let url = format!("http://{}", self.lab.orchestrator_address());
        let Ok(channel) = imprint_proto::connect("orchestrator", &url).await else {
            return;
        };
        let mut client = pb::orchestrator_client::OrchestratorClient::new(channel);
        let request = pb::RetryExperimentRequest {
            name: "faults".to_owned(),
            ..Default::default()
        };
        if let Ok(answer) = client.retry_experiment(request).await {
            self.n_retries += answer.into_inner().queued.len() as u32;
            self.n_full_spools += reasons.iter().filter(|r| r.contains(NO_ROOM)).count() as u32;
        }
    }

    fn repair_after(&mut self, lasts: Duration, repair: Repair) {
        self.repairs.push_back((Instant::now() + lasts, repair));
    }

    async fn repair(&mut self, repair: Repair) {
        match repair {
            Repair::Metrics => self.wants_metrics = true,
            Repair::Orchestrator => self.wants_orchestrator = true,
            Repair::Database => self.wants_database = true,
            Repair::Everything => {
                self.wants_metrics = true;
                self.wants_orchestrator = true;
                self.wants_database = true;
            }
            Repair::Disk => self.disk.iter().for_each(Tmpfs::free),
            Repair::Network => self.proxy.weather(|w| *w = Default::default()),
            Repair::CutAndNetwork => {
                self.proxy.cut();
                self.proxy.weather(|w| *w = Default::default());
            }
            Repair::Continue { pid } => signal(pid, Signal::SIGCONT),
            Repair::ContinueZombie {
                pid,
                run_id,
                give_up,
            } => {
                let newest = simulated::newest_pid(&self.said(), run_id);
                if newest == Some(pid) && Instant::now() < give_up {
                    return self.repair_after(TICK, repair);
                }
                signal(pid, Signal::SIGCONT);
            }
        }
    }

    /// Runs with a living trainer, and the trainers.
    fn living(&self) -> Vec<(i32, i32)> {
        let said = self.said();
        (self.runs.keys())
            .filter_map(|&run_id| Some((run_id, simulated::newest_pid(&said, run_id)?)))
            .filter(|&(run_id, pid)| is_trainer_of(pid, run_id))
            .collect()
    }

    /// Does a fault's harm; whether there was anything to harm.
    async fn inflict(&mut self, fault: Fault) -> bool {
        let Fault { lasts, luck, .. } = fault;
        let living = self.living();
        let victim = living.get(luck as usize % living.len().max(1)).copied();
        match (fault.kind, victim) {
            (Kind::KillTrainer, Some((_, pid))) => signal(pid, Signal::SIGKILL),
            (Kind::StopTrainer, Some((_, pid))) => signal(pid, Signal::SIGTERM),
            (Kind::PauseTrainer, Some((_, pid))) => {
                signal(pid, Signal::SIGSTOP);
                self.repair_after(lasts, Repair::Continue { pid });
            }
            (Kind::Zombie, Some((run_id, pid))) => {
                signal(pid, Signal::SIGSTOP);
                self.start_successor(run_id);
                let give_up = Instant::now() + SUCCEED_WITHIN;
                let repair = Repair::ContinueZombie {
                    pid,
                    run_id,
                    give_up,
                };
                self.repair_after(lasts, repair);
            }
            (Kind::KillMetrics, _) => {
                self.wants_metrics = false;
                self.lab.kill_metrics();
                self.repair_after(lasts, Repair::Metrics);
            }
            (Kind::StopMetrics, _) => match self.lab.metrics() {
                Some(service) => {
                    service.signal(Signal::SIGTERM);
                    // It is started again as soon as it has drained; nobody takes it for well before.
                    self.repair_after(lasts, Repair::Metrics);
                }
                None => return false,
            },
            (Kind::KillOrchestrator, _) => {
                self.wants_orchestrator = false;
                self.lab.kill_orchestrator();
                self.repair_after(lasts, Repair::Orchestrator);
            }
            (Kind::KillPostmaster, _) if self.lab.db.postmaster_pid().is_some() => {
                self.wants_database = false;
                self.lab.db.kill_postmaster();
                self.repair_after(lasts, Repair::Database);
            }
            (Kind::KillDatabase, _) => {
                self.wants_database = false;
                self.lab.db.kill_all();
                self.repair_after(lasts, Repair::Database);
            }
            (Kind::KillEverything, _) => {
                (self.wants_metrics, self.wants_orchestrator) = (false, false);
                self.wants_database = false;
                self.lab.kill_orchestrator();
                for (_, pid) in living {
                    signal(pid, Signal::SIGKILL);
                }
                self.lab.kill_metrics();
                self.lab.db.kill_all();
                self.repair_after(lasts, Repair::Everything);
            }
            (Kind::Cut, _) => self.proxy.cut(),
            (Kind::CutMidMessage, _) => self.proxy.cut_after(luck as u32 % 20_000),
            (Kind::Hold, _) => {
                self.proxy.weather(|w| {
                    w.hold_requests = true;
                    w.hold_answers = true;
                });
                self.repair_after(lasts, Repair::Network);
            }
            (Kind::LoseAnswers, _) => {
                self.proxy.weather(|w| w.hold_answers = true);
                self.repair_after(lasts, Repair::CutAndNetwork);
            }
            (Kind::Refuse, _) => {
                self.proxy.weather(|w| w.refuse = true);
                self.proxy.cut();
                self.repair_after(lasts, Repair::Network);
            }
            (Kind::Delay, _) => {
                let delay = Duration::from_millis(1 + luck % 40);
                self.proxy.weather(|w| w.delay = delay);
                self.repair_after(lasts, Repair::Network);
            }
            (Kind::Replay, Some((run_id, _))) => return self.replay(run_id, luck).await,
            (Kind::FillSpool, Some((run_id, pid))) => {
                let Some((_, n_bytes)) = self.last_segment(run_id) else {
                    return false;
                };
                return limit_files(pid, n_bytes + luck % 5000);
            }
            (Kind::FillDatabase, _) => match &self.disk {
                Some(disk) => {
                    disk.fill();
                    self.repair_after(lasts, Repair::Disk);
                }
                None => return false,
            },
            (Kind::TruncateSpool | Kind::FlipBit | Kind::LoseState, Some((run_id, pid))) => {
                // Nobody starts a successor before the damage is done.
                let revive = self.wants_orchestrator;
                self.wants_orchestrator = false;
                self.lab.kill_orchestrator();
                signal(pid, Signal::SIGKILL);
                let damaged = self.damage(fault.kind, run_id, luck).await;
                if revive {
                    self.wants_orchestrator = true;
                }
                return damaged;
            }
            _ => return false,
        }
        true
    }

    fn start_successor(&mut self, run_id: i32) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.lab.dir().join("successors.log"))
            .expect("open a log");
        let url = format!("http://{}", self.lab.orchestrator_address());
        let successor = ChildGuard::spawn(
            Command::new(bin("simulated-trainer"))
                .args(["run", "--run-id", &run_id.to_string()])
                .args(["--orchestrator", &url])
                .env(simulated::DIR, self.said())
                .stdin(Stdio::null())
                .stdout(log.try_clone().expect("share the log"))
                .stderr(log),
        );
        self.successors.push(successor);
    }

    fn run_dir(&self, run_id: i32) -> PathBuf {
        self.lab.dir().join("data/runs").join(run_id.to_string())
    }

    /// The spool of the newest attempt that has one.
    fn newest_spool(&self, run_id: i32) -> Option<PathBuf> {
        let attempts = fs::read_dir(self.run_dir(run_id).join("attempts")).ok()?;
        let attempts = attempts.filter_map(|a| a.ok()?.file_name().to_str()?.parse().ok());
        let spools = attempts.map(|a: u32| (a, spool_dir(&self.run_dir(run_id), a)));
        spools
            .filter(|(_, dir)| dir.exists())
            .max()
            .map(|(_, dir)| dir)
    }

    fn last_segment(&self, run_id: i32) -> Option<(PathBuf, u64)> {
        let files = fs::read_dir(self.newest_spool(run_id)?).ok()?;
        let last = files.filter_map(|f| Some(f.ok()?.path())).max()?;
        let n_bytes = fs::metadata(&last).ok()?.len();
        Some((last, n_bytes))
    }

    /// Harms the files of a run whose trainer is dead.
    async fn damage(&self, kind: Kind, run_id: i32, luck: u64) -> bool {
        if kind == Kind::LoseState {
            let newest: Option<String> = sqlx::query_scalar(
                "select path from imprint.saved_state where run_id = $1
                 order by attempt desc, step desc limit 1",
            )
            .bind(run_id)
            .fetch_optional(self.lab.db.store.pool())
            .await
            .ok()
            .flatten();
            return newest.is_some_and(|path| fs::remove_file(path).is_ok());
        }
        let Some((segment, n_bytes)) = self.last_segment(run_id) else {
            return false;
        };
        let file = File::options().read(true).write(true).open(segment);
        let file = file.expect("open a segment");
        match kind {
            Kind::TruncateSpool => file.set_len(luck % n_bytes).is_ok(),
            _ => {
                let mut byte = [0];
                let at = luck % n_bytes;
                file.read_exact_at(&mut byte, at).expect("read a byte");
                byte[0] ^= 1 << (luck >> 61);
                file.write_all_at(&byte, at).is_ok()
            }
        }
    }

    /// Sends a part of the current attempt's spool again on a second stream, from somewhere below
    /// what is stored to somewhere beyond.
    async fn replay(&self, run_id: i32, luck: u64) -> bool {
        let Some(spool) = self.newest_spool(run_id) else {
            return false;
        };
        let replayed = tokio::time::timeout(
            Duration::from_secs(2),
            replay(&spool, self.proxy.port(), luck as u32 % 60),
        );
        matches!(replayed.await, Ok(Some(n)) if n > 0)
    }
}

/// How many messages were sent again.
async fn replay(spool: &Path, port: u16, back: u32) -> Option<usize> {
    let mut reader = SpoolReader::open(spool).ok()?;
    let open = reader.header().clone();
    let extent = reader.abandoned_extent().ok()?;
    let url = format!("http://127.0.0.1:{port}");
    let channel = imprint_proto::connect("metrics", &url).await.ok()?;
    let (to_service, requests) = tokio::sync::mpsc::channel(16);
    let request = |message| pb::IngestRequest {
        message: Some(message),
    };
    to_service.send(request(Message::Open(open))).await.ok()?;
    let mut client = MetricsClient::new(channel);
    let stream = client.ingest(ReceiverStream::new(requests)).await.ok()?;
    let mut answers = stream.into_inner();
    let first = answers.message().await.ok()??;
    let Some(ingest_response::Message::Opened(stored)) = first.message else {
        return None;
    };
    let mut n_sent = 0;
    while let Some(record) = reader.next(extent).ok()? {
        let message = match record {
            Record::Reading(r) if r.index + back >= stored.next_reading => Message::Reading(r),
            Record::Update(u) if u.step + back >= stored.next_update => Message::Update(u),
            _ => continue,
        };
        to_service.send(request(message)).await.ok()?;
        n_sent += 1;
    }
    Some(n_sent)
}

/// Lets files of a process grow to a size only; a larger write fails.
fn limit_files(pid: i32, n_bytes: u64) -> bool {
    Command::new("prlimit")
        .args(["--pid", &pid.to_string(), &format!("--fsize={n_bytes}:")])
        .status()
        .is_ok_and(|status| status.success())
}

fn signal(pid: i32, signal: Signal) {
    // It may have ended this very moment.
    let _ = kill(Pid::from_raw(pid), signal);
}

/// Whether a process is alive and a simulated trainer of a run.
fn is_trainer_of(pid: i32, run_id: i32) -> bool {
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let arguments: Vec<&[u8]> = arguments.split(|&b| b == 0).collect();
    let run_id = run_id.to_string();
    arguments[0].ends_with(b"simulated-trainer")
        && arguments
            .windows(2)
            .any(|w| w == [b"--run-id".as_slice(), run_id.as_bytes()])
}

impl Drop for Rig {
    /// Nothing stays paused; the laboratory then ends what is left.
    fn drop(&mut self) {
        for (_, repair) in &self.repairs {
            if let Repair::Continue { pid } | Repair::ContinueZombie { pid, .. } = repair {
                signal(*pid, Signal::SIGCONT);
            }
        }
        for (_, pid) in self.living() {
            signal(pid, Signal::SIGKILL);
        }
    }
}
