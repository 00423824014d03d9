//! Runs whose readings were measured elsewhere and imported.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::experiment::SavingSpec;
use crate::run::{SpecHash, canonical_hash};
use crate::scenario::Scenario;

/// The configuration of an imported run.
///
/// Where it knows what a trained run's configuration says, it says so under the same names, so that
/// one query answers for both; the key `imported` tells them apart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportedSpec {
    /// `experiment/log-scenario-bBATCH-sSEED`.
    pub label: String,
    pub identity: ImportedIdentity,
    pub imported: ImportSource,
    /// An imported run has no states: nothing can start from it.
    pub saving: SavingSpec,
}

/// Everything that changes a number of an imported run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportedIdentity {
    pub format: ImportFormat,
    pub log_sha256: String,
    /// The log's first step: where the checkpoint stood.
    pub first_global_step: u64,
    /// The files that gave texts and token counts, where they were given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts_sha256: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer_sha256: Option<String>,
    /// As the user says: a log does not tell how facts were shown.
    pub scenario_name: String,
    pub scenario: Scenario,
    pub batch_size: u32,
    pub seq_len: u32,
    pub seed: u64,
}

impl ImportedIdentity {
    /// The hash that identifies the run: over its JSON with object keys in order.
    pub fn hash(&self) -> SpecHash {
        canonical_hash(self)
    }
}

/// A format from which readings can be imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImportFormat {
    /// The JSON log of the reference study's released code.
    Reference,
}

/// Where a run was imported from; not part of its identity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportSource {
    pub log: PathBuf,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<PathBuf>,
}
