//! The experiment file: a strict TOML document and its expansion into runs.

mod again;
mod matrix;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use self::matrix::{Matrix, Problem};
use crate::fact::Fact;
use crate::reading::ReadingSteps;
use crate::run::{
    CheckpointIdentity, CheckpointSource, CorpusManifest, ModelSpec, OptimizerStart, OrderIdentity,
    RunFiles, RunIdentity, RunSpec, TrainingSpec, is_first,
};
use crate::scenario::{Scenario, ScenarioError, Stagger};

/// A complete experiment: one matrix of runs over one corpus, tokenizer and facts file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExperimentSpec {
    /// Letters, digits, `-`, `_` and `.`.
    pub name: String,
    pub data: DataSpec,
    pub checkpoint: Vec<CheckpointSpec>,
    /// Names of built-in scenarios or of `[scenario.<name>]` tables.
    pub scenarios: Vec<String>,
    pub batch_sizes: Vec<u32>,
    #[serde(default = "default_seeds")]
    pub seeds: Vec<u64>,
    /// Makes runs of their own of runs that are there already, to do them again.
    #[serde(default, skip_serializing_if = "is_first")]
    pub repeat: u32,
    pub training: TrainingSpec,
    #[serde(default)]
    pub injection: InjectionDefaults,
    #[serde(default)]
    pub probing: ProbingSpec,
    #[serde(default)]
    pub saving: SavingSpec,
    #[serde(default)]
    pub resources: ResourcesSpec,
    /// Scenarios of the user's own.
    #[serde(default)]
    pub scenario: BTreeMap<String, Scenario>,
    /// The runs in which fields differ, or that are not the product of the four lists; empty where
    /// every run has the fields above.
    #[serde(skip)]
    variants: Vec<Variant>,
}

/// Runs whose fields are the same.
#[derive(Clone, Debug, PartialEq)]
struct Variant {
    /// What the labels of its runs end in.
    suffix: String,
    /// Everything but the checkpoints, which all runs choose from.
    spec: ExperimentSpec,
    /// Positions in the lists of checkpoints, scenarios, batch sizes and seeds.
    cells: Vec<[usize; 4]>,
}

fn default_seeds() -> Vec<u64> {
    vec![0]
}

/// What the runs train on and what they are asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSpec {
    pub facts: PathBuf,
    /// What the facts file must be; anything where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts_sha256: Option<String>,
    /// A `tokenizer.json`.
    pub tokenizer: PathBuf,
    /// What it must be; anything where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer_sha256: Option<String>,
    pub corpus: CorpusSpec,
    /// Tokens of one batch row.
    pub seq_len: u32,
    /// Text of the end-of-sequence token that closes every injected passage.
    #[serde(default = "default_eos")]
    pub eos: String,
    /// Whether attention stops at end-of-sequence tokens, so that no document sees the one before.
    #[serde(default)]
    pub document_mask: bool,
}

fn default_eos() -> String {
    "<|endoftext|>".to_owned()
}

/// Where JSONL and Parquet corpora have a document's text by custom.
const DEFAULT_TEXT_FIELD: &str = "text";

/// The pretraining corpus.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CorpusSpec {
    pub files: Vec<PathBuf>,
    /// What the files must be, one hash each as in [`CorpusManifest`]; anything where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files_sha256: Option<Vec<String>>,
    pub format: CorpusFormat,
    /// The JSON key or Parquet column that holds a document's text: `text` where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_field: Option<String>,
    #[serde(default, deserialize_with = "order_or_its_kind")]
    pub order: CorpusOrder,
    /// What an order file must be; anything where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_sha256: Option<String>,
    /// How often the corpus may be passed over; a run that needs more is refused.
    #[serde(default = "one")]
    pub max_epochs: u32,
    /// The first instance (row) of the data order that the run trains on.
    #[serde(default)]
    pub start_instance: u64,
}

