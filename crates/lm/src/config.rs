//! The shape of a model, from a Hugging Face `config.json`, and back into one.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use imprint_core::ModelSpec;
use serde_json::{Map, Value, json};

use crate::error::{Error, io_error};
use crate::family::Family;
use crate::host::{Activation, NormKind};

/// The shape of a decoder: its sizes, and which parts it is built from.
///
/// What a family of models calls them, and which it has, is in [`crate::family`].
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    /// Heads of keys and of values; each serves as many heads of queries.
    pub num_key_value_heads: usize,
    /// Features of one attention head.
    pub head_dim: usize,
    pub max_position_embeddings: usize,
    /// Whether the output matrix is the embedding.
    pub tie_word_embeddings: bool,
    pub(crate) family: Family,
    pub(crate) norm: NormConfig,
    /// Whether queries and keys go through RMSNorms of their own, each over all its heads.
    pub(crate) has_qk_norm: bool,
    /// Whether scores are also divided by the layer's number, from 1.
    pub(crate) scales_scores_by_layer: bool,
    /// Queries, keys and values are limited to ± this.
    pub(crate) clip_qkv: Option<f32>,
    pub(crate) positions: Positions,
    pub(crate) mlp: Mlp,
    pub(crate) biases: Biases,
    /// Whether attention and feed-forward layer read the same input and are added together.
    pub(crate) is_parallel: bool,
    /// As it was read, so that what nothing here depends on is written back too.
    json: Map<String, Value>,
}

/// The norms of the residual stream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct NormConfig {
    pub(crate) kind: NormKind,
    pub(crate) eps: f32,
    pub(crate) has_weight: bool,
    pub(crate) has_bias: bool,
    pub(crate) place: NormPlace,
}

/// Where the norms of a layer stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NormPlace {
    /// On the way into attention and feed-forward layer.
    Before,
    /// On their outputs, before these join the residual stream.
    After,
}

/// How a token knows its position.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Positions {
    /// By a row of a table that is added to its embedding.
    Learned,
    Rotary(RotaryConfig),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct RotaryConfig {
    /// Features of a head that are rotated: the first ones.
    pub(crate) n_rotated: usize,
    pub(crate) theta: f64,
    pub(crate) scaling: Option<RotaryScaling>,
}

/// Slower rotation, for a longer context.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum RotaryScaling {
    /// Every pair is slowed by `factor`.
    Linear { factor: f64 },
    /// Pairs that turn less than `low_freq_factor` times in the original context are slowed by
    /// `factor`, those that turn more than `high_freq_factor` times are left; between them it is
    /// interpolated.
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_context: f64,
    },
}

impl RotaryConfig {
    /// Radians a position of every pair of features.
    ///
    /// # Source
    /// RoPE (arXiv 2104.09864): θ^(−2i/R); in float32, as `transformers` computes it.
    pub(crate) fn frequencies(&self) -> Vec<f32> {
        let r = self.n_rotated;
        let unscaled = |i| 1.0 / self.theta.powf((2 * i) as f64 / r as f64) as f32;
        (0..r / 2)
            .map(unscaled)
            .map(|frequency| match self.scaling {
                None => frequency,
                Some(scaling) => scaling.of(frequency),
            })
            .collect()
    }
}

impl RotaryScaling {
    fn of(self, frequency: f32) -> f32 {
        let (factor, low, high, context) = match self {
            Self::Linear { factor } => return frequency / factor as f32,
            Self::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_context,
            } => (
                factor as f32,
                low_freq_factor as f32,
                high_freq_factor as f32,
                original_context as f32,
            ),
        };
        let wavelength = 2.0 * std::f32::consts::PI / frequency;
        if wavelength < context / high {
            frequency
        } else if wavelength > context / low {
            frequency / factor
        } else {
            let smooth = (context / wavelength - low) / (high - low);
            (1.0 - smooth) * frequency / factor + smooth * frequency
        }
    }
}

/// Under which names a family's configuration speaks of rotary positions.
#[derive(Clone, Copy)]
pub(crate) struct RotaryKeys {
    pub(crate) theta: &'static str,
    /// The share of a head that is rotated and its default, where it may be a part.
    pub(crate) share: Option<(&'static str, f64)>,
}

/// The names that most families have.
pub(crate) const WHOLE_HEADS: RotaryKeys = RotaryKeys {
    theta: "rope_theta",
    share: None,
};

/// The feed-forward layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mlp {
    /// down · (silu(gate · x) · (up · x))
    Gated,
    /// down · activation(up · x)
    Plain(Activation),
}

