//! Families of models: what each calls its parts, and which it has.
//!
//! A family is a reading of its `config.json` into the parts of a [`ModelConfig`] and a table of
//! the names in its files; the mathematics is in [`crate::decoder`], once.

mod gpt2;
mod gpt_neox;
mod llama;
mod olmo;
mod olmo2;

use crate::config::{Keys, ModelConfig};
use crate::error::Error;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Olmo,
    Olmo2,
    Llama,
    GptNeox,
    Gpt2,
}

/// What a family's files call a decoder's matrices and vectors, without `.weight` and `.bias`.
///
/// `layer` comes before the names of a layer's own, with its number for `{}`.
#[derive(Debug)]
pub(crate) struct Names {
    pub(crate) embedding: &'static str,
    /// Of a table of positions, where there is one.
    pub(crate) positions: &'static str,
    pub(crate) layer: &'static str,
    pub(crate) qkv: QkvNames,
    pub(crate) q_norm: &'static str,
    pub(crate) k_norm: &'static str,
    pub(crate) attention_out: &'static str,
    pub(crate) attention_norm: &'static str,
    pub(crate) mlp_norm: &'static str,
    /// Of the gate, where the feed-forward layer has one.
    pub(crate) gate: &'static str,
    pub(crate) up: &'static str,
    pub(crate) down: &'static str,
    pub(crate) final_norm: &'static str,
    /// Of the output matrix, where it is not the embedding.
    pub(crate) head: &'static str,
    /// What some files call it, if not so.
    pub(crate) head_alias: &'static str,
    /// Whether linear weights lie as [in, out].
    pub(crate) is_transposed: bool,
    /// What some published files leave out in front of every name.
    pub(crate) optional_prefix: &'static str,
    /// Ends of the names of tensors that hold no parameters.
    pub(crate) buffers: &'static [&'static str],
}

/// How queries, keys and values lie in a file.
#[derive(Clone, Copy, Debug)]
pub(crate) enum QkvNames {
    Apart([&'static str; 3]),
    /// One matrix, `[q; k; v]`.
    Together(&'static str),
    /// One matrix, for each head `[q; k; v]`.
    ByHead(&'static str),
}

const FAMILIES: [(&str, Family); 5] = [
    ("olmo", Family::Olmo),
    ("olmo2", Family::Olmo2),
    ("llama", Family::Llama),
    ("gpt_neox", Family::GptNeox),
    ("gpt2", Family::Gpt2),
];

impl Family {
    pub(crate) fn of_model_type(model_type: &str) -> Option<Self> {
        let found = FAMILIES.iter().find(|(name, _)| *name == model_type);
        found.map(|&(_, family)| family)
    }

    /// The model types that are read, for a message.
    pub(crate) fn model_types() -> String {
        FAMILIES.map(|(name, _)| format!("`{name}`")).join(", ")
    }

    /// The parts that a `config.json` asks for.
    pub(crate) fn read(self, keys: &Keys<'_>) -> Result<ModelConfig, Error> {
        match self {
            Self::Olmo => olmo::read(keys),
            Self::Olmo2 => olmo2::read(keys),
            Self::Llama => llama::read(keys),
            Self::GptNeox => gpt_neox::read(keys),
            Self::Gpt2 => gpt2::read(keys),
        }
    }

    pub(crate) fn names(self) -> &'static Names {
        match self {
            Self::Olmo => &olmo::NAMES,
            Self::Olmo2 => &olmo2::NAMES,
            Self::Llama => &llama::NAMES,
            Self::GptNeox => &gpt_neox::NAMES,
            Self::Gpt2 => &gpt2::NAMES,
        }
    }

    /// Keys of the family's own that say nothing about the mathematics.
    pub(crate) fn harmless_keys(self) -> &'static [&'static str] {
        match self {
            Self::Olmo | Self::Olmo2 => &[],
            // Slices of the same products.
            Self::Llama => &["pretraining_tp"],
            Self::GptNeox => &["classifier_dropout"],
            Self::Gpt2 => &[
                "summary_activation",
                "summary_first_dropout",
                "summary_proj_to_labels",
                "summary_type",
                "summary_use_proj",
            ],
        }
    }

    /// The class of `transformers` that loads it.
    pub(crate) fn architecture(self) -> &'static str {
        match self {
            Self::Olmo => "OlmoForCausalLM",
            Self::Olmo2 => "Olmo2ForCausalLM",
            Self::Llama => "LlamaForCausalLM",
            Self::GptNeox => "GPTNeoXForCausalLM",
            Self::Gpt2 => "GPT2LMHeadModel",
        }
    }

    /// What `transformers` takes for granted where a file does not say it.
    pub(crate) fn is_tied_by_default(self) -> bool {
        self == Self::Gpt2
    }
}
