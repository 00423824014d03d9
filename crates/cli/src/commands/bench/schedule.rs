//! `imprint bench schedule`: an orchestrator with thousands of runs.

mod experiment;
mod report;
mod scraped;
mod trainers;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use imprint_proto::pb;

use self::report::{Listed, Measured, Submitted, Trained, Waited};
use self::scraped::Scraped;
use self::trainers::Trainers;
use super::check_files;
use super::private::{Private, Served, free_address};
use super::processes::{Usage, Watched};
use crate::arguments::Output;
use crate::client::Orchestrator;
use crate::commands::{print_json, submit, tell};
use crate::failure::{Failure, Outcome};
use crate::place::{Place, Services};
use crate::system::signalled;

/// Submit one experiment of thousands of runs, let them wait, and begin many of them at once.
///
/// An orchestrator (a process of its own) and a private Postgres with durable commits are started for
/// it and removed afterwards. The orchestrator has no slots, so it starts nothing: all runs wait, and
/// it looks at all of them again and again. Then simulated trainers, each with a connection of its
/// own, begin attempts as trainers do that somebody started by hand, and send heartbeats as often as
/// the orchestrator says; afterwards it must show of each what it said last.
///
/// Example: `imprint bench schedule`
#[derive(Clone, Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Schedule {
    /// Runs of the experiment; rounded up to four times as many seeds.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    runs: u32,
    /// Trainers at the same time, no more than there are runs.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    trainers: u32,
    /// How long it is watched while all runs wait, and again with the trainers.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Where the private database is made: on the disk that is to be measured.
    #[arg(long, value_name = "DIR", default_value_os_t = std::env::temp_dir())]
    dir: PathBuf,
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// How long it may take until every run says why it waits.
const WAITING_WITHIN: Duration = Duration::from_secs(120);

/// Runs of a page: as many as a list has at most.
const FIRST_PAGE: usize = 1_000;