/// Which linear layers have a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Biases {
    pub(crate) qkv: bool,
    pub(crate) attention_out: bool,
    pub(crate) mlp: bool,
}

impl Biases {
    pub(crate) fn all(has_bias: bool) -> Self {
        Self {
            qkv: has_bias,
            attention_out: has_bias,
            mlp: has_bias,
        }
    }
}

pub(crate) fn refuse<T>(key: impl Into<String>, reason: impl Into<String>) -> Result<T, Error> {
    Err(Error::Config {
        key: key.into(),
        reason: reason.into(),
    })
}

impl ModelConfig {
    /// The shape that a `config.json` describes.
    ///
    /// # Errors
    /// When the file cannot be read, lacks a key, or asks for mathematics that is not done here.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = fs::read_to_string(path).map_err(io_error("read", path))?;
        let json: Map<String, Value> =
            serde_json::from_str(&text).map_err(|err| Error::ConfigJson {
                path: path.to_owned(),
                err,
            })?;
        Self::from_json(&json)
    }

    /// The shape that the keys of a `config.json` describe.
    ///
    /// # Errors
    /// When a key is missing, or asks for mathematics that is not done here, or is not known: what
    /// it means cannot be guessed.
    pub fn from_json(json: &Map<String, Value>) -> Result<Self, Error> {
        let keys = Keys::new(json);
        let model_type = keys.text("model_type")?.unwrap_or_default();
        let Some(family) = Family::of_model_type(model_type) else {
            return match model_type {
                "" => refuse("model_type", "is missing"),
                other => refuse(
                    "model_type",
                    format!("`{other}` is not supported; {} are", Family::model_types()),
                ),
            };
        };
        let mut config = family.read(&keys)?;
        keys.must_be(
            "is_encoder_decoder",
            &[json!(false)],
            "only decoders are done",
        )?;
        keys.must_be("pruned_heads", &[json!({})], "pruned heads are not done")?;
        keys.refuse_unknown(family)?;
        let [pad, eos] = ["pad_token_id", "eos_token_id"].map(|key| json.get(key));
        if pad.is_some_and(|pad| !pad.is_null()) && pad == eos {
            tracing::warn!(
                "model configuration, `pad_token_id`: is the end-of-sequence token, whose embedding \
                 `transformers` would not train; here it is trained"
            );
        }
        config.json = json.clone();
        config.check()?;
        Ok(config)
    }

    /// The shape of the model in a checkpoint directory of any format; weights are not looked for.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn of_checkpoint(dir: &Path) -> Result<Self, Error> {
        crate::checkpoint::config(dir)
    }

    /// The shape of a model made from scratch.
    ///
    /// # Errors
    /// When the sizes do not fit each other, or vocabulary or context length are still open.
    pub fn from_spec(spec: &ModelSpec) -> Result<Self, Error> {
        let json = json!({
            "architectures": [Family::Olmo.architecture()],
            "attention_bias": false,
            "attention_dropout": 0.0,
            "bos_token_id": null,
            "clip_qkv": null,
            "dtype": "float32",
            "eos_token_id": null,
            "hidden_act": "silu",
            "hidden_size": spec.hidden_size,
            "initializer_range": 0.02,
            "intermediate_size": spec.intermediate_size,
            "max_position_embeddings": spec.max_position_embeddings,
            "model_type": "olmo",
            "num_attention_heads": spec.num_attention_heads,
            "num_hidden_layers": spec.num_hidden_layers,
            "num_key_value_heads": spec.num_attention_heads,
            "pad_token_id": null,
            "rope_theta": spec.rope_theta,
            "tie_word_embeddings": spec.tie_word_embeddings,
            "torch_dtype": "float32",
            "use_cache": true,
            "vocab_size": spec.vocab_size,
        });
        Self::from_json(json.as_object().expect("written as an object"))
    }

    /// A `config.json` that `transformers` loads beside weights in float32.
    pub fn to_json(&self) -> Value {
        let mut json = self.json.clone();
        json.entry("architectures")
            .or_insert_with(|| json!([self.family.architecture()]));
        // The newer and the older name of it.
        for key in ["dtype", "torch_dtype"] {
            json.insert(key.to_owned(), "float32".into());
        }
        Value::Object(json)
    }

    /// Columns of queries, and those of keys as of values.
    pub(crate) fn attention_widths(&self) -> [usize; 2] {
        [
            self.num_attention_heads * self.head_dim,
            self.num_key_value_heads * self.head_dim,
        ]
    }

    /// What a layer's scores are multiplied by before the softmax.
    pub(crate) fn score_scale(&self, layer: usize) -> f32 {
        let scale = 1.0 / (self.head_dim as f32).sqrt();
        match self.scales_scores_by_layer {
            true => scale / (layer + 1) as f32,
            false => scale,
        }
    }

    /// Holds the sizes to each other.
    fn check(&self) -> Result<(), Error> {
        for (key, value) in [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("head_dim", self.head_dim),
            ("max_position_embeddings", self.max_position_embeddings),
        ] {
            if value == 0 {
                return refuse(key, "must be at least 1");
            }
            // Products of a few of them must stay far below what an address holds.
            if value > 1 << 24 {
                return refuse(key, format!("is {value}, which no model has"));
            }
        }
        // Every position has a row of cos and sin.
        if self.max_position_embeddings > 1 << 20 {
            return refuse(
                "max_position_embeddings",
                format!("is {}; at most 2^20 are done", self.max_position_embeddings),
            );
        }
        if !(self.num_attention_heads).is_multiple_of(self.num_key_value_heads) {
            return refuse(
                "num_key_value_heads",
                format!(
                    "is {}; it must divide the {} heads of queries",
                    self.num_key_value_heads, self.num_attention_heads
                ),
            );
        }
        if let Positions::Rotary(rotary) = self.positions {
            if rotary.n_rotated == 0
                || !rotary.n_rotated.is_multiple_of(2)
                || rotary.n_rotated > self.head_dim
            {
                return refuse(
                    "num_attention_heads",
                    format!(
                        "gives heads of {} features of which {} are rotated; it must be an even \
                         number of them",
                        self.head_dim, rotary.n_rotated
                    ),
                );
            }
            if !(rotary.theta.is_finite() && rotary.theta > 0.0) {
                return refuse(
                    "rope_theta",
                    format!("is {}; it must be positive", rotary.theta),
                );
            }
        }
        if !(self.norm.eps.is_finite() && self.norm.eps >= 0.0) {
            return refuse("norm eps", format!("is {}", self.norm.eps));
        }
        Ok(())
    }
}

