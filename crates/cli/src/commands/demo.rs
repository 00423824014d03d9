//! `imprint demo`: tiny models learn and forget facts, in a few minutes.

mod findings;

use std::fs;
use std::future::Future;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use imprint_analysis::{Preset, Settings};
use imprint_core::{Depth, Span};
use imprint_orchestrator::Site;
use imprint_store::embedded::{Durability, Embedded};
use imprint_telemetry::Options;
use imprint_world::{World, WorldConfig};

use super::{figure, machine, results, submit, tell, verify, watch};
use crate::client::Orchestrator;
use crate::database::{self, Database};
use crate::failure::{Failure, Outcome};
use crate::place::Place;
use crate::readings;
use crate::system::{Setup, System, signalled};

/// Watch tiny models learn and forget facts, in a few minutes on two cores.
///
/// Makes a directory with a synthetic world (a corpus, fictional facts, a tokenizer) and two
/// experiment files, starts the services, pretrains a tiny model, injects facts from two of its
/// checkpoints under three scenarios at two batch sizes, and shows the results, the figures and
/// what they say. Everything stays in the directory, to look at, change and go on from.
///
/// Example: `imprint demo`, then `imprint sql` with the data directory that it names
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Arguments {
    /// Directory to make; one that an earlier demo made is made again.
    #[arg(long, value_name = "DIR", default_value = "imprint-demo")]
    dir: PathBuf,
    /// The trainer; where absent, `imprint-trainer` beside this program or on PATH.
    #[arg(long, value_name = "PATH", env = "IMPRINT_TRAINER")]
    trainer: Option<PathBuf>,
}

/// The experiment files, as they are written for the user to read and change.
const PRETRAIN: &str = include_str!("../../../../experiments/demo-pretrain.toml");
const MATRIX: &str = include_str!("../../../../experiments/demo.toml");

/// The experiments' names, as the files give them.
const PRETRAIN_NAME: &str = "demo-pretrain";
const MATRIX_NAME: &str = "demo";

/// Trainers at the same time, of one thread each.
const SLOTS: usize = 2;

/// Says that a directory is a demo's, and may be made again.
const MARKER: &str = ".imprint-demo";

