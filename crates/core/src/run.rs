//! One run: everything that decides its numbers, its identity, and where its files are.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::experiment::{CorpusFormat, Pcg64Order, ProbingSpec, ResourcesSpec, SavingSpec};
use crate::learning_rate::{LearningRate, RateSchedule, SettleError};
use crate::scenario::Scenario;

/// A complete run configuration: what decides the numbers, and what does not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunSpec {
    /// `experiment/checkpoint-scenario-bBATCH-sSEED` of the experiment that asked for it first.
    pub label: String,
    pub identity: RunIdentity,
    pub files: RunFiles,
    pub saving: SavingSpec,
    pub resources: ResourcesSpec,
}

/// Everything that changes a number of the run; its canonical hash identifies the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunIdentity {
    pub facts_sha256: String,
    pub tokenizer_sha256: String,
    pub corpus: CorpusManifest,
    pub checkpoint: CheckpointIdentity,
    pub scenario_name: String,
    pub scenario: Scenario,
    pub batch_size: u32,
    pub seq_len: u32,
    pub seed: u64,
    /// The text of the end-of-sequence token appended to every injected passage.
    pub eos: String,
    /// Whether attention stops at that token.
    #[serde(default)]
    pub document_mask: bool,
    pub training: TrainingSpec,
    pub probing: ProbingSpec,
    /// Tells runs apart that do the same again; it changes no number.
    #[serde(default, skip_serializing_if = "is_first")]
    pub repeat: u32,
}

/// A run that repeats no other has the identity that it had before there were repeats.
pub(crate) fn is_first(repeat: &u32) -> bool {
    *repeat == 0
}

/// What a corpus is, without reading all of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CorpusManifest {
    pub format: CorpusFormat,
    /// The JSON key or Parquet column of a document's text, in the formats that have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_field: Option<String>,
    pub order: OrderIdentity,
    pub max_epochs: u32,
    pub start_instance: u64,
    /// One hash a file: of token files over the length and the first and last mebibyte, of text
    /// over everything.
    pub files_sha256: Vec<String>,
}

/// The order of a corpus' instances, by content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum OrderIdentity {
    Shuffled,
    Sequential,
    Pcg64(Pcg64Order),
    File { sha256: String },
}

/// Which weights a run starts from, by content.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum CheckpointIdentity {
    /// A directory; the hash covers its configuration and weights, and the optimizer's moments
    /// where they are loaded.
    Directory {
        sha256: String,
        /// Of the trainer state that is asked for what is not given here of steps and tokens;
        /// absent where both are, or where there is none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        trainer_state_sha256: Option<String>,
        /// Updates it has seen; what the trainer state says where absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        global_step: Option<u64>,
        /// Tokens it has seen; where absent what the trainer state says, and without one unknown.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tokens_seen: Option<u64>,
        optimizer: OptimizerStart,
    },
    /// The state that another run has before its update `step`.
    Run {
        run: SpecHash,
        step: u32,
        /// Tokens it has seen; where absent what the other run knows of them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tokens_seen: Option<u64>,
        optimizer: OptimizerStart,
    },
    /// From scratch, with the run's seed.
    Scratch { model: ModelSpec },
}

/// What happens to the optimizer's moments at the start of a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "OptimizerStartForm", into = "OptimizerStartForm")]
pub enum OptimizerStart {
    /// Take them, and the number of updates that they are the means of, from the checkpoint.
    Load,
    /// Start at zero.
    Reset(Rewarmup),
}

/// The learning rate of a run's first updates times a share that grows linearly to 1, so that
/// fresh moments see some gradients before they move the parameters far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rewarmup {
    /// Updates of the run with less than its schedule's rate; 0 for none.
    pub warmup_steps: u64,
    /// The share in update 0.
    #[serde(default)]
    pub from: f64,
}

impl OptimizerStart {
    /// Fresh moments under the schedule as it is.
    pub const RESET: Self = Self::Reset(Rewarmup {
        warmup_steps: 0,
        from: 0.0,
    });

    /// What an update's rate of the schedule is multiplied with.
    pub fn share_of_rate(&self, step: u64) -> f64 {
        match *self {
            Self::Reset(Rewarmup { warmup_steps, from }) if step < warmup_steps => {
                from + (1.0 - from) * step as f64 / warmup_steps as f64
            }
            Self::Load | Self::Reset(_) => 1.0,
        }
    }
}