pub(super) async fn run(arguments: Schedule) -> Outcome {
    // A connection each.
    check_files(arguments.trainers, 1)?;
    let (private, store) = Private::start(&arguments.dir).await?;
    // All that is measured goes through the services.
    store.pool().close().await;
    let measured = tokio::select! {
        measured = measure(&private, &arguments) => measured,
        signalled = signalled() => signalled.and(Err(Failure::failed("interrupted"))),
    };
    private.end(false).await?;
    let measured = measured?;
    match arguments.output {
        Output::Table => tell(report::as_table(&measured))?,
        Output::Json => print_json(&measured)?,
    }
    Ok(match measured.is_whole() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

async fn measure(private: &Private, arguments: &Schedule) -> Result<Measured, Failure> {
    let lab = Lab::start(private).await?;
    let measured = lab.measure(arguments).await;
    lab.served.stop().await;
    measured
}

/// An orchestrator that starts nothing.
struct Lab<'a> {
    private: &'a Private,
    served: Served,
    people: Orchestrator,
    series: std::net::SocketAddr,
    watched: Watched,
}

impl<'a> Lab<'a> {
    async fn start(private: &'a Private) -> Result<Self, Failure> {
        let series = free_address().map_err(Failure::doing("find a free port"))?;
        let program = std::env::current_exe().map_err(Failure::doing("find this program"))?;
        let arguments = [
            "--slots".to_owned(),
            "0".to_owned(),
            "--prometheus-listen".to_owned(),
            series.to_string(),
            // It is never started.
            "--trainer".to_owned(),
            program.display().to_string(),
        ];
        let served = private.serve("orchestrator", &arguments).await?;
        let services = Services {
            pid: served.pid().unwrap_or_default(),
            metrics: String::new(),
            orchestrator: served.url().to_owned(),
        };
        services.save(private.path())?;
        let people = Orchestrator::connect(&Place::private(private.path())).await?;
        let watched = Watched {
            service: served.pid(),
            postmaster: private.postmaster_pid(),
        };
        Ok(Self {
            private,
            served,
            people,
            series,
            watched,
        })
    }

    async fn measure(&self, arguments: &Schedule) -> Result<Measured, Failure> {
        let n_seeds = arguments.runs.div_ceil(experiment::RUNS_PER_SEED);
        let n_runs = n_seeds * experiment::RUNS_PER_SEED;
        let n_trainers = arguments.trainers.min(n_runs);
        eprintln!("{n_runs} runs, {n_trainers} trainers");
        let file = experiment::write_into(self.private.path(), n_seeds)?;
        let (submitted, listed) = self.submit(&file).await?;
        let runs = self.all_wait(n_runs).await?;
        let watch_for = Duration::from_secs(arguments.seconds.into());
        let waited = self.wait(watch_for).await?;
        let trained = self.train(&runs[..n_trainers as usize], watch_for).await?;
        Ok(Measured::new(
            (n_runs, n_trainers),
            (submitted, listed),
            &waited,
            &trained,
            self.watched.peaks(),
        ))
    }

    /// Submits the file and asks for what is shown of it.
    async fn submit(&self, file: &Path) -> Result<(Submitted, Listed), Failure> {
        let request = submit::request(file)?;
        let began = Instant::now();
        let answer = self.people.submit(request).await?;
        let answered = began.elapsed();
        let (experiments, _) = self.people.experiments(false, 1).await?;
        let page = (self.people)
            .runs(experiment::NAME, &[], FIRST_PAGE)
            .await?;
        let shown = began.elapsed();
        let scraped = Scraped::of(self.series).await?;
        let part = |part| scraped.durations("imprint_submission_duration_seconds", part);
        let of_list = experiments.first().map(|e| &e.runs_by_state);
        Ok((
            Submitted {
                validated_in: part("validate").mean(),
                stored_in: part("store").mean(),
                answered_in: answered,
                shown_in: shown,
            },
            Listed {
                n_new: answer.runs.iter().filter(|run| run.new).count() as u32,
                n_counted: of_list.map_or(0, |n| n.values().sum()),
                n_on_first_page: page.len() as u32,
            },
        ))
    }

    /// All runs, once each says why it waits.
    async fn all_wait(&self, n_runs: u32) -> Result<Vec<pb::Run>, Failure> {
        let deadline = Instant::now() + WAITING_WITHIN;
        loop {
            let runs = (self.people)
                .runs(experiment::NAME, &[], usize::MAX)
                .await?;
            let n_waiting = runs.iter().filter(|run| !run.reason.is_empty()).count();
            if n_waiting == n_runs as usize {
                return Ok(runs);
            }
            if Instant::now() > deadline {
                let seconds = WAITING_WITHIN.as_secs();
                return Err(Failure::failed(format!(
                    "after {seconds} s {n_waiting} of {n_runs} runs say why they wait"
                )));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Nothing happens but that the scheduler looks.
    async fn wait(&self, watch_for: Duration) -> Result<Waited, Failure> {
        let (before, began) = (self.look().await?, Instant::now());
        tokio::time::sleep(watch_for).await;
        let after = self.look().await?;
        Ok(before.until(&after, began.elapsed()))
    }

    async fn train(&self, runs: &[pb::Run], watch_for: Duration) -> Result<Trained, Failure> {
        let began = Instant::now();
        let trainers = Trainers::begin(self.served.url(), runs).await?;
        let begun_in = began.elapsed();
        let heartbeat = trainers.every();
        let (before, began) = (self.look().await?, Instant::now());
        let told = trainers.send_heartbeats(watch_for).await;
        let after = self.look().await?;
        let waited = before.until(&after, began.elapsed());
        let running = self
            .people
            .runs(experiment::NAME, &[pb::RunState::Running], usize::MAX);
        let running = running.await?;
        let steps: BTreeMap<i32, u32> = (running.iter())
            .filter(|run| run.attempts == 1)
            .map(|run| (run.run_id, run.step))
            .collect();
        let is_shown = |(run_id, step): &&(i32, u32)| steps.get(run_id) == Some(step);
        let n_shown = told.last_steps.iter().filter(is_shown).count();
        for problem in told.problems.iter().take(3) {
            eprintln!("{problem}");
        }
        Ok(Trained {
            begun_in,
            heartbeat,
            latencies: told.latencies,
            n_lost: told.problems.len() as u32,
            n_shown: n_shown as u32,
            waited,
        })
    }

    async fn look(&self) -> Result<Look, Failure> {
        Ok(Look {
            usage: self.watched.usage(),
            scraped: Scraped::of(self.series).await?,
        })
    }
}

/// What was used and counted so far.
struct Look {
    usage: Usage,
    scraped: Scraped,
}

impl Look {
    fn until(&self, after: &Self, took: Duration) -> Waited {
        let part = |part| {
            let of = |scraped: &Scraped| scraped.durations("imprint_look_duration_seconds", part);
            of(&after.scraped).since(&of(&self.scraped))
        };
        Waited {
            took,
            usage: Usage::since(after.usage, self.usage),
            read: part("read"),
            plan: part("plan"),
            act: part("act"),
        }
    }
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    fs::write(path, text).map_err(Failure::doing(format_args!("write {}", path.display())))
}