fn one() -> u32 {
    1
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CorpusFormat {
    /// Headerless little-endian 16-bit token ids.
    Uint16,
    /// Headerless little-endian 32-bit token ids.
    Uint32,
    /// Token ids under a NumPy header that says their type.
    Npy,
    /// UTF-8 text, one document a line; `.gz` and `.zst` too.
    Text,
    /// A JSON object a line, one of whose values is a document; `.gz` and `.zst` too.
    Jsonl,
    /// Apache Parquet, one of whose columns holds documents.
    Parquet,
}

impl CorpusFormat {
    /// Whether the files hold text, which is tokenised before it is trained on.
    pub fn is_text(self) -> bool {
        matches!(self, Self::Text | Self::Jsonl | Self::Parquet)
    }

    /// Whether a document's text is one of several named fields.
    pub fn has_fields(self) -> bool {
        matches!(self, Self::Jsonl | Self::Parquet)
    }
}

/// The order in which the rows of a corpus are trained on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum CorpusOrder {
    /// A shuffle that follows from the run's seed and the epoch.
    #[default]
    Shuffled,
    /// As the instances lie in the files.
    Sequential,
    /// The shuffle that OLMo trains on.
    Pcg64(Pcg64Order),
    /// As a file says: unsigned 32-bit indices of instances, with or without a NumPy header.
    File { path: PathBuf },
}

/// NumPy's `Generator(PCG64(seed + epoch)).shuffle` of all instances, cut to a multiple of
/// `world_size`; every further epoch adds one to `epoch`.
///
/// # Source
/// OLMo's `IterableDataset` with `drop_last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pcg64Order {
    pub seed: u64,
    /// The epoch that position 0 of the order begins.
    #[serde(default)]
    pub epoch: u32,
    /// Data-parallel ranks of the run whose order this is.
    #[serde(default = "one")]
    pub world_size: u32,
    /// The instances that the corpus must have, for one more or less changes the whole order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_instances: Option<u64>,
}

/// `"shuffled"` stands for `{ kind = "shuffled" }`.
fn order_or_its_kind<'de, D: Deserializer<'de>>(deserializer: D) -> Result<CorpusOrder, D::Error> {
    struct OrderOrKind;

    impl<'de> Visitor<'de> for OrderOrKind {
        type Value = CorpusOrder;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(
                "`\"shuffled\"`, `\"sequential\"`, `{ kind = \"pcg64\", seed = … }` or \
                 `{ kind = \"file\", path = … }`",
            )
        }

        fn visit_str<E: de::Error>(self, kind: &str) -> Result<CorpusOrder, E> {
            match kind {
                "shuffled" => Ok(CorpusOrder::Shuffled),
                "sequential" => Ok(CorpusOrder::Sequential),
                _ => Err(E::invalid_value(de::Unexpected::Str(kind), &self)),
            }
        }

        fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<CorpusOrder, A::Error> {
            CorpusOrder::deserialize(MapAccessDeserializer::new(table))
        }
    }

    deserializer.deserialize_any(OrderOrKind)
}

/// One value of the checkpoint axis: exactly one of `path`, `run` with `step`, and `init`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointSpec {
    pub name: String,
    /// A Hugging Face directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// What the directory must be, as in [`CheckpointIdentity`]; anything where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The same of its trainer state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trainer_state_sha256: Option<String>,
    /// The label of another run (`experiment/checkpoint-scenario-b32-s0`) or its hash, submitted
    /// before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// The parent run's step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<u32>,
    /// A model made from scratch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<ModelSpec>,
    /// Updates the checkpoint has seen, for the learning-rate schedule; with `path` only, and where
    /// absent what the directory's own trainer state says, else 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub global_step: Option<u64>,
    /// Tokens the checkpoint has seen, for a schedule with `max_tokens`; where absent what the
    /// directory's own trainer state says, or the parent run knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_seen: Option<u64>,
    /// `load` or `reset` the optimizer's moments; where absent, `load` if the checkpoint has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optimizer: Option<OptimizerStart>,
}

/// When the built-in scenarios inject.
///
/// # Source
/// arXiv 2406.11813 §3.2: ten injections, 100 steps apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InjectionDefaults {
    pub start: u32,
    pub every: u32,
    pub count: u32,
    pub stagger: Stagger,
}

impl Default for InjectionDefaults {
    fn default() -> Self {
        Self {
            start: 0,
            every: 100,
            count: 10,
            stagger: Stagger::default(),
        }
    }
}

/// What is read at which steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProbingSpec {
    /// Also read every injected fact's targets after another fact's subject.
    pub swap: bool,
    pub reading_steps: ReadingSteps,
}

/// When the state of a run is saved; not part of its identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SavingSpec {
    /// Save every so many steps, to resume from.
    pub every: u32,
    /// Save also where so many minutes have passed since the last save: what a lost attempt takes
    /// with it at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every_minutes: Option<NonZeroU32>,
    /// How many of those stay, the newest.
    pub keep_last: u32,
    /// Steps whose state is kept for good, for other runs to start from; ascending.
    ///
    /// In a file, a list, or a table of `steps`, `powers_of_two_up_to` and `log_spaced`.
    #[serde(deserialize_with = "kept_steps")]
    pub keep: Vec<u32>,
}