/// Keys that say nothing about the mathematics of the forward pass: names, generation, storage.
const HARMLESS: &[&str] = &[
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_commit_hash",
    "_name_or_path",
    "architectures",
    "attn_implementation",
    "auto_map",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "chunk_size_feed_forward",
    "cls_token_id",
    "cross_attention_hidden_size",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "eos_token_id",
    "epsilon_cutoff",
    "eta_cutoff",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "gradient_checkpointing",
    "id2label",
    "initializer_range",
    "is_decoder",
    "label2id",
    "length_penalty",
    "mask_token_id",
    "max_length",
    "min_length",
    "model_type",
    "name_or_path",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_labels",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "pad_token_id",
    "prefix",
    "problem_type",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "typical_p",
    "unk_token_id",
    "use_bfloat16",
    "use_cache",
];

/// The keys of a `config.json`, which remember which of them were asked for; a key that is `null`
/// counts as absent.
pub(crate) struct Keys<'a> {
    json: &'a Map<String, Value>,
    asked: RefCell<BTreeSet<&'static str>>,
}

impl<'a> Keys<'a> {
    fn new(json: &'a Map<String, Value>) -> Self {
        Self {
            json,
            asked: RefCell::default(),
        }
    }

    fn get(&self, key: &'static str) -> Option<&'a Value> {
        self.asked.borrow_mut().insert(key);
        self.json.get(key).filter(|value| !value.is_null())
    }

    /// Refuses a key that nobody asked for and that is not known to be harmless.
    fn refuse_unknown(&self, family: Family) -> Result<(), Error> {
        let asked = self.asked.borrow();
        for (key, value) in self.json {
            let known = asked.contains(key.as_str())
                || HARMLESS.contains(&key.as_str())
                || family.harmless_keys().contains(&key.as_str());
            if !known && !value.is_null() {
                return refuse(
                    key,
                    format!(
                        "is {value}, which is not known here and may change the mathematics; remove \
                         the key if it does not"
                    ),
                );
            }
        }
        Ok(())
    }

    /// Refuses a key whose value is neither absent nor one of `allowed`.
    pub(crate) fn must_be(
        &self,
        key: &'static str,
        allowed: &[Value],
        reason: &str,
    ) -> Result<(), Error> {
        match self.get(key) {
            Some(value) if !allowed.iter().any(|allowed| same(allowed, value)) => {
                refuse(key, format!("is {value}, and {reason}"))
            }
            _ => Ok(()),
        }
    }

    /// Rates of dropout, which training here never applies, as the reference study does not.
    pub(crate) fn no_dropout(&self, keys: &[&'static str]) {
        for key in keys {
            if let Some(rate) = self.get(key).and_then(Value::as_f64)
                && rate != 0.0
            {
                tracing::warn!(
                    "model configuration, `{key}`: is {rate}, but no dropout is applied"
                );
            }
        }
    }

    pub(crate) fn text(&self, key: &'static str) -> Result<Option<&'a str>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => refuse(key, format!("is {other}; it must be a text")),
        }
    }

    pub(crate) fn optional_count(&self, key: &'static str) -> Result<Option<usize>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
                Some(n) => Ok(Some(n)),
                None => refuse(key, format!("is {value}; it must be a whole number")),
            },
        }
    }

    pub(crate) fn count(&self, key: &'static str) -> Result<usize, Error> {
        match self.optional_count(key)? {
            Some(n) => Ok(n),
            None => refuse(key, "is missing"),
        }
    }

    pub(crate) fn number(&self, key: &'static str) -> Result<Option<f64>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => match value.as_f64() {
                Some(number) => Ok(Some(number)),
                None => refuse(key, format!("is {value}; it must be a number")),
            },
        }
    }

    pub(crate) fn flag(&self, key: &'static str, default: bool) -> Result<bool, Error> {
        match self.get(key) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => refuse(key, format!("is {other}; it must be true or false")),
        }
    }

    /// The bend of a feed-forward layer.
    pub(crate) fn activation(
        &self,
        key: &'static str,
        default: &'static str,
    ) -> Result<Activation, Error> {
        match self.text(key)?.unwrap_or(default) {
            "gelu" => Ok(Activation::Gelu),
            "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
            "relu" => Ok(Activation::Relu),
            other => refuse(
                key,
                format!("is `{other}`; `gelu`, `gelu_new` and its like, and `relu` are done"),
            ),
        }
    }

    /// A table's keys.
    fn table(&self, key: &'static str) -> Result<Option<Keys<'a>>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(table)) => Ok(Some(Keys::new(table))),
            Some(other) => refuse(key, format!("is {other}; it must be a table")),
        }
    }

    /// Features of a head; `hidden_size` / `num_attention_heads` where the key is absent.
    pub(crate) fn head_dim(&self, hidden_size: usize, n_heads: usize) -> Result<usize, Error> {
        match self.optional_count("head_dim")? {
            Some(dim) => Ok(dim),
            None if n_heads > 0 && hidden_size.is_multiple_of(n_heads) => Ok(hidden_size / n_heads),
            None => refuse(
                "num_attention_heads",
                format!("{n_heads} heads do not divide `hidden_size` {hidden_size}"),
            ),
        }
    }

    /// The rotary positions.
    ///
    /// Newer files have a table `rope_parameters`, older ones `rope_scaling`, which replaces it, and
    /// single keys, which a table's outweigh.
    ///
    /// # Source
    /// `transformers` 5, whose precedence this is.
    pub(crate) fn rotary(&self, head_dim: usize, of: RotaryKeys) -> Result<Positions, Error> {
        let mut theta = self.number(of.theta)?;
        let mut share = match of.share {
            Some((key, default)) => self.number(key)?.unwrap_or(default),
            None => 1.0,
        };
        let mut scaling = None;
        let parameters = self.table("rope_parameters")?;
        let table = match self.table("rope_scaling")? {
            Some(table) if !table.json.is_empty() => Some(("rope_scaling", table)),
            _ => parameters.map(|table| ("rope_parameters", table)),
        };
        if let Some((key, table)) = table {
            theta = table.number("rope_theta")?.or(theta);
            share = table.number("partial_rotary_factor")?.unwrap_or(share);
            scaling = table.rope_scaling()?;
            table.refuse_unknown_of(key)?;
        }
        if of.share.is_none() && share != 1.0 {
            return refuse(
                "partial_rotary_factor",
                format!("is {share}; the whole head is rotated in this family"),
            );
        }
        let theta = theta.unwrap_or(10_000.0);
        // Passed over by `transformers` where the family has other names: they must not mislead.
        for (key, value) in [("rope_theta", theta), ("partial_rotary_factor", share)] {
            self.must_be(key, &[json!(value)], "the model's own keys say otherwise")?;
        }
        Ok(Positions::Rotary(RotaryConfig {
            n_rotated: (head_dim as f64 * share) as usize,
            theta,
            scaling,
        }))
    }

    fn rope_scaling(&self) -> Result<Option<RotaryScaling>, Error> {
        let needed = |key| match self.number(key)? {
            Some(number) if number > 0.0 => Ok(number),
            Some(number) => refuse(key, format!("is {number}; it must be positive")),
            None => refuse(key, "is missing"),
        };
        match self.text("rope_type")?.or(self.text("type")?) {
            None | Some("default") => Ok(None),
            Some("linear") => Ok(Some(RotaryScaling::Linear {
                factor: needed("factor")?,
            })),
            Some("llama3") => Ok(Some(RotaryScaling::Llama3 {
                factor: needed("factor")?,
                low_freq_factor: needed("low_freq_factor")?,
                high_freq_factor: needed("high_freq_factor")?,
                original_context: needed("original_max_position_embeddings")?,
            })),
            Some(other) => refuse(
                "rope_type",
                format!("is `{other}`; `default`, `linear` and `llama3` are done"),
            ),
        }
    }

    fn refuse_unknown_of(&self, table: &str) -> Result<(), Error> {
        let asked = self.asked.borrow();
        match self
            .json
            .iter()
            .find(|(key, _)| !asked.contains(key.as_str()))
        {
            None => Ok(()),
            Some((key, value)) => refuse(
                format!("{table}.{key}"),
                format!("is {value}, which is not known here and may change the mathematics"),
            ),
        }
    }
}