/// `"load"`, `"reset"`, or `{ reset = { warmup_steps = 100 } }`.
#[derive(Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "expected \"load\", \"reset\" or { reset = { warmup_steps = N, from = SHARE } }"
)]
enum OptimizerStartForm {
    Name(OptimizerStartName),
    Rewarmed(Rewarmed),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OptimizerStartName {
    Load,
    Reset,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rewarmed {
    reset: Rewarmup,
}

impl From<OptimizerStartForm> for OptimizerStart {
    fn from(form: OptimizerStartForm) -> Self {
        match form {
            OptimizerStartForm::Name(OptimizerStartName::Load) => Self::Load,
            OptimizerStartForm::Name(OptimizerStartName::Reset) => Self::RESET,
            OptimizerStartForm::Rewarmed(Rewarmed { reset }) => match reset.warmup_steps {
                0 => Self::RESET,
                _ => Self::Reset(reset),
            },
        }
    }
}

impl From<OptimizerStart> for OptimizerStartForm {
    fn from(start: OptimizerStart) -> Self {
        match start {
            OptimizerStart::Load => Self::Name(OptimizerStartName::Load),
            OptimizerStart::Reset(Rewarmup {
                warmup_steps: 0, ..
            }) => Self::Name(OptimizerStartName::Reset),
            OptimizerStart::Reset(reset) => Self::Rewarmed(Rewarmed { reset }),
        }
    }
}

/// The shape of a model made from scratch (OLMo v1: non-parametric LayerNorm, RoPE, SwiGLU).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// The tokenizer's vocabulary where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vocab_size: Option<u32>,
    pub hidden_size: u32,
    pub intermediate_size: u32,
    pub num_hidden_layers: u32,
    pub num_attention_heads: u32,
    #[serde(default)]
    pub tie_word_embeddings: bool,
    /// The run's sequence length where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_position_embeddings: Option<u32>,
    #[serde(default = "rope_theta")]
    pub rope_theta: f64,
}

fn rope_theta() -> f64 {
    10_000.0
}

/// How updates are made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingSpec {
    /// Number of updates.
    pub steps: u32,
    pub learning_rate: LearningRate,
    #[serde(default)]
    pub optimizer: OptimizerSpec,
    #[serde(default)]
    pub precision: Precision,
    /// Rows of one forward and backward pass; where absent, as many as fit the memory of the
    /// machine that starts the run, which are then recorded in [`Settled`].
    /// The loss is the mean over the whole batch whatever they are; only last digits differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_batch_rows: Option<u32>,
}

/// What a run's configuration left open, as it was settled when the run was first begun.
///
/// It is the same for all attempts, wherever they run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settled {
    /// Updates that the checkpoint has seen: the global step of the run's reading 0.
    pub first_global_step: u64,
    /// Tokens that the checkpoint has seen, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_seen: Option<u64>,
    /// The schedule, its end in steps.
    pub learning_rate: RateSchedule,
    /// Rows of one forward and backward pass.
    pub micro_batch_rows: u32,
}

/// Where a model stands: what it has seen since it was initialised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Updates.
    pub global_step: u64,
    /// Where that is known.
    pub tokens_seen: Option<u64>,
}

impl Standing {
    /// Where the model stands after further updates.
    pub fn after(self, n_updates: u32, tokens_per_update: u64) -> Self {
        let n_updates = u64::from(n_updates);
        let n_tokens = n_updates.saturating_mul(tokens_per_update);
        Self {
            global_step: self.global_step.saturating_add(n_updates),
            tokens_seen: (self.tokens_seen).map(|before| before.saturating_add(n_tokens)),
        }
    }
}

impl Settled {
    /// Where the run's checkpoint stands.
    pub fn standing(&self) -> Standing {
        Standing {
            global_step: self.first_global_step,
            tokens_seen: self.tokens_seen,
        }
    }
}

impl RunIdentity {
    /// Tokens of one update.
    pub fn tokens_per_update(&self) -> u64 {
        u64::from(self.batch_size) * u64::from(self.seq_len)
    }

    /// Where the run's checkpoint stands, `parent` being where the state of another run stands that
    /// it starts from; `None` where only who reads the checkpoint can tell.
    pub fn standing(&self, parent: Option<Standing>) -> Option<Standing> {
        match &self.checkpoint {
            CheckpointIdentity::Directory {
                trainer_state_sha256: None,
                global_step,
                tokens_seen,
                ..
            } => Some(Standing {
                global_step: global_step.unwrap_or(0),
                tokens_seen: *tokens_seen,
            }),
            CheckpointIdentity::Directory { .. } => None,
            CheckpointIdentity::Run { tokens_seen, .. } => parent.map(|parent| Standing {
                tokens_seen: tokens_seen.or(parent.tokens_seen),
                ..parent
            }),
            CheckpointIdentity::Scratch { .. } => Some(Standing {
                global_step: 0,
                tokens_seen: Some(0),
            }),
        }
    }

    /// The schedule of a run whose checkpoint stands there, its end in steps.
    ///
    /// # Errors
    /// When the end cannot be told, or does not fit the rest of the schedule.
    pub fn schedule(&self, standing: Standing) -> Result<RateSchedule, SettleError> {
        self.training.learning_rate.settle(
            standing.global_step,
            standing.tokens_seen,
            self.tokens_per_update(),
        )
    }

    /// What happens to the optimizer's moments when the run starts.
    pub fn optimizer_start(&self) -> OptimizerStart {
        match &self.checkpoint {
            CheckpointIdentity::Directory { optimizer, .. }
            | CheckpointIdentity::Run { optimizer, .. } => *optimizer,
            CheckpointIdentity::Scratch { .. } => OptimizerStart::RESET,
        }
    }