impl Default for SavingSpec {
    fn default() -> Self {
        Self {
            every: 100,
            every_minutes: None,
            keep_last: 2,
            keep: Vec::new(),
        }
    }
}

/// Steps in few words: all that any of the keys names.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct KeptSteps {
    steps: Vec<u32>,
    /// 1, 2, 4, … up to this step.
    powers_of_two_up_to: u32,
    log_spaced: Option<LogSpacing>,
}

/// Steps at equal ratios, rounded: `per_decade` of them from each power of ten to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct LogSpacing {
    per_decade: u32,
    up_to: u32,
}

impl KeptSteps {
    /// The steps, ascending.
    fn expand(&self) -> Vec<u32> {
        let powers = (0..u32::BITS).map(|exponent| 1 << exponent);
        let powers = powers.take_while(|&step| step <= self.powers_of_two_up_to);
        let log_spaced = self.log_spaced.into_iter().flat_map(|spacing| {
            (0..)
                .map(move |i| {
                    10_f64
                        .powf(f64::from(i) / f64::from(spacing.per_decade))
                        .round()
                })
                .take_while(move |&step| step <= f64::from(spacing.up_to))
                .map(|step| step as u32)
        });
        let all: BTreeSet<u32> = (self.steps.iter().copied())
            .chain(powers)
            .chain(log_spaced)
            .collect();
        all.into_iter().collect()
    }
}

fn kept_steps<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<u32>, D::Error> {
    #[derive(Deserialize)]
    #[serde(
        untagged,
        expecting = "expected a list of steps, or a table of `steps`, `powers_of_two_up_to` and \
                     `log_spaced = { per_decade = …, up_to = … }`"
    )]
    enum Form {
        List(Vec<u32>),
        Table(KeptSteps),
    }
    let kept = match Form::deserialize(from)? {
        Form::List(steps) => KeptSteps {
            steps,
            ..KeptSteps::default()
        },
        Form::Table(table) => table,
    };
    match kept.log_spaced {
        Some(LogSpacing { per_decade: 0, .. }) => Err(serde::de::Error::custom(
            "`log_spaced.per_decade` must be 1 at least",
        )),
        _ => Ok(kept.expand()),
    }
}

/// What one trainer may use; not part of a run's identity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ResourcesSpec {
    /// Where the site executes the run; where it does by default where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub executor: Option<String>,
    /// `cpu` or `cuda:N`.
    pub device: String,
    /// Threads of a CPU trainer.
    pub threads: u32,
    /// Memory of the device that the run may fill when it chooses its micro-batch, GiB; half of
    /// what the machine has left, on a CPU, where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_gib: Option<f64>,
    /// Compute the inside of decoder layers again on the way back rather than keep it: less memory,
    /// more time, the same numbers.
    pub recompute_layers: bool,
}

impl Default for ResourcesSpec {
    fn default() -> Self {
        Self {
            executor: None,
            device: "cpu".to_owned(),
            threads: 1,
            memory_gib: None,
            recompute_layers: false,
        }
    }
}

/// One cell of the matrix: checkpoint × scenario × batch size × seed × further fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatrixCell {
    /// Index into [`ExperimentSpec::checkpoint`].
    pub checkpoint: usize,
    pub scenario: String,
    pub batch_size: u32,
    pub seed: u64,
    /// `experiment/checkpoint-scenario-bBATCH-sSEED`, and what further fields add to it.
    pub label: String,
    /// Index into the variants, where there are any.
    variant: usize,
}

/// What reading the experiment's files has told: everything that expansion needs and the file lacks.
#[derive(Clone, Debug)]
pub struct ResolvedInputs {
    pub facts: Vec<Fact>,
    pub facts_sha256: String,
    pub tokenizer_sha256: String,
    pub tokenizer_vocab_size: u32,
    /// One a corpus file.
    pub corpus_sha256: Vec<String>,
    /// Of the file that gives the data order, where there is one.
    pub order_sha256: Option<String>,
    /// One a checkpoint, in the order of the file.
    pub checkpoints: Vec<(CheckpointIdentity, CheckpointSource)>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path}: {message}")]
    Syntax { path: PathBuf, message: String },
    #[error("{path}: `{field}`: {problem}")]
    Field {
        path: PathBuf,
        field: String,
        problem: String,
    },
    #[error(
        "`{field}`: {path} has the SHA-256 {found}, and this experiment wants {wanted}: it is \
         another file, or it has changed"
    )]
    Content {
        field: String,
        path: PathBuf,
        found: String,
        wanted: String,
    },
    #[error("scenario `{scenario}`: {source}")]
    Scenario {
        scenario: String,
        source: ScenarioError,
    },
}

