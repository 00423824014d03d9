//! `imprint bench`: how fast this machine is at what the services do.

mod private;
mod processes;
mod report;
mod runs;
mod schedule;
mod service;
mod trainers;

use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use futures::TryStreamExt as _;
use imprint_core::{StepReadings, simulated};
use imprint_store::bench::{ATTEMPT, PlainTable, SimulatedRuns, bytes_on_disk};
use imprint_store::export::{readings, updates};
use imprint_store::runs::Process;
use imprint_store::{Store, derived};

use self::processes::{Usage, Watched};
use self::report::{Measured, Round};
use self::service::Service;
use self::trainers::Trainers;
use super::{print_json, tell};
use crate::arguments::Output;
use crate::failure::{Failure, Outcome};
use crate::place::Place;
use crate::system::signalled;

/// Measure this machine.
///
/// Example: `imprint bench ingest --standard`
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Ingest(Ingest),
    Schedule(schedule::Schedule),
}

/// Deliver the readings of simulated trainers, and read every value back.
///
/// Each trainer has a spool and a connection of its own, as a real one has, and sends one reading
/// and the statistics of one update a step. Their values are a function of run, step and probe:
/// afterwards every one is read back from Postgres and compared bit for bit.
///
/// Without `--metrics` a metrics service (a process of its own) and a private Postgres with durable
/// commits are started for it and removed afterwards. With it the service named there is measured,
/// and the database is the one that `imprint sql` would open.
///
/// The limit is measured in the same run, in turns with the trainers: binary COPY of the same bytes
/// into a plain table, as many steps a commit, or with `--steps-per-commit 1` one row a commit. It
/// begins when the chunks of the round are made, for which the trainers do not wait.
///
/// Example: `imprint bench ingest --standard`
#[derive(Clone, Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Ingest {
    #[command(flatten)]
    load: Load,
    /// The three loads of docs/benchmarks.md, one after the other.
    #[arg(long, conflicts_with_all = ["trainers", "probes", "steps", "rounds", "every", "steps_per_commit"])]
    standard: bool,
    /// Where the private database is made: on the disk that is to be measured.
    #[arg(long, value_name = "DIR", default_value_os_t = std::env::temp_dir())]
    dir: PathBuf,
    /// Where the trainers' spools are made.
    ///
    /// Real ones lie on the trainers' machines: in memory (/dev/shm), they keep off the disk that is
    /// measured. A thousand trainers of the standard load write 2.3 GB.
    #[arg(long, value_name = "DIR", default_value_os_t = std::env::temp_dir())]
    spools: PathBuf,
    /// Leave the runs, or the private database, where they are.
    #[arg(long)]
    keep: bool,
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// What the trainers do.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Load {
    /// Trainers at the same time.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    trainers: u32,
    /// Probes that each reads, over three token spans each.
    #[arg(long, value_name = "P", default_value_t = 1950, value_parser = clap::value_parser!(u32).range(1..))]
    probes: u32,
    /// Steps of each trainer in a round.
    #[arg(long, value_name = "S", default_value_t = 640, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Rounds, with the limit measured after each.
    #[arg(long, value_name = "R", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds from step to step of a trainer; where absent, as fast as it goes.
    ///
    /// Trainers are then at different places: one of them makes a step every S/N seconds, and they
    /// begin at different readings, so that work which comes every 64 readings is spread as in life.
    #[arg(long, value_name = "SECONDS")]
    every: Option<f64>,
    /// Steps that the service commits at once at most; with `--metrics` it keeps its own limit.
    #[arg(long, value_name = "K", default_value_t = imprint_metrics::STEPS_PER_COMMIT)]
    steps_per_commit: NonZeroU16,
}

impl Load {
    /// What docs/benchmarks.md tells of.
    fn standard() -> [Self; 3] {
        let flat_out = Self {
            trainers: 1,
            probes: 1950,
            steps: 640,
            rounds: 9,
            every: None,
            steps_per_commit: imprint_metrics::STEPS_PER_COMMIT,
        };
        [
            flat_out.clone(),
            Self {
                steps: 320,
                steps_per_commit: NonZeroU16::MIN,
                ..flat_out.clone()
            },
            Self {
                trainers: 1024,
                steps: 30,
                rounds: 1,
                every: Some(2.0),
                ..flat_out
            },
        ]
    }