    /// The learning rate of an update.
    pub fn learning_rate(&self, settled: &Settled, step: u32) -> f64 {
        let step = u64::from(step);
        let schedule = &settled.learning_rate;
        schedule.of_update(settled.first_global_step, step)
            * self.optimizer_start().share_of_rate(step)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    #[default]
    Float32,
    /// Matrix products whose factors and results are rounded to bfloat16; parameters, moments,
    /// norms, softmax, sums, and the logits of readings stay float32.
    Bfloat16,
}

/// AdamW with a global-norm clip.
///
/// Decayed are the weights of linear layers; embeddings (and so an output matrix tied to them),
/// norms and biases are not.
///
/// # Source
/// arXiv 2406.11813, appendix: β = (0.9, 0.95), ε = 1e-5, decay 0.1 on linear weights only, clip 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerSpec {
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub weight_decay: f64,
    /// Largest L2 norm of the gradient over all parameters; a longer one is scaled down to it.
    pub clip_norm: f64,
    /// A wider clip in a model's first updates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_warmup: Option<ClipWarmup>,
}

/// A clip that is `factor` times as wide in the first `steps` global steps.
///
/// # Source
/// arXiv 2406.11813, released 7B configuration: 10 times in the first 1,000.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClipWarmup {
    pub factor: f64,
    pub steps: u64,
}

impl OptimizerSpec {
    /// Holds the constants to their ranges.
    ///
    /// # Errors
    /// The first that is out of its range, by its key, and what is wrong with it.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let share = 0.0..1.0;
        let clip_factor = self.clip_warmup.map_or(1.0, |clip| clip.factor);
        for (key, value, fits, range) in [
            (
                "beta1",
                self.beta1,
                share.contains(&self.beta1),
                "from 0 up to 1",
            ),
            (
                "beta2",
                self.beta2,
                share.contains(&self.beta2),
                "from 0 up to 1",
            ),
            ("eps", self.eps, self.eps > 0.0, "greater than 0"),
            (
                "weight_decay",
                self.weight_decay,
                self.weight_decay >= 0.0,
                "0 at least",
            ),
            (
                "clip_norm",
                self.clip_norm,
                self.clip_norm > 0.0,
                "greater than 0",
            ),
            (
                "clip_warmup.factor",
                clip_factor,
                clip_factor > 0.0,
                "greater than 0",
            ),
        ] {
            if !(fits && value.is_finite()) {
                return Err((key, format!("is {value}; it must be {range}")));
            }
        }
        Ok(())
    }

    /// The clip of update `step` of a run whose checkpoint stands at `first_global_step`.
    ///
    /// As for the learning rate, update 0 of a new model is at global step 1.
    pub fn clip_of_update(&self, first_global_step: u64, step: u32) -> f64 {
        match self.clip_warmup {
            Some(ClipWarmup { factor, steps }) if first_global_step + u64::from(step) < steps => {
                self.clip_norm * factor
            }
            _ => self.clip_norm,
        }
    }
}

impl Default for OptimizerSpec {
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-5,
            weight_decay: 0.1,
            clip_norm: 1.0,
            clip_warmup: None,
        }
    }
}

/// Where a run's inputs are; not part of its identity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunFiles {
    pub facts: PathBuf,
    pub tokenizer: PathBuf,
    pub corpus: Vec<PathBuf>,
    /// The file that gives the data order, where one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<PathBuf>,
    pub checkpoint: CheckpointSource,
}

/// Where a run's first weights are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum CheckpointSource {
    Directory {
        path: PathBuf,
    },
    /// The orchestrator tells the trainer where the parent's state is.
    Run,
    Scratch,
}

/// SHA-256 of a run's canonical configuration, in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SpecHash(pub String);

impl fmt::Display for SpecHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl RunIdentity {
    /// The hash that identifies the run: over its JSON with object keys in order.
    pub fn hash(&self) -> SpecHash {
        canonical_hash(self)
    }
}

/// SHA-256 over the JSON of an identity with object keys in order.
pub(crate) fn canonical_hash(identity: &impl Serialize) -> SpecHash {
    let json = serde_json::to_value(identity).expect("a run's identity is plain data");
    let mut canonical = String::new();
    write_canonical(&json, &mut canonical);
    SpecHash(format!("{:x}", Sha256::digest(canonical)))
}

/// JSON without white space and with keys sorted, whatever order the map type keeps.
fn write_canonical(value: &serde_json::Value, out: &mut String) {
    match value {
        serde_json::Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            out.push('{');
            for (i, (key, value)) in entries.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                out.push_str(&serde_json::Value::from(key.as_str()).to_string());
                out.push(':');
                write_canonical(value, out);
            }
            out.push('}');
        }
        serde_json::Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_canonical(item, out);
            }
            out.push(']');
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}