impl ExperimentSpec {
    /// Reads an experiment file's text; relative paths are taken from the directory `base`.
    ///
    /// # Errors
    /// With line and column where the text is not the TOML it should be (unknown keys are errors),
    /// and with the field where a value cannot be, such as a path below a root: only a site knows
    /// its roots.
    pub fn parse(text: &str, file: &Path, base: &Path) -> Result<Self, Error> {
        Self::parse_with(text, file, |path| match below_root(path) {
            None => Ok(base.join(path)),
            Some((root, _)) => Err(format!(
                "`{}` is below the root `{root}` of a site, and there is none here; a file whose \
                 name has a colon is written `./…`",
                path.display()
            )),
        })
    }

    /// Reads an experiment file's text; `place` says where the file of each path is.
    ///
    /// # Errors
    /// As [`Self::parse`]; also those of `place`, with the field.
    pub fn parse_with(
        text: &str,
        file: &Path,
        mut place: impl FnMut(&Path) -> Result<PathBuf, String>,
    ) -> Result<Self, Error> {
        let of_toml = |mut err: toml::de::Error, words: &str| {
            err.set_input(Some(text));
            let message = err.to_string();
            let message = message.trim_end();
            Error::Syntax {
                path: file.to_owned(),
                message: match words {
                    "" => message.to_owned(),
                    _ => format!("{message}\nin the runs with {words}"),
                },
            }
        };
        let of_field = |(field, problem): (String, String), words: &str| Error::Field {
            path: file.to_owned(),
            field,
            problem: match words {
                "" => problem,
                _ => format!("{problem} (in the runs with {words})"),
            },
        };
        let of_matrix = |Problem { key, problem, span }| {
            let line = 1 + text[..span.start].matches('\n').count();
            Error::Syntax {
                path: file.to_owned(),
                message: format!("line {line}: `{key}`: {problem}"),
            }
        };
        let mut places = BTreeMap::<PathBuf, PathBuf>::new();
        let mut read = |document: Spanned<DeValue>, words: &str| {
            let spec = Self::deserialize(ValueDeserializer::from(document));
            let mut spec = spec.map_err(|err| of_toml(err, words))?;
            spec.check().map_err(|problem| of_field(problem, words))?;
            for (field, path) in spec.paths_mut() {
                let placed = match places.get(path) {
                    Some(placed) => placed.clone(),
                    None => place(path).map_err(|problem| of_field((field, problem), words))?,
                };
                places.insert(std::mem::replace(path, placed.clone()), placed);
            }
            Ok(spec)
        };
        let document = DeTable::parse(text).map_err(|err| of_toml(err, ""))?;
        let span = document.span();
        let mut document = document.into_inner();
        let matrix = Matrix::take(&mut document).map_err(of_matrix)?;
        let document = Spanned::new(span, DeValue::Table(document));
        let spec = match matrix {
            None => {
                let spec = read(document, "")?;
                let lists = [
                    spec.checkpoint.len(),
                    spec.scenarios.len(),
                    spec.batch_sizes.len(),
                    spec.seeds.len(),
                ];
                matrix::check_size(lists.into_iter().try_fold(1, usize::checked_mul))
                    .map_err(|problem| of_field(("seeds".to_owned(), problem), ""))?;
                spec
            }
            Some(matrix) => {
                let mut variants = Vec::new();
                for variant in matrix.variants(&document) {
                    let variant = variant.map_err(of_matrix)?;
                    variants.push(Variant {
                        suffix: variant.suffix,
                        spec: read(variant.document, &variant.words)?,
                        cells: variant.cells,
                    });
                }
                Self::of_variants(variants).map_err(|problem| of_field(problem, ""))?
            }
        };
        spec.check_labels()
            .map_err(|problem| of_field(problem, ""))?;
        Ok(spec)
    }