/// Whether two values are the same, 0 and 0.0 included.
fn same(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

/// The sizes that every family has, under whatever names.
pub(crate) struct Sizes {
    pub(crate) hidden_size: usize,
    pub(crate) intermediate_size: usize,
    pub(crate) num_hidden_layers: usize,
    pub(crate) num_attention_heads: usize,
    pub(crate) max_position_embeddings: usize,
}

impl Sizes {
    /// Under the names that most families have.
    pub(crate) fn read(keys: &Keys<'_>) -> Result<Self, Error> {
        Ok(Self {
            hidden_size: keys.count("hidden_size")?,
            intermediate_size: keys.count("intermediate_size")?,
            num_hidden_layers: keys.count("num_hidden_layers")?,
            num_attention_heads: keys.count("num_attention_heads")?,
            max_position_embeddings: keys.count("max_position_embeddings")?,
        })
    }
}

impl ModelConfig {
    /// A decoder without any of the parts that only some families have, for a family to add them.
    pub(crate) fn plain(family: Family, sizes: &Sizes, keys: &Keys<'_>) -> Result<Self, Error> {
        let heads = sizes.num_attention_heads;
        Ok(Self {
            vocab_size: keys.count("vocab_size")?,
            hidden_size: sizes.hidden_size,
            intermediate_size: sizes.intermediate_size,
            num_hidden_layers: sizes.num_hidden_layers,
            num_attention_heads: heads,
            num_key_value_heads: heads,
            head_dim: keys.head_dim(sizes.hidden_size, heads)?,
            max_position_embeddings: sizes.max_position_embeddings,
            tie_word_embeddings: keys.flag("tie_word_embeddings", family.is_tied_by_default())?,
            family,
            norm: NormConfig {
                kind: NormKind::Layer,
                eps: 1e-5,
                has_weight: false,
                has_bias: false,
                place: NormPlace::Before,
            },
            has_qk_norm: false,
            scales_scores_by_layer: false,
            clip_qkv: None,
            positions: Positions::Learned,
            mlp: Mlp::Gated,
            biases: Biases::all(false),
            is_parallel: false,
            json: Map::new(),
        })
    }
}

#[cfg(test)]
mod tests;
