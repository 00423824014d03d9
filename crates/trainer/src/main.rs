//! `imprint-trainer`: goes on with pretraining while it injects facts and reads probes.

mod control;
mod convert;
mod inspect;
mod machine;
mod memory;
mod probe;
mod record;
mod run;
mod stage;
mod start;
mod state;
mod stop;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use imprint_proto::{CredentialFiles, Target};
use imprint_telemetry::Sampling;

use self::run::Source;
use self::stage::StageConfig;

/// Training makes and drops large buffers at every operation: an allocator that keeps them is a
/// quarter of the speed on a CPU.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Trains one run and reads its probes after every update.
#[derive(Parser)]
#[command(name = "imprint-trainer", version, about, long_about = None)]
struct Arguments {
    #[command(flatten)]
    telemetry: imprint_telemetry::Options,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Execute a run's next attempt; the orchestrator starts this.
    ///
    /// Where the orchestrator is away it waits for it, when it begins as well as later.
    ///
    /// Exit code 0: finished or stopped as asked (SIGINT, or by the orchestrator: saved and flushed;
    /// by SIGTERM or SIGUSR1 see --stopped-exit-code); 1: failed, and the orchestrator knows why; 3: a
    /// later attempt has taken the run over; 130: a further SIGINT while it was about to stop.
    Run {
        /// Address of the orchestrator, such as http://127.0.0.1:7432.
        #[arg(long, env = "IMPRINT_ORCHESTRATOR", required_unless_present = "ticket")]
        orchestrator: Option<String>,
        /// Number of the run.
        #[arg(long, required_unless_present = "ticket", conflicts_with = "ticket")]
        run_id: Option<i32>,
        /// What the executor that started this process calls its job; an attempt of a job that was
        /// written off is refused.
        #[arg(long, value_name = "ID", conflicts_with = "ticket")]
        job: Option<String>,
        /// Exit code after SIGTERM or SIGUSR1, once it has saved: by one of its own, such as 85, a
        /// batch system knows that it is to start the job again (Slurm: `RequeueExit`).
        #[arg(long, value_name = "CODE", default_value_t = 0)]
        stopped_exit_code: u8,
        /// Work offline, by a ticket from `imprint take`; `imprint import` delivers later.
        #[arg(long, value_name = "FILE")]
        ticket: Option<PathBuf>,
        /// A directory of this node: what is read again and again (corpora, checkpoints, tokenizers)
        /// is copied there once for all trainers, and read there.
        #[arg(long, value_name = "DIR", requires = "stage_gib")]
        stage_dir: Option<PathBuf>,
        /// How much the copies may take: those that no trainer uses make room for others.
        #[arg(long, value_name = "GIB", requires = "stage_dir", value_parser = gib)]
        stage_gib: Option<u64>,
        /// A file with the run's token, where the orchestrator asks for one; nobody but its owner may
        /// be able to read it.
        #[arg(long, value_name = "FILE")]
        token_file: Option<PathBuf>,
        /// Certificates of the authority that signed the services' (PEM); those that this machine
        /// trusts where absent.
        #[arg(long, value_name = "FILE", env = "IMPRINT_CA")]
        ca: Option<PathBuf>,
        /// A certificate of this client (PEM), where services ask for one.
        #[arg(
            long,
            value_name = "FILE",
            env = "IMPRINT_CLIENT_CERT",
            requires = "client_key"
        )]
        client_cert: Option<PathBuf>,
        /// Its key (PEM); nobody but its owner may be able to read it.
        #[arg(
            long,
            value_name = "FILE",
            env = "IMPRINT_CLIENT_KEY",
            requires = "client_cert"
        )]
        client_key: Option<PathBuf>,
    },
    /// Read every probe of a facts file once and print one JSON object a line.
    ///
    /// Sums are in nats; `first` is the first target token, `target` all of them, `full` every
    /// token of the probe but the first.
    Probe {
        /// A checkpoint directory: Hugging Face's or OLMo's own.
        #[arg(long)]
        checkpoint: PathBuf,
        /// A tokenizer.json.
        #[arg(long)]
        tokenizer: PathBuf,
        /// A facts file.
        #[arg(long)]
        facts: PathBuf,
        /// `cpu` or `cuda:N`.
        #[arg(long, default_value = "cpu")]
        device: String,
    },
    /// Write a checkpoint as a Hugging Face directory in float32, which `transformers` loads.
    Convert {
        /// A checkpoint directory: Hugging Face's, OLMo's own, or a saved state of a run.
        #[arg(long)]
        checkpoint: PathBuf,
        /// The directory to write; it must not exist yet.
        #[arg(long)]
        out: PathBuf,
    },
    /// Print what one update of an experiment trains on, as one JSON object.
    ///
    /// Needs no weights and no services: paths are taken from the experiment file's directory, and
    /// those below a root of a site (`data:part-0.npy`) from where --root says that it is.
    Inspect {
        /// The experiment file.
        experiment: PathBuf,
        /// Where a root of the site file is, such as `data=/shared/data`; may be repeated.
        #[arg(long = "root", value_name = "NAME=DIR", value_parser = root)]
        roots: Vec<(String, PathBuf)>,
        /// The update.
        #[arg(long)]
        step: u32,
        /// The run: its position in the experiment's matrix, as `imprint submit --dry-run` lists it.
        #[arg(long, default_value_t = 0)]
        run: usize,
        /// Print all rows, not only those with injected texts.
        #[arg(long)]
        all: bool,
    },
    /// Say how much memory runs will fill; the orchestrator asks this for `--dry-run`.
    ///
    /// Reads a JSON array of questions from standard input, and answers in another.
    Memory,
}

