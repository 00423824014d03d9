//! The reference's log becomes a run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ValueEnum;
use imprint_core::{
    Depth, Fact, FactId, ImportFormat, ImportSource, ImportedIdentity, ImportedSpec,
    InjectionDefaults, Probe, ProbeControl, ProbeId, SavingSpec, Scenario, Schedule, StepReadings,
};
use imprint_data::{Tokenizer, file_sha256, load_facts};
use imprint_store::archive::{self, Sure};
use imprint_store::ingest::{Message, Writer};
use imprint_store::runs::{BegunImport, NewImport, NewProbe, NewProbeSet, Process};
use imprint_store::{Store, derived};
use imprint_telemetry::one_line;
use tokio::sync::mpsc;

use crate::commands::tell;
use crate::database::Database;
use crate::failure::{Failure, Outcome};
use crate::place::Place;
use crate::reference_log::{self, LoggedProbe, NanRule, ReadError, Record, Scan};
use crate::table::thousands;

/// Readings that one transaction takes.
const BATCH: usize = 16;

/// Injections of a fact in the scenario `paper`, the first with the passage itself.
const PAPER_EXPOSURES: usize = 10;

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options of a reference log")]
pub(super) struct Options {
    /// The experiment that the run belongs to; made if it is not there.
    #[arg(long, value_name = "EXPERIMENT", required_if_eq("format", "reference"))]
    name: Option<String>,
    /// Facts file: gives the texts of the probes, and is held to the log's numbers of them.
    #[arg(long, value_name = "FILE")]
    facts: Option<PathBuf>,
    /// The model's `tokenizer.json`: gives the token counts of the probes.
    ///
    /// A log has means over tokens only. Without counts they are stored as sums over one token:
    /// every mean is right, and no sum is.
    #[arg(long, value_name = "FILE", requires = "facts")]
    tokenizer: Option<PathBuf>,
    /// How facts were shown: `paper`, `duplication`, `paraphrase`, `once` or `none`; all but `paper`
    /// and `none` need `--facts`.
    #[arg(long, value_name = "SCENARIO", default_value = "paper")]
    scenario: String,
    /// Rows of a batch; with the sequence length it makes steps into tokens.
    #[arg(long, value_name = "ROWS", default_value_t = 2048)]
    batch_size: u32,
    /// Tokens of a row.
    #[arg(long, value_name = "TOKENS", default_value_t = 2048)]
    seq_len: u32,
    /// The seed of the run, for its name.
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    seed: u64,
    /// What `NaN` means. The reference's code writes it where every token of a span has a loss of
    /// exactly 0.
    #[arg(long, value_enum, default_value_t)]
    nan: Nan,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Nan {
    /// The log is refused.
    #[default]
    Refuse,
    /// A loss of 0.
    Zero,
}

impl From<Nan> for NanRule {
    fn from(nan: Nan) -> Self {
        match nan {
            Nan::Refuse => Self::Refuse,
            Nan::Zero => Self::Zero,
        }
    }
}

impl From<imprint_data::Error> for Failure {
    fn from(error: imprint_data::Error) -> Self {
        Self::bad_input(one_line(&error))
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        Self::bad_input(one_line(&error))
    }
}

pub(super) async fn run(place: &Place, log: PathBuf, options: Options) -> Outcome {
    let nan = options.nan.into();
    let path = log.clone();
    let (import, scan) = blocking(move || {
        let scan = reference_log::scan(&path, nan)?;
        Ok((plan(&path, &scan, &options)?, scan))
    })
    .await?;
    let database = Database::provide(place).await?;
    let imported = store(&database.store, &log, nan, &import, &scan).await;
    database.close().await?;
    tell(imported?)?;
    for line in remarks(&scan, &import) {
        tell(line)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The run that a log is.
fn plan(log: &Path, scan: &Scan, options: &Options) -> Result<NewImport, Failure> {
    let experiment = options.name.as_deref().unwrap_or_default();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if experiment.is_empty() || !experiment.chars().all(is_plain) {
        return Err(Failure::bad_input(format!(
            "--name `{experiment}`: use letters, digits, `-`, `_` and `.` only"
        )));
    }
    for (option, value) in [
        ("--batch-size", options.batch_size),
        ("--seq-len", options.seq_len),
    ] {
        if value == 0 {
            return Err(Failure::bad_input(format!("{option}: 1 at least")));
        }
    }
    let first = scan.steps[0];
    let reading_steps = scan
        .steps
        .iter()
        .map(|step| i32::try_from(step - first).map(|s| s as u32))
        .collect::<Result<Vec<u32>, _>>()
        .map_err(|_| Failure::bad_input(format!("{}: too many steps", log.display())))?;
    let n_updates = reading_steps.last().copied().unwrap_or(0);

    let facts = options.facts.as_deref().map(|path| facts(path, scan));
    let facts = facts.transpose()?;
    let (scenario, schedule) = shown(options, facts.as_deref(), scan.layout.n_facts())?;
    if schedule.last_step().is_some_and(|last| last >= n_updates) {
        return Err(Failure::bad_input(format!(
            "scenario `{}` injects until step {}, and the log ends {n_updates} steps after its \
             first; say with --scenario how facts were shown (`none` for not at all)",
            options.scenario,
            schedule.last_step().unwrap_or_default()
        )));
    }
    let tokenizer = options.tokenizer.as_deref().map(Tokenizer::open);
    let tokenizer = tokenizer.transpose()?;
    let probes = probes(scan.layout.probes(), facts.as_deref(), tokenizer.as_ref())?;

    let identity = ImportedIdentity {
        format: ImportFormat::Reference,
        log_sha256: scan.sha256.clone(),
        first_global_step: first,
        facts_sha256: hash(options.facts.as_deref())?,
        tokenizer_sha256: hash(options.tokenizer.as_deref())?,
        scenario_name: options.scenario.clone(),
        scenario,
        batch_size: options.batch_size,
        seq_len: options.seq_len,
        seed: options.seed,
    };
    let stem = log.file_stem().unwrap_or_default().to_string_lossy();
    let stem: String = stem
        .chars()
        .map(|c| if is_plain(c) { c } else { '_' })
        .collect();
    let label = format!(
        "{experiment}/{stem}-{}-b{}-s{}",
        options.scenario, options.batch_size, options.seed
    );
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    Ok(NewImport {
        experiment: experiment.to_owned(),
        hash: identity.hash(),
        spec: ImportedSpec {
            label,
            imported: ImportSource {
                log: absolute(log),
                facts: options.facts.as_deref().map(absolute),
                tokenizer: options.tokenizer.as_deref().map(absolute),
            },
            identity,
            saving: SavingSpec::default(),
        },
        reading_steps,
        n_facts: scan.layout.n_facts(),
        schedule,
        probe_set: NewProbeSet::new(probes),
        process: Process {
            host: nix::unistd::gethostname()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default(),
            pid: std::process::id(),
            machine: "not recorded: imported from a log".to_owned(),
            ..Process::default()
        },
    })
}

/// The facts of a file, which are those of the log.
fn facts(path: &Path, scan: &Scan) -> Result<Vec<Fact>, Failure> {
    let facts = load_facts(path)?;
    if facts.len() != scan.layout.n_facts() {
        return Err(Failure::bad_input(format!(
            "{}: {} facts, but the log has {}",
            path.display(),
            facts.len(),
            scan.layout.n_facts()
        )));
    }
    Ok(facts)
}

/// How facts were shown, by the user's word.
fn shown(
    options: &Options,
    facts: Option<&[Fact]>,
    n_facts: usize,
) -> Result<(Scenario, Schedule), Failure> {
    let name = &options.scenario;
    let stand_ins;
    let facts = match facts {
        Some(facts) => facts,
        None if name == "paper" || name == "none" => {
            // These two do not depend on what the facts are.
            let fact = Fact {
                subject: None,
                passage: String::new(),
                paraphrases: vec![String::new(); PAPER_EXPOSURES - 1],
                probes: Vec::new(),
            };
            stand_ins = vec![fact; n_facts];
            &stand_ins
        }
        None => {
            return Err(Failure::bad_input(format!(
                "--scenario {name}: needs --facts, which say what facts have paraphrases"
            )));
        }
    };
    let refused = |problem: String| {
        Failure::bad_input(format!(
            "--scenario {name}: {problem}; `none` shows no fact"
        ))
    };
    let scenario = Scenario::built_in(name, facts, &InjectionDefaults::default())
        .ok_or_else(|| refused("it is not a built-in scenario".to_owned()))?
        .map_err(|e| refused(e.to_string()))?;
    let schedule = scenario.schedule(facts);
    Ok((
        scenario.clone(),
        schedule.map_err(|e| refused(e.to_string()))?,
    ))
}

/// The log's probes, with their texts and token counts as far as they are known.
fn probes(
    logged: &[LoggedProbe],
    facts: Option<&[Fact]>,
    tokenizer: Option<&Tokenizer>,
) -> Result<Vec<NewProbe>, Failure> {
    let mut texts: BTreeMap<(FactId, Depth, u16), (&str, &str)> = BTreeMap::new();
    for (fact, id) in facts.unwrap_or_default().iter().zip(0..) {
        for p in &fact.probes {
            texts.insert((FactId(id), p.depth, p.ordinal), (&p.prompt, &p.target));
        }
    }
    let mut probes = Vec::with_capacity(logged.len());
    for (p, id) in logged.iter().zip(0..) {
        let text = texts.remove(&(p.fact, p.depth, p.ordinal));
        if facts.is_some() && text.is_none() {
            return Err(Failure::bad_input(format!(
                "the log has a {} probe {} of fact {}, and the facts file does not",
                p.depth, p.ordinal, p.fact
            )));
        }
        let (prompt, target) = text.unwrap_or_default();
        let probe = Probe {
            id: ProbeId(id),
            fact: p.fact,
            depth: p.depth,
            ordinal: p.ordinal,
            control: ProbeControl::Own,
            prompt: prompt.to_owned(),
            target: target.to_owned(),
        };
        let (n_target_tokens, n_full_tokens) = match tokenizer {
            None => (1, 1),
            Some(tokenizer) => {
                let tokens = tokenizer.encode_probe(&probe)?;
                (tokens.n_target_tokens as u32, tokens.n_full_tokens() as u32)
            }
        };
        probes.push(NewProbe {
            probe,
            n_target_tokens,
            n_full_tokens,
        });
    }
    match texts.first_key_value() {
        None => Ok(probes),
        Some(((fact, depth, ordinal), _)) => Err(Failure::bad_input(format!(
            "the facts file has a {depth} probe {ordinal} of fact {fact}, and the log does not"
        ))),
    }
}

fn hash(path: Option<&Path>) -> Result<Option<String>, Failure> {
    Ok(path.map(file_sha256).transpose()?)
}

/// Stores the run, as the attempt that is its only one; returns what to say.
async fn store(
    store: &Store,
    log: &Path,
    nan: NanRule,
    import: &NewImport,
    scan: &Scan,
) -> Result<String, Failure> {
    let (run_id, attempt, label) = match store.begin_import(import).await? {
        BegunImport::Begun {
            run_id,
            attempt,
            label,
        } => (run_id, attempt, label),
        BegunImport::Known { label } => return Ok(format!("{label}: here already, whole")),
        BegunImport::Refused(refusal) => return Err(Failure::bad_input(refusal.to_string())),
    };
    let machine = &import.process.machine;
    let (mut writer, _) = Writer::open(store, run_id, attempt, 0, machine).await?;
    let (sender, mut readings) = mpsc::channel(2 * BATCH);
    let reader = blocking({
        let log = log.to_owned();
        let n_tokens: Vec<[u32; 2]> = import
            .probe_set
            .probes()
            .iter()
            .map(|p| [p.n_target_tokens, p.n_full_tokens])
            .collect();
        let first = scan.steps[0];
        move || {
            let mut index = 0;
            let sha256 = reference_log::records(&log, nan, |record| {
                let reading = reading(record, index, first, attempt, &n_tokens);
                index += 1;
                // Nobody listens where storing failed, which is told there.
                let stored = sender.blocking_send(reading);
                stored.map_err(|_| "storing ended before the log".to_owned())
            })?;
            Ok(sha256)
        }
    });
    let stored = async move {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let n = readings.recv_many(&mut batch, BATCH).await;
            if n == 0 {
                return Ok::<(), Failure>(());
            }
            let messages: Vec<Message> = batch.drain(..).map(Message::Reading).collect();
            if let Some(refusal) = writer.append(&messages).await?.refused {
                return Err(Failure::failed(format!("storing the log: {refusal}")));
            }
        }
    };
    let (sha256, stored) = tokio::join!(reader, stored);
    stored?;
    derived::make_chunks(store, run_id).await?;
    if sha256? != scan.sha256 {
        // It holds something of both.
        archive::drop_run(store, run_id, Sure::Yes, false).await?;
        return Err(Failure::failed(format!(
            "{} changed while it was read: nothing of it was kept; import it again when it is whole",
            log.display(),
        )));
    }
    store.finish_import(run_id).await?;
    Ok(format!(
        "{label}: {} readings of {} probes, complete",
        thousands(scan.steps.len() as u64),
        thousands(import.probe_set.probes().len() as u64)
    ))
}

/// A record as it is stored: sums in nats, not positive.
fn reading(
    record: &Record,
    index: u32,
    first_step: u64,
    attempt: u32,
    n_tokens: &[[u32; 2]],
) -> StepReadings {
    let sums = |losses: &[f64], n: &dyn Fn(usize) -> u32| {
        let losses = losses.iter().enumerate();
        // From 0, so that no loss is 0 and not minus 0.
        let sums = losses.map(|(probe, loss)| (0.0 - loss * f64::from(n(probe))) as f32);
        sums.collect()
    };
    StepReadings {
        index,
        step: (record.step - first_step) as u32,
        measured_by: attempt,
        first_sum_nats: sums(&record.first_nats, &|_| 1),
        target_sum_nats: sums(&record.target_nats, &|probe| n_tokens[probe][0]),
        full_sum_nats: sums(&record.full_nats, &|probe| n_tokens[probe][1]),
    }
}

/// What is worth knowing of what the log does not say.
fn remarks(scan: &Scan, import: &NewImport) -> Vec<String> {
    let identity = &import.spec.identity;
    let mut remarks = vec![format!(
        "taken for: scenario {}, {} × {} tokens a step, reading 0 at global step {}",
        identity.scenario_name, identity.batch_size, identity.seq_len, identity.first_global_step
    )];
    if identity.tokenizer_sha256.is_none() {
        remarks.push(
            "token counts are not known: sums are stored as means over one token (--facts and \
             --tokenizer give the counts)"
                .to_owned(),
        );
    }
    if scan.n_nan > 0 {
        remarks.push(format!("{} NaN read as a loss of 0", scan.n_nan));
    }
    if scan.n_rounded > 0 {
        remarks.push(format!(
            "{} values are not float32 and are stored rounded to it",
            thousands(scan.n_rounded)
        ));
    }
    if scan.looks_like_perplexity {
        remarks.push(
            "warning: no value of the first record is below 1, as if the log held perplexities \
             and not cross-entropies"
                .to_owned(),
        );
    }
    if !scan.other_keys.is_empty() {
        let keys: Vec<&str> = scan.other_keys.iter().map(String::as_str).collect();
        remarks.push(format!("not looked at: {}", keys.join(", ")));
    }
    remarks
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(Failure::doing("read the log"))?
}

#[cfg(test)]
mod tests;