    fn period(&self) -> Option<Duration> {
        self.every.map(Duration::from_secs_f64)
    }

    /// The first reading of a trainer's first round: those before are delivered unmeasured.
    fn first_reading(&self, trainer: u32) -> u32 {
        if self.every.is_some() && self.trainers > 1 {
            trainer % 64
        } else {
            0
        }
    }

    /// Enough for the trainer that begins last.
    fn n_readings(&self) -> u32 {
        let begun = self.first_reading(self.trainers.min(64) - 1);
        begun + self.steps * self.rounds
    }
}

/// How long chunks may take after the readings.
const CHUNKS_WITHIN: Duration = Duration::from_secs(300);

/// Connections of the limit: the service has no more either.
const MAX_CONNECTIONS: u32 = 16;

pub(crate) async fn run(place: &Place, command: Command) -> Outcome {
    match command {
        Command::Ingest(arguments) => ingest(place, arguments).await,
        Command::Schedule(arguments) => schedule::run(arguments).await,
    }
}

async fn ingest(place: &Place, arguments: Ingest) -> Outcome {
    let loads = match arguments.standard {
        true => Load::standard().to_vec(),
        false => vec![arguments.load.clone()],
    };
    let most = loads.iter().map(|l| l.trainers).max().unwrap_or(1);
    // A connection and two open files, and the service has the connection's end.
    check_files(most, 3)?;
    let mut service = Service::provide(place, &arguments.dir).await?;
    let measured = tokio::select! {
        measured = measure_all(&mut service, &loads, &arguments) => measured,
        signalled = signalled() => signalled.and(Err(Failure::failed("interrupted"))),
    };
    let kept = service.end(arguments.keep).await?;
    let measured = measured?;
    match arguments.output {
        Output::Table => tell(report::as_table(&measured))?,
        Output::Json => print_json(&measured)?,
    }
    if let Some(kept) = kept {
        tell(format_args!("kept: {kept}"))?;
    }
    let is_whole = measured.iter().all(Measured::is_whole);
    Ok(if is_whole {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn measure_all(
    service: &mut Service,
    loads: &[Load],
    arguments: &Ingest,
) -> Result<Vec<Measured>, Failure> {
    let mut all = Vec::with_capacity(loads.len());
    for load in loads {
        service.serve(load.steps_per_commit).await?;
        let bytes_before = bytes_on_disk(&service.store).await?;
        let (experiment, process) = (runs::experiment(load)?, this_process());
        let runs = SimulatedRuns::make(&service.store, &experiment, &process).await?;
        let measured = measure(service, load, &runs, &arguments.spools, bytes_before).await;
        if !arguments.keep {
            runs.remove(&service.store).await?;
        }
        all.push(measured?);
    }
    Ok(all)
}

async fn measure(
    service: &Service,
    load: &Load,
    runs: &SimulatedRuns,
    spools: &Path,
    bytes_before: u64,
) -> Result<Measured, Failure> {
    let spools = tempfile::tempdir_in(spools);
    let spools = spools.map_err(Failure::doing("make a directory for spools"))?;
    let mut trainers = Trainers::start(service.metrics_url(), load, runs, spools.path())?;
    eprintln!(
        "{} trainers × {} probes × 3 spans, {} × {} steps",
        load.trainers, load.probes, load.rounds, load.steps
    );
    trainers.warm_up().await?;
    let n_connections = load.trainers.min(MAX_CONNECTIONS);
    let table = format!("bench_{}", runs.run_ids[0]);
    let mut plain = PlainTable::make(&service.store, &table, n_connections as usize).await?;
    let row = bytes_of(&simulated::reading(1, 0, 0, ATTEMPT, load.probes));
    let n_rows = (load.steps * load.trainers / n_connections) as usize;

    let watched = Watched {
        service: service.metrics_pid(),
        postmaster: service.postmaster_pid(),
    };
    let mut rounds = Vec::new();
    for _ in 0..load.rounds {
        let before = watched.usage();
        let began = Instant::now();
        let latencies = trainers.round().await?;
        let took = began.elapsed();
        chunks_made(&service.store).await?;
        let took_with_chunks = began.elapsed();
        let after = watched.usage();
        // Nobody's limit where trainers wait for the clock.
        let limit = match (load.every, load.steps_per_commit.get()) {
            (Some(_), _) => None,
            (None, 1) => Some(plain.insert(&row, n_rows).await?),
            (None, n) => Some(plain.copy(&row, n_rows, n.into()).await?),
        };
        rounds.push(Round {
            took,
            took_with_chunks,
            latencies,
            usage: Usage::since(after, before),
            limit,
            limit_usage: Usage::since(watched.usage(), after),
        });
    }
    let peaks = watched.peaks();
    trainers.stop().await?;
    plain.remove(&service.store).await?;
    let n_commits = runs.n_commits(&service.store).await?;
    let bytes = bytes_on_disk(&service.store)
        .await?
        .saturating_sub(bytes_before);
    let (n_right, n_wrong) = read_back(&service.store, load, runs).await?;
    Ok(Measured::new(
        load,
        &rounds,
        peaks,
        n_commits,
        bytes,
        (n_right, n_wrong),
    ))
}

async fn chunks_made(store: &Store) -> Result<(), Failure> {
    let deadline = Instant::now() + CHUNKS_WITHIN;
    while !derived::behind(store).await?.is_empty() {
        if Instant::now() > deadline {
            let seconds = CHUNKS_WITHIN.as_secs();
            return Err(Failure::failed(format!(
                "chunks were not made within {seconds} s"
            )));
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

/// The values that are stored as they were sent, and those that are not or were never sent.
async fn read_back(
    store: &Store,
    load: &Load,
    runs: &SimulatedRuns,
) -> Result<(u64, u64), Failure> {
    let (mut n_right, mut n_wrong) = (0, 0);
    for (trainer, &run_id) in (0..).zip(&runs.run_ids) {
        let n_sent = load.first_reading(trainer) + load.steps * load.rounds;
        let mut next = 0;
        let mut stored = std::pin::pin!(readings(store, run_id));
        while let Some(reading) = stored.try_next().await? {
            let sent = simulated::reading(run_id, next, next, ATTEMPT, load.probes);
            let n_values = 3 * u64::from(load.probes);
            match next < n_sent && is_same(&reading, &sent) {
                true => n_right += n_values,
                false => n_wrong += n_values,
            }
            next += 1;
        }
        n_wrong += 3 * u64::from(load.probes) * u64::from(n_sent.saturating_sub(next));
        let stored: Vec<_> = updates(store, run_id).try_collect().await?;
        let sent = (0..n_sent).map(|step| simulated::update(run_id, step, ATTEMPT));
        if !stored.into_iter().eq(sent) {
            n_wrong += 1;
        }
    }
    Ok((n_right, n_wrong))
}

fn is_same(a: &StepReadings, b: &StepReadings) -> bool {
    (a.index, a.step, a.measured_by) == (b.index, b.step, b.measured_by)
        && bytes_of(a) == bytes_of(b)
}

/// The values of a reading as they are sent.
fn bytes_of(reading: &StepReadings) -> Vec<u8> {
    let spans = [
        &reading.first_sum_nats,
        &reading.target_sum_nats,
        &reading.full_sum_nats,
    ];
    spans
        .into_iter()
        .flatten()
        .flat_map(|v| v.to_le_bytes())
        .collect()
}

fn this_process() -> Process {
    Process {
        host: "bench".to_owned(),
        pid: std::process::id(),
        machine: "simulated".to_owned(),
        ..Process::default()
    }
}

/// Whether so many trainers may have so many open files each.
fn check_files(n_trainers: u32, n_files: u64) -> Result<(), Failure> {
    let needed = u64::from(n_trainers) * n_files + 200;
    match processes::max_open_files() {
        Some(limit) if limit < needed => Err(Failure::bad_input(format!(
            "{n_trainers} trainers need {needed} open files, and this shell allows {limit}: \
             `ulimit -n {needed}`"
        ))),
        _ => Ok(()),
    }
}