    /// The experiment of these runs, its own fields those of the first.
    fn of_variants(variants: Vec<Variant>) -> Result<Self, (String, String)> {
        let Some(first) = variants.first() else {
            return Err(("matrix".to_owned(), "has no cell".to_owned()));
        };
        let order_file = |variant: &Variant| variant.spec.order_file().cloned();
        if variants.iter().any(|v| order_file(v) != order_file(first)) {
            let problem = "an order file is the same for all runs of an experiment; make another \
                           experiment file";
            return Err(("matrix: data.corpus.order".to_owned(), problem.to_owned()));
        }
        let first = first.spec.clone();
        Ok(Self { variants, ..first })
    }

    fn order_file(&self) -> Option<&PathBuf> {
        match &self.data.corpus.order {
            CorpusOrder::File { path } => Some(path),
            CorpusOrder::Shuffled | CorpusOrder::Sequential | CorpusOrder::Pcg64(_) => None,
        }
    }

    fn paths_mut(&mut self) -> impl Iterator<Item = (String, &mut PathBuf)> {
        let data = &mut self.data;
        let order = match &mut data.corpus.order {
            CorpusOrder::File { path } => Some(("data.corpus.order.path".to_owned(), path)),
            CorpusOrder::Shuffled | CorpusOrder::Sequential | CorpusOrder::Pcg64(_) => None,
        };
        let corpus = data.corpus.files.iter_mut();
        let checkpoints = self.checkpoint.iter_mut().filter_map(|c| {
            let field = format!("checkpoint.{}.path", c.name);
            c.path.as_mut().map(|path| (field, path))
        });
        [
            ("data.facts".to_owned(), &mut data.facts),
            ("data.tokenizer".to_owned(), &mut data.tokenizer),
        ]
        .into_iter()
        .chain(corpus.map(|path| ("data.corpus.files".to_owned(), path)))
        .chain(order)
        .chain(checkpoints)
    }

