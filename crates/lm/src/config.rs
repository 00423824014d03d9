//! The shape of a model, from a Hugging Face `config.json`, and back into one.

use std::fs;
use std::path::Path;

use imprint_core::ModelSpec;
use serde_json::{Map, Value, json};

use crate::error::{Error, io_error};

/// ε of OLMo v1's LayerNorm, which its configuration does not carry.
///
/// # Source
/// `OlmoLayerNorm` of `transformers`, and OLMo v1's own `LayerNorm`.
const OLMO_LAYER_NORM_EPS: f32 = 1e-5;

/// The shape of a decoder: OLMo v1, that is pre-norm, LayerNorm without weight or bias, rotary
/// positions, no biases, SwiGLU.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub max_position_embeddings: usize,
    pub rope_theta: f64,
    /// Whether the output matrix is the embedding.
    pub tie_word_embeddings: bool,
    pub norm_eps: f32,
    /// Kept for those who load the model elsewhere; nothing here depends on them.
    pub eos_token_id: Option<u32>,
    pub pad_token_id: Option<u32>,
}

fn refuse<T>(key: &'static str, reason: impl Into<String>) -> Result<T, Error> {
    Err(Error::Config {
        key,
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
    /// When a key is missing or asks for mathematics that is not done here.
    pub fn from_json(json: &Map<String, Value>) -> Result<Self, Error> {
        let keys = Keys(json);
        match json.get("model_type").and_then(Value::as_str) {
            Some("olmo") => {}
            Some(other) => {
                return refuse(
                    "model_type",
                    format!("`{other}` is not supported; `olmo` is"),
                );
            }
            None => return refuse("model_type", "is missing"),
        }
        keys.must_be(
            "hidden_act",
            &[json!("silu"), json!("swish")],
            "only `silu` is done",
        )?;
        keys.must_be("attention_bias", &[json!(false)], "biases are not done")?;
        keys.must_be(
            "attention_dropout",
            &[json!(0.0), json!(0)],
            "dropout is not done",
        )?;
        keys.must_be(
            "clip_qkv",
            &[],
            "clipping of queries, keys and values is not done",
        )?;
        keys.must_be("rope_scaling", &[], "scaled rotary positions are not done")?;
        let config = Self {
            vocab_size: keys.count("vocab_size")?,
            hidden_size: keys.count("hidden_size")?,
            intermediate_size: keys.count("intermediate_size")?,
            num_hidden_layers: keys.count("num_hidden_layers")?,
            num_attention_heads: keys.count("num_attention_heads")?,
            max_position_embeddings: keys.count("max_position_embeddings")?,
            rope_theta: keys.rope_theta()?,
            tie_word_embeddings: keys.flag("tie_word_embeddings")?,
            norm_eps: OLMO_LAYER_NORM_EPS,
            eos_token_id: keys.token("eos_token_id")?,
            pad_token_id: keys.token("pad_token_id")?,
        };
        if let Some(groups) = keys.optional_count("num_key_value_heads")?
            && groups != config.num_attention_heads
        {
            return refuse(
                "num_key_value_heads",
                format!(
                    "is {groups}; it must equal `num_attention_heads` ({})",
                    config.num_attention_heads
                ),
            );
        }
        config.check()?;
        if let Some(dim) = keys.optional_count("head_dim")?
            && dim != config.head_dim()
        {
            return refuse(
                "head_dim",
                format!("is {dim}; it must be `hidden_size` / `num_attention_heads`"),
            );
        }
        Ok(config)
    }

    /// The shape of a model made from scratch.
    ///
    /// # Errors
    /// When the sizes do not fit each other, or vocabulary or context length are still open.
    pub fn from_spec(spec: &ModelSpec) -> Result<Self, Error> {
        let given = |key: &'static str, value: Option<u32>| match value {
            Some(value) => Ok(value as usize),
            None => refuse(key, "is missing"),
        };
        let config = Self {
            vocab_size: given("vocab_size", spec.vocab_size)?,
            hidden_size: spec.hidden_size as usize,
            intermediate_size: spec.intermediate_size as usize,
            num_hidden_layers: spec.num_hidden_layers as usize,
            num_attention_heads: spec.num_attention_heads as usize,
            max_position_embeddings: given(
                "max_position_embeddings",
                spec.max_position_embeddings,
            )?,
            rope_theta: spec.rope_theta,
            tie_word_embeddings: spec.tie_word_embeddings,
            norm_eps: OLMO_LAYER_NORM_EPS,
            eos_token_id: None,
            pad_token_id: None,
        };
        config.check()?;
        Ok(config)
    }

    /// A `config.json` that `transformers` loads.
    pub fn to_json(&self) -> Value {
        json!({
            "architectures": ["OlmoForCausalLM"],
            "attention_bias": false,
            "attention_dropout": 0.0,
            "bos_token_id": null,
            "clip_qkv": null,
            "eos_token_id": self.eos_token_id,
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "initializer_range": 0.02,
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": self.max_position_embeddings,
            "model_type": "olmo",
            "num_attention_heads": self.num_attention_heads,
            "num_hidden_layers": self.num_hidden_layers,
            "num_key_value_heads": self.num_attention_heads,
            "pad_token_id": self.pad_token_id,
            "rope_theta": self.rope_theta,
            "tie_word_embeddings": self.tie_word_embeddings,
            "torch_dtype": "float32",
            "use_cache": true,
            "vocab_size": self.vocab_size,
        })
    }

    /// Features of one attention head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    /// Holds the sizes to each other.
    fn check(&self) -> Result<(), Error> {
        for (key, value) in [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("max_position_embeddings", self.max_position_embeddings),
        ] {
            if value == 0 {
                return refuse(key, "must be at least 1");
            }
        }
        if !self
            .hidden_size
            .is_multiple_of(2 * self.num_attention_heads)
        {
            return refuse(
                "num_attention_heads",
                format!(
                    "{} heads do not divide `hidden_size` {} into heads of an even size",
                    self.num_attention_heads, self.hidden_size
                ),
            );
        }
        if !(self.rope_theta.is_finite() && self.rope_theta > 0.0) {
            return refuse(
                "rope_theta",
                format!("is {}; it must be positive", self.rope_theta),
            );
        }
        Ok(())
    }
}

/// The keys of a `config.json`; a key that is `null` counts as absent.
struct Keys<'a>(&'a Map<String, Value>);