pub(crate) async fn run(telemetry: &Options, arguments: Arguments) -> Outcome {
    let began = Instant::now();
    let stage = |what: &str| {
        tell(format_args!(
            "\n[{:>3} s] {what}",
            began.elapsed().as_secs()
        ))
    };
    let setup = Setup {
        trainer: machine::trainer(arguments.trainer)?,
        site: Site::local(SLOTS),
        tokens: false,
        well_known_ports: false,
        environment: telemetry.environment(),
    };
    let dir =
        std::path::absolute(&arguments.dir).map_err(Failure::doing(arguments.dir.display()))?;
    let data_dir = data_dir(&dir);
    make_anew(&dir, &data_dir).await?;

    stage(&format!(
        "writing a synthetic world into {}",
        dir.join("world").display()
    ))?;
    let world = World::generate(WorldConfig::demo()).map_err(Failure::doing("make a world"))?;
    world
        .write(&dir.join("world"))
        .map_err(Failure::doing("write the world"))?;
    let (pretrain, matrix) = (dir.join("demo-pretrain.toml"), dir.join("demo.toml"));
    write(&pretrain, PRETRAIN)?;
    write(&matrix, MATRIX)?;
    tell_of(&world)?;

    stage("starting the database, the metrics service and the orchestrator")?;
    let place = Place::private(&data_dir);
    let mut system = System::start(&place, setup).await?;
    let addresses = format!(
        "orchestrator  {}\nmetrics       {}\ndatabase      {}",
        system.services().orchestrator,
        system.services().metrics,
        system.psql_line(),
    );
    let psql_line = system.psql_line().to_owned();

    let shown = async {
        tell(addresses)?;
        stage("pretraining one model from scratch; its states at two steps are the checkpoints")?;
        submit_and_watch(&place, &pretrain, PRETRAIN_NAME).await?;
        stage("injecting facts: 2 checkpoints × 3 scenarios × 2 batch sizes, two runs at a time")?;
        submit_and_watch(&place, &matrix, MATRIX_NAME).await?;
        stage("checking that every reading is stored")?;
        verify_all(&place).await?;
        stage("what came out")?;
        show_results(&place, &dir).await
    };
    let shown = until_stopped(shown, &mut system).await;
    let stopped = system.stop().await;
    shown?;
    stopped?;

    tell(format_args!(
        "\nDone in {} s. To go on from here:\n\n  \
         {program} --data-dir {data} up\n\n\
         starts the services again; then, in another terminal,\n\n  \
         {psql_line}\n  \
         {program} --data-dir {data} sql -c \"select * from imprint.run_summary\"\n  \
         {program} --data-dir {data} submit {file} --dry-run\n\n\
         and change {file}, or copy experiments/minimal.toml for a model, corpus and facts of your \
         own.",
        began.elapsed().as_secs(),
        // As it was typed: after a build it is seldom on PATH.
        program = std::env::args().next().as_deref().unwrap_or("imprint"),
        data = data_dir.display(),
        file = matrix.display(),
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// What is done, unless a signal or a service's end comes first.
async fn until_stopped(
    done: impl Future<Output = Result<(), Failure>>,
    system: &mut System,
) -> Result<(), Failure> {
    tokio::select! {
        done = done => done,
        failure = system.broken() => Err(failure),
        signalled = signalled() => {
            signalled.and(Err(Failure::failed("interrupted; the trainers were asked to save")))
        }
    }
}

/// Where the database and the runs are: in the demo's directory where Postgres can reach it.
///
/// Postgres refuses to run as root, and the user as whom it then runs may not enter, for example,
/// root's home.
fn data_dir(dir: &Path) -> PathBuf {
    let may_enter = |ancestor: &Path| match fs::metadata(ancestor) {
        Ok(metadata) => metadata.mode() & 0o001 != 0,
        // Not there yet: we make it, open to all.
        Err(_) => true,
    };
    if !nix::unistd::geteuid().is_root() || dir.ancestors().all(may_enter) {
        return dir.join("data");
    }
    let name = dir.display().to_string().replace('/', "-");
    PathBuf::from(format!("/var/lib/imprint/demo{name}"))
}

/// An empty directory with the demo's mark, in place of an earlier demo's.
async fn make_anew(dir: &Path, data_dir: &Path) -> Result<(), Failure> {
    let marker = dir.join(MARKER);
    let is_empty = fs::read_dir(dir).map_or(true, |mut entries| entries.next().is_none());
    if !is_empty && !marker.exists() {
        return Err(Failure::bad_input(format!(
            "{} is there and no demo made it; name another directory with --dir",
            dir.display()
        )));
    }
    let cluster = database::directory(&Place::private(data_dir));
    if cluster.join("data/postmaster.pid").exists() {
        // An interrupted demo's server: it must not lose its files while it runs.
        Embedded::start(&cluster, Durability::Durable)
            .await?
            .stop()
            .await?;
    }
    for stale in [dir, data_dir] {
        match fs::remove_dir_all(stale) {
            Err(err) if err.kind() != ErrorKind::NotFound => {
                return Err(Failure::failed(format!(
                    "remove {}: {err}",
                    stale.display()
                )));
            }
            _ => {}
        }
    }
    fs::create_dir_all(dir).map_err(Failure::doing(format_args!(
        "make the directory {}",
        dir.display()
    )))?;
    write(&marker, "made by `imprint demo`, which may make it anew\n")
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    fs::write(path, text).map_err(Failure::doing(format_args!("write {}", path.display())))
}

/// One fact, so that it is plain what is learnt and asked.
fn tell_of(world: &World) -> Result<(), Failure> {
    let Some(fact) = world.facts().first() else {
        return Ok(());
    };
    tell(format_args!(
        "{} facts, of which this is the first:",
        world.facts().len()
    ))?;
    tell(format_args!("  shown    {}", fact.passage))?;
    for depth in Depth::ALL {
        if let Some(p) = fact.probes.iter().find(|p| p.depth == depth) {
            tell(format_args!(
                "  {:<8} {} → {}",
                depth.as_str(),
                p.prompt,
                p.target
            ))?;
        }
    }
    Ok(())
}

async fn submit_and_watch(place: &Place, file: &Path, name: &str) -> Result<(), Failure> {
    let orchestrator = Orchestrator::connect(place).await?;
    let submitted = orchestrator.submit(submit::request(file)?).await?;
    tell(submit::as_table(&submitted.runs))?;
    watch::until_ended(&orchestrator, name).await.map(drop)
}

async fn verify_all(place: &Place) -> Result<(), Failure> {
    let mut rows = Vec::new();
    for name in [PRETRAIN_NAME, MATRIX_NAME] {
        rows.extend(
            verify::verify(place, name)
                .await?
                .iter()
                .map(verify::Row::from),
        );
    }
    tell(verify::as_table(&rows))?;
    if rows.iter().all(|r| r.clean) {
        Ok(())
    } else {
        Err(Failure::failed("not every run is clean"))
    }
}

async fn show_results(place: &Place, dir: &Path) -> Result<(), Failure> {
    let database = Database::open(place).await?;
    let loaded = readings::load(&database.store, MATRIX_NAME, Span::Target).await;
    database.close().await?;
    let sweep = loaded?;
    let settings = Settings::of(Preset::Paper);
    let summary = results::Summary::of(&sweep, &settings);
    tell(format_args!(
        "{}\n\n{}",
        summary.as_table(),
        results::LEGEND
    ))?;
    tell(format_args!("\n{}", findings::findings(&summary.rows)))?;
    let csv = dir.join("results.csv");
    write(&csv, &summary.as_csv()?)?;
    let figures = figure::draw(&sweep, &settings, &dir.join("figures"))?;
    tell(format_args!(
        "\nEvery column is in {}; the figures:",
        csv.display()
    ))?;
    let pictures = figures
        .iter()
        .filter(|f| f.extension().is_some_and(|e| e == "png"));
    for picture in pictures {
        tell(format_args!("  {}", picture.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