    fn check(&self) -> Result<(), (String, String)> {
        let fail = |field: &str, problem: &str| Err((field.to_owned(), problem.to_owned()));
        let is_name = |n: &str| {
            !n.is_empty()
                && n.chars()
                    .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        };
        if !is_name(&self.name) {
            return fail("name", "use letters, digits, `-`, `_` and `.` only");
        }
        for (field, empty) in [
            ("checkpoint", self.checkpoint.is_empty()),
            ("scenarios", self.scenarios.is_empty()),
            ("batch_sizes", self.batch_sizes.is_empty()),
            ("seeds", self.seeds.is_empty()),
            ("data.corpus.files", self.data.corpus.files.is_empty()),
        ] {
            if empty {
                return fail(field, "give at least one");
            }
        }
        for (field, repeated) in [
            ("scenarios", has_repeats(&self.scenarios)),
            ("batch_sizes", has_repeats(&self.batch_sizes)),
            ("seeds", has_repeats(&self.seeds)),
            (
                "checkpoint.name",
                has_repeats(&self.checkpoint.iter().map(|c| &c.name).collect::<Vec<_>>()),
            ),
        ] {
            if repeated {
                return fail(field, "the same value stands there twice");
            }
        }
        for (field, zero) in [
            ("batch_sizes", self.batch_sizes.contains(&0)),
            ("data.corpus.max_epochs", self.data.corpus.max_epochs == 0),
            (
                "data.corpus.order.world_size",
                matches!(&self.data.corpus.order, CorpusOrder::Pcg64(o) if o.world_size == 0),
            ),
            ("training.steps", self.training.steps == 0),
            (
                "training.micro_batch_rows",
                self.training.micro_batch_rows == Some(0),
            ),
            (
                "probing.reading_steps.then_every",
                self.probing.reading_steps.then_every == 0,
            ),
            ("saving.every", self.saving.every == 0),
            ("saving.keep_last", self.saving.keep_last == 0),
            ("resources.threads", self.resources.threads == 0),
        ] {
            if zero {
                return fail(field, "must be 1 at least");
            }
        }
        if let Err((key, problem)) = self.training.optimizer.check() {
            return fail(&format!("training.optimizer.{key}"), &problem);
        }
        if self
            .resources
            .executor
            .as_deref()
            .is_some_and(|e| !is_name(e))
        {
            return fail(
                "resources.executor",
                "use letters, digits, `-`, `_` and `.` only",
            );
        }
        let memory_gib = self.resources.memory_gib;
        if memory_gib.is_some_and(|gib| !(gib.is_finite() && gib > 0.0)) {
            return fail("resources.memory_gib", "must be greater than 0");
        }
        if self.resources.device != "cpu"
            && memory_gib.is_none()
            && self.training.micro_batch_rows.is_none()
        {
            return fail(
                "resources.memory_gib",
                "say how much of the GPU's memory the run may fill, or fix \
                 `training.micro_batch_rows`",
            );
        }
        if self.data.seq_len < 2 {
            return fail(
                "data.seq_len",
                "must be 2 at least: the first token is never predicted",
            );
        }
        let corpus = &self.data.corpus;
        if corpus.text_field.is_some() && !corpus.format.has_fields() {
            return fail(
                "data.corpus.text_field",
                "goes with the formats \"jsonl\" and \"parquet\"",
            );
        }
        if let Some(hashes) = &corpus.files_sha256
            && hashes.len() != corpus.files.len()
        {
            let (n, n_files) = (hashes.len(), corpus.files.len());
            let problem = format!("has {n} hashes for {n_files} files: give one each");
            return fail("data.corpus.files_sha256", &problem);
        }
        if corpus.order_sha256.is_some() && self.order_file().is_none() {
            return fail("data.corpus.order_sha256", "goes with an order file");
        }
        if matches!(corpus.order, CorpusOrder::File { .. }) && corpus.max_epochs > 1 {
            return fail(
                "data.corpus.max_epochs",
                "an order file holds one epoch; leave this out, or let the order be computed",
            );
        }
        if let Some(step) = self.saving.keep.iter().find(|&&s| s > self.training.steps) {
            let problem = format!("step {step} is after the last step {}", self.training.steps);
            return fail("saving.keep", &problem);
        }
        if self.saving.keep.contains(&0) {
            return fail(
                "saving.keep",
                "step 0 is the checkpoint itself: start from that",
            );
        }
        for c in &self.checkpoint {
            let field = format!("checkpoint.{}", c.name);
            if !is_name(&c.name) {
                return fail(
                    "checkpoint.name",
                    "use letters, digits, `-`, `_` and `.` only",
                );
            }
            let sources = [c.path.is_some(), c.run.is_some(), c.init.is_some()];
            if sources.iter().filter(|&&s| s).count() != 1 {
                return fail(
                    &field,
                    "give exactly one of `path`, `run` (with `step`) and `init`",
                );
            }
            if c.run.is_some() != c.step.is_some() {
                return fail(&field, "`run` and `step` go together");
            }
            if c.path.is_none() && (c.sha256.is_some() || c.trainer_state_sha256.is_some()) {
                return fail(
                    &field,
                    "`sha256` and `trainer_state_sha256` go with `path`; the hash of a `run` may \
                     stand in the place of its name",
                );
            }
            if c.global_step.is_some() && c.path.is_none() {
                return fail(
                    &field,
                    "`global_step` goes with `path`; other sources know theirs",
                );
            }
            if c.tokens_seen.is_some() && c.init.is_some() {
                return fail(
                    &field,
                    "`tokens_seen` goes with `path` and `run`; a model from `init` has seen none",
                );
            }
            if c.init.is_some() && c.optimizer.is_some() {
                return fail(
                    &field,
                    "a model from `init` has no optimizer moments to load or reset; the schedule's \
                     own `warmup_steps` are its warm-up",
                );
            }
            if let Some(OptimizerStart::Reset(rewarmup)) = c.optimizer
                && !(0.0..=1.0).contains(&rewarmup.from)
            {
                return fail(
                    &format!("{field}.optimizer.reset.from"),
                    "is a share of the schedule's rate, from 0 to 1",
                );
            }
            if let Some(m) = &c.init
                && !(m.rope_theta.is_finite() && m.rope_theta > 0.0)
            {
                return fail(
                    &format!("{field}.init.rope_theta"),
                    "must be greater than 0",
                );
            }
            if let Some(m) = &c.init
                && (m.num_attention_heads == 0
                    || !m.hidden_size.is_multiple_of(2 * m.num_attention_heads))
            {
                return fail(
                    &format!("{field}.init.hidden_size"),
                    "must be a multiple of twice `num_attention_heads` (rotary embeddings pair the \
                     dimensions of a head)",
                );
            }
        }
        if let Some(name) = self.scenario.keys().find(|n| !is_name(n)) {
            return fail(
                &format!("scenario.{name}"),
                "use letters, digits, `-`, `_` and `.` only",
            );
        }
        Ok(())
    }