fn main() -> ExitCode {
    let Arguments { telemetry, command } = Arguments::parse();
    let done = telemetry
        .start("imprint-trainer", "info")
        .map_err(anyhow::Error::from)
        .and_then(|telling| run(command, telling.sampling()));
    done.unwrap_or_else(|e| {
        telemetry.last_words("imprint-trainer", format_args!("{e:#}"));
        ExitCode::FAILURE
    })
}

fn run(command: Command, sampling: Sampling) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run {
            orchestrator,
            run_id,
            job,
            stopped_exit_code,
            ticket,
            stage_dir,
            stage_gib,
            token_file,
            ca,
            client_cert,
            client_key,
        } => {
            let stage =
                (stage_dir.zip(stage_gib)).map(|(dir, max_bytes)| StageConfig { dir, max_bytes });
            let source = match (ticket, orchestrator, run_id) {
                (None, Some(url), Some(run_id)) => {
                    let files = CredentialFiles {
                        ca,
                        identity: client_cert.zip(client_key),
                        token: token_file,
                    };
                    let credentials = files.load()?;
                    Source::Orchestrator {
                        target: Target { url, credentials },
                        run_id,
                        job,
                    }
                }
                (Some(ticket), ..) => Source::Ticket(ticket),
                _ => anyhow::bail!("give --orchestrator and --run-id, or --ticket"),
            };
            run::run(source, sampling, stopped_exit_code, stage)
        }
        Command::Probe {
            checkpoint,
            tokenizer,
            facts,
            device,
        } => probe::run(&checkpoint, &tokenizer, &facts, &device).map(|()| ExitCode::SUCCESS),
        Command::Convert { checkpoint, out } => {
            convert::run(&checkpoint, &out).map(|()| ExitCode::SUCCESS)
        }
        Command::Inspect {
            experiment,
            roots,
            step,
            run,
            all,
        } => {
            let roots = roots.into_iter().collect();
            inspect::run(&experiment, &roots, step, run, all).map(|()| ExitCode::SUCCESS)
        }
        Command::Memory => memory::run().map(|()| ExitCode::SUCCESS),
    }
}

/// A root's name and directory.
fn root(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, directory)) if !name.is_empty() && Path::new(directory).is_dir() => {
            Ok((name.to_owned(), PathBuf::from(directory)))
        }
        Some((name, directory)) if !name.is_empty() => Err(format!("{directory} is no directory")),
        _ => Err("want NAME=DIR, such as data=/shared/data".to_owned()),
    }
}

/// The bytes of a number of GiB.
fn gib(text: &str) -> Result<u64, String> {
    match text.parse::<f64>() {
        Ok(gib) if gib > 0.0 && gib.is_finite() => Ok((gib * f64::from(1 << 30)) as u64),
        _ => Err("want a number greater than 0".to_owned()),
    }
}