impl Keys<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    /// Refuses a key whose value is neither absent nor one of `allowed`.
    fn must_be(&self, key: &'static str, allowed: &[Value], reason: &str) -> Result<(), Error> {
        match self.get(key) {
            Some(value) if !allowed.contains(value) => {
                refuse(key, format!("is {value}, and {reason}"))
            }
            _ => Ok(()),
        }
    }

    fn optional_count(&self, key: &'static str) -> Result<Option<usize>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
                Some(n) => Ok(Some(n)),
                None => refuse(key, format!("is {value}; it must be a whole number")),
            },
        }
    }

    fn count(&self, key: &'static str) -> Result<usize, Error> {
        match self.optional_count(key)? {
            Some(n) => Ok(n),
            None => refuse(key, "is missing"),
        }
    }

    fn flag(&self, key: &'static str) -> Result<bool, Error> {
        match self.get(key) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => refuse(key, format!("is {other}; it must be true or false")),
        }
    }

    /// One token id; the first where a list is given.
    fn token(&self, key: &'static str) -> Result<Option<u32>, Error> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let one = match value {
            Value::Array(several) => several.first().unwrap_or(value),
            _ => value,
        };
        match one.as_i64() {
            // Some published configurations say "none" with -1.
            Some(id) => Ok(u32::try_from(id).ok()),
            None => refuse(key, format!("is {value}; it must be a token id")),
        }
    }

    /// θ of the rotary positions, from `rope_theta` or, as newer files have it, from
    /// `rope_parameters`.
    fn rope_theta(&self) -> Result<f64, Error> {
        let nested = match self.get("rope_parameters") {
            None => None,
            Some(Value::Object(parameters)) => {
                let nested = Keys(parameters);
                nested.must_be(
                    "rope_type",
                    &[json!("default")],
                    "scaled rotary positions are not done",
                )?;
                nested.must_be(
                    "partial_rotary_factor",
                    &[json!(1.0), json!(1)],
                    "partly rotary heads are not done",
                )?;
                nested.get("rope_theta").cloned()
            }
            Some(other) => {
                return refuse("rope_parameters", format!("is {other}; it must be a table"));
            }
        };
        match self.get("rope_theta").cloned().or(nested) {
            None => Ok(10_000.0),
            Some(value) => match value.as_f64() {
                Some(theta) => Ok(theta),
                None => refuse("rope_theta", format!("is {value}; it must be a number")),
            },
        }
    }
}

#[cfg(test)]
mod tests;