    /// The cells of the matrix, in the order checkpoint, scenario, batch size, seed for each
    /// combination of further fields.
    pub fn matrix(&self) -> Vec<MatrixCell> {
        let whole = |spec: &Self| {
            let mut cells = Vec::new();
            for c in 0..spec.checkpoint.len() {
                for scenario in 0..spec.scenarios.len() {
                    for batch_size in 0..spec.batch_sizes.len() {
                        cells.extend((0..spec.seeds.len()).map(|s| [c, scenario, batch_size, s]));
                    }
                }
            }
            cells
        };
        let cell =
            |spec: &Self, variant, suffix: &str, [c, scenario, batch_size, seed]: [usize; 4]| {
                let scenario = spec.scenarios[scenario].clone();
                let (batch_size, seed) = (spec.batch_sizes[batch_size], spec.seeds[seed]);
                let (name, checkpoint) = (&self.name, &self.checkpoint[c].name);
                let mut label =
                    format!("{name}/{checkpoint}-{scenario}-b{batch_size}-s{seed}{suffix}");
                if spec.repeat > 0 {
                    label += &format!("-repeat{}", spec.repeat);
                }
                MatrixCell {
                    checkpoint: c,
                    label,
                    scenario,
                    batch_size,
                    seed,
                    variant,
                }
            };
        if self.variants.is_empty() {
            let cells = whole(self).into_iter();
            return cells.map(|at| cell(self, 0, "", at)).collect();
        }
        let variants = self.variants.iter().enumerate();
        variants
            .flat_map(|(i, variant)| {
                let cells = variant.cells.iter();
                cells.map(move |&at| cell(&variant.spec, i, &variant.suffix, at))
            })
            .collect()
    }

    /// What trainers may use, once for each combination of fields.
    pub fn resources(&self) -> Vec<&ResourcesSpec> {
        match self.variants.as_slice() {
            [] => vec![&self.resources],
            variants => variants.iter().map(|v| &v.spec.resources).collect(),
        }
    }

    fn check_labels(&self) -> Result<(), (String, String)> {
        let mut labels = BTreeSet::new();
        for cell in self.matrix() {
            if let Some(label) = labels.replace(cell.label.clone()) {
                let problem = format!(
                    "two runs would have the label `{label}`; give a checkpoint or a scenario of \
                     theirs another name"
                );
                return Err(("matrix".to_owned(), problem));
            }
        }
        Ok(())
    }

    /// The scenario of a name: one of the file's own, or a built-in one.
    ///
    /// # Errors
    /// When there is none of that name, or the facts do not allow it.
    pub fn scenario(&self, name: &str, facts: &[Fact]) -> Result<Scenario, Error> {
        let found = match self.scenario.get(name) {
            Some(own) => Ok(own.clone()),
            None => Scenario::built_in(name, facts, &self.injection)
                .unwrap_or_else(|| Err(ScenarioError::Unknown(name.to_owned()))),
        };
        let checked = found.and_then(|s| s.schedule(facts).map(|_| s));
        checked.map_err(|source| Error::Scenario {
            scenario: name.to_owned(),
            source,
        })
    }

    fn corpus_manifest(&self, inputs: &ResolvedInputs) -> CorpusManifest {
        let corpus = &self.data.corpus;
        CorpusManifest {
            format: corpus.format,
            text_field: corpus.format.has_fields().then(|| {
                let given = corpus.text_field.as_deref();
                given.unwrap_or(DEFAULT_TEXT_FIELD).to_owned()
            }),
            order: match &corpus.order {
                CorpusOrder::Shuffled => OrderIdentity::Shuffled,
                CorpusOrder::Sequential => OrderIdentity::Sequential,
                CorpusOrder::Pcg64(order) => OrderIdentity::Pcg64(*order),
                CorpusOrder::File { .. } => OrderIdentity::File {
                    sha256: inputs.order_sha256.clone().unwrap_or_default(),
                },
            },
            max_epochs: corpus.max_epochs,
            start_instance: corpus.start_instance,
            files_sha256: inputs.corpus_sha256.clone(),
        }
    }

    /// One complete configuration for every cell of the matrix.
    ///
    /// # Errors
    /// When a scenario does not fit the facts, or a file is another than the experiment wants.
    pub fn expand(&self, inputs: &ResolvedInputs) -> Result<Vec<RunSpec>, Error> {
        self.check_contents(inputs)?;
        self.matrix()
            .into_iter()
            .map(|cell| {
                let spec = match self.variants.get(cell.variant) {
                    Some(variant) => &variant.spec,
                    None => self,
                };
                spec.run(cell, inputs)
            })
            .collect()
    }

