//! One run: everything that decides its numbers, its identity, and where its files are.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::experiment::{CorpusFormat, CorpusOrder, ProbingSpec, ResourcesSpec, SavingSpec};
use crate::learning_rate::LearningRate;
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
    pub training: TrainingSpec,
    pub probing: ProbingSpec,
}

/// What a corpus is, without reading all of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CorpusManifest {
    pub format: CorpusFormat,
    pub order: CorpusOrder,
    pub max_epochs: u32,
    pub start_instance: u64,
    /// One hash a file, over its length and its first and last mebibyte.
    pub files_sha256: Vec<String>,
}

/// Which weights a run starts from, by content.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum CheckpointIdentity {
    /// A Hugging Face directory; the hash covers its configuration and weights.
    Directory {
        sha256: String,
        global_step: u64,
        optimizer: OptimizerStart,
    },
    /// The state that another run has before its update `step`.
    Run {
        run: SpecHash,
        step: u32,
        optimizer: OptimizerStart,
    },
    /// From scratch, with the run's seed.
    Scratch { model: ModelSpec },
}

/// What happens to the optimizer's moments at the start of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OptimizerStart {
    /// Take them from the checkpoint.
    Load,
    /// Start at zero.
    Reset,
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
    /// Rows of one forward and backward pass; the whole batch where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_batch_rows: Option<u32>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    #[default]
    Float32,
}

/// AdamW with a global-norm clip.
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
    pub clip_norm: f64,
}

impl Default for OptimizerSpec {
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-5,
            weight_decay: 0.1,
            clip_norm: 1.0,
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
        let json = serde_json::to_value(self).expect("a run's identity is plain data");
        let mut canonical = String::new();
        write_canonical(&json, &mut canonical);
        SpecHash(format!("{:x}", Sha256::digest(canonical)))
    }
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