    /// Holds every file to the hash that the experiment gives of it.
    fn check_contents(&self, inputs: &ResolvedInputs) -> Result<(), Error> {
        let (data, corpus) = (&self.data, &self.data.corpus);
        check_content(
            "data.facts",
            &data.facts,
            &inputs.facts_sha256,
            data.facts_sha256.as_deref(),
        )?;
        check_content(
            "data.tokenizer",
            &data.tokenizer,
            &inputs.tokenizer_sha256,
            data.tokenizer_sha256.as_deref(),
        )?;
        let files = corpus.files.iter().zip(&inputs.corpus_sha256);
        for ((path, found), wanted) in files.zip(corpus.files_sha256.iter().flatten()) {
            check_content("data.corpus.files", path, found, Some(wanted))?;
        }
        if let Some((path, found)) = self.order_file().zip(inputs.order_sha256.as_ref()) {
            let wanted = corpus.order_sha256.as_deref();
            check_content("data.corpus.order", path, found, wanted)?;
        }
        for (checkpoint, (identity, _)) in self.checkpoint.iter().zip(&inputs.checkpoints) {
            if let (
                Some(path),
                CheckpointIdentity::Directory {
                    sha256,
                    trainer_state_sha256,
                    ..
                },
            ) = (&checkpoint.path, identity)
            {
                let field = format!("checkpoint.{}", checkpoint.name);
                check_content(&field, path, sha256, checkpoint.sha256.as_deref())?;
                let found = trainer_state_sha256.as_deref().unwrap_or("none");
                let wanted = checkpoint.trainer_state_sha256.as_deref();
                check_content(&format!("{field}.trainer_state"), path, found, wanted)?;
            }
        }
        Ok(())
    }

    fn run(&self, cell: MatrixCell, inputs: &ResolvedInputs) -> Result<RunSpec, Error> {
        let (mut checkpoint, source) = inputs.checkpoints[cell.checkpoint].clone();
        if let CheckpointIdentity::Scratch { model } = &mut checkpoint {
            model.vocab_size.get_or_insert(inputs.tokenizer_vocab_size);
            model
                .max_position_embeddings
                .get_or_insert(self.data.seq_len);
        }
        Ok(RunSpec {
            label: cell.label,
            identity: RunIdentity {
                facts_sha256: inputs.facts_sha256.clone(),
                tokenizer_sha256: inputs.tokenizer_sha256.clone(),
                corpus: self.corpus_manifest(inputs),
                checkpoint,
                scenario: self.scenario(&cell.scenario, &inputs.facts)?,
                scenario_name: cell.scenario,
                batch_size: cell.batch_size,
                seq_len: self.data.seq_len,
                seed: cell.seed,
                eos: self.data.eos.clone(),
                document_mask: self.data.document_mask,
                training: self.training.clone(),
                probing: self.probing,
                repeat: self.repeat,
            },
            files: RunFiles {
                facts: self.data.facts.clone(),
                tokenizer: self.data.tokenizer.clone(),
                corpus: self.data.corpus.files.clone(),
                order: self.order_file().cloned(),
                checkpoint: source,
            },
            saving: self.saving.clone(),
            resources: self.resources.clone(),
        })
    }
}

fn check_content(field: &str, path: &Path, found: &str, wanted: Option<&str>) -> Result<(), Error> {
    match wanted {
        Some(wanted) if wanted != found => Err(Error::Content {
            field: field.to_owned(),
            path: path.to_owned(),
            found: found.to_owned(),
            wanted: wanted.to_owned(),
        }),
        _ => Ok(()),
    }
}

/// The root that a path names and the path below it: `data:part-0.npy` is `part-0.npy` below `data`.
///
/// What a root is, a site says. A file whose own name has a colon is written `./a:b`.
pub fn below_root(path: &Path) -> Option<(&str, &Path)> {
    let (root, below) = path.to_str()?.split_once(':')?;
    let is_root = !root.is_empty()
        && root
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
    is_root.then_some((root, Path::new(below)))
}

fn has_repeats<T: Ord>(items: &[T]) -> bool {
    let mut seen = BTreeSet::new();
    !items.iter().all(|item| seen.insert(item))
}

#[cfg(test)]
mod tests;
