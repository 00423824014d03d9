//! OLMo's `config.yaml` as the keys of a Hugging Face `config.json`.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::checkpoint::file::StableFile;
use crate::error::Error;

/// A configuration has some kilobytes; those that list every file of a corpus, some hundred.
const MAX_CONFIG_BYTES: u64 = 4 << 20;
/// Rows of the embedding where the key is absent, which is another thing than `null`.
const EMBEDDING_SIZE: usize = 50_304;
/// ε of `OlmoLayerNorm` of `transformers`, which its configuration does not carry.
const LAYER_NORM_EPS: f64 = 1e-5;

/// What the configuration says.
pub(super) struct NativeConfig {
    pub(super) hugging_face: Map<String, Value>,
    /// Of OLMo's training; `None` where it is not said.
    pub(super) tokens_per_batch: Option<u64>,
    n_layers: usize,
    /// Rows of `[q; k; v]` and of `[up; gate]`.
    qkv_rows: [usize; 3],
    up_rows: usize,
}

/// Where some rows of a tensor, or all of it, go.
pub(super) struct Part {
    pub(super) name: String,
    pub(super) rows: Option<usize>,
}

/// Keys of `model` that change no number of a model that is read from its weights: how it was
/// initialised, which kernels compute it, in what precision.
const HARMLESS: &[&str] = &[
    "alibi_bias_max",
    "block_group_size",
    "emb_init_std",
    "flash_attention",
    "init_cutoff_factor",
    "init_device",
    "init_fn",
    "init_std",
    "low_cpu_fsdp",
    "precision",
    "rope_full_precision",
    "scale_emb_init",
];

impl NativeConfig {
    /// The configuration in a file.
    ///
    /// # Errors
    /// When it cannot be read, lacks a key, or asks for mathematics that is not done here.
    pub(super) fn read(path: &Path) -> Result<Self, Error> {
        let file = StableFile::open(path)?;
        let refuse = |reason: String| Error::NativeConfig {
            path: path.to_owned(),
            reason,
        };
        if file.n_bytes() > MAX_CONFIG_BYTES {
            return Err(refuse(format!(
                "it has {} bytes, more than any configuration",
                file.n_bytes()
            )));
        }
        let bytes = file.bytes(0, file.n_bytes() as usize)?;
        let text = String::from_utf8(bytes).map_err(|_| refuse("it is not text".to_owned()))?;
        Self::parse(&text).map_err(refuse)
    }

    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let root: Value =
            serde_saphyr::from_str(text).map_err(|err| first_line(&err.to_string()))?;
        let Some(Value::Object(model)) = root.get("model") else {
            return Err("it has no `model`: it is not the configuration of OLMo's trainer".into());
        };
        let keys = Keys(model);

        keys.must_be("alibi", false, &[json!(false)])?;
        keys.must_be("rope", false, &[json!(true)])?;
        keys.must_be("activation_type", "swiglu", &[json!("swiglu")])?;
        keys.must_be("block_type", "sequential", &[json!("sequential")])?;
        keys.must_be("embedding_layer_norm", false, &[json!(false)])?;
        keys.must_be("include_bias", true, &[json!(false)])?;
        keys.must_be("scale_logits", false, &[json!(false)])?;
        keys.must_be("use_mup", false, &[json!(false)])?;

        let d = keys.count("d_model")?;
        let n_heads = keys.count("n_heads")?;
        let n_layers = keys.count("n_layers")?;
        let context = keys.count("max_sequence_length")?;
        if n_heads == 0 || !d.is_multiple_of(n_heads) {
            return Err(format!(
                "`n_heads`: {n_heads} heads do not divide `d_model` {d}"
            ));
        }
        // The older key, where it is set, has to agree with the newer.
        let is_multi_query = match keys.get("multi_query_attention") {
            Some(_) => Some(keys.flag("multi_query_attention", false)?),
            None => None,
        };
        let by_older_key = is_multi_query.map(|is_one| if is_one { 1 } else { n_heads });
        let n_kv_heads = match (keys.optional_count("n_kv_heads")?, by_older_key) {
            (Some(n), Some(expected)) if n != expected => {
                return Err(format!(
                    "`n_kv_heads` is {n}, but `multi_query_attention` calls for {expected}"
                ));
            }
            (Some(n), _) => n,
            (None, by_older_key) => by_older_key.unwrap_or(n_heads),
        };
        // It counts the rows of up and gate together.
        let hidden = match keys.optional_count("mlp_hidden_size")? {
            Some(hidden) => hidden,
            None => {
                let ratio = keys.optional_count("mlp_ratio")?.unwrap_or(4);
                (ratio.checked_mul(d)).ok_or("`mlp_ratio` times `d_model` is too big")?
            }
        };
        if !hidden.is_multiple_of(2) {
            return Err(format!(
                "`mlp_hidden_size`: {hidden} rows are not two halves, up and gate"
            ));
        }
        let vocab_size = keys.count("vocab_size")?;
        let embedding_size = match model.contains_key("embedding_size") {
            true => keys.optional_count("embedding_size")?.unwrap_or(vocab_size),
            false => EMBEDDING_SIZE,
        };
        if embedding_size < vocab_size {
            return Err(format!(
                "`embedding_size` {embedding_size} is less than `vocab_size` {vocab_size}"
            ));
        }
        let eos = match keys.optional_count("eos_token_id")? {
            // A mistake in early configurations, which OLMo's own converter mends as well.
            Some(0) if vocab_size == 50_280 => Some(50_279),
            eos => eos,
        };

        let mut hugging_face = match json!({
            "hidden_act": "silu",
            "hidden_size": d,
            "intermediate_size": hidden / 2,
            "num_hidden_layers": n_layers,
            "num_attention_heads": n_heads,
            "num_key_value_heads": n_kv_heads,
            "max_position_embeddings": context,
            "vocab_size": embedding_size,
            "rope_theta": keys.number("rope_theta")?.unwrap_or(10_000.0),
            "tie_word_embeddings": keys.flag("weight_tying", true)?,
            "attention_bias": false,
            "attention_dropout": keys.number("attention_dropout")?.unwrap_or(0.0),
            "bos_token_id": null,
            "eos_token_id": eos,
            "pad_token_id": keys.optional_count("pad_token_id")?,
        }) {
            Value::Object(map) => map,
            _ => unreachable!("it is written as a table"),
        };
        for (key, value) in keys.family()? {
            hugging_face.insert(key.to_owned(), value);
        }
        for key in ["residual_dropout", "embedding_dropout"] {
            if keys.number(key)?.is_some_and(|rate| rate != 0.0) {
                tracing::warn!("`{key}` of the checkpoint is not done: training goes on without");
            }
        }
        keys.no_others()?;

        let head_dim = d / n_heads;
        let kv_rows = (head_dim.checked_mul(n_kv_heads)).ok_or("`n_kv_heads` is too big")?;
        let rows_per_batch = Keys(root.as_object().expect("it has keys"))
            .optional_count("global_train_batch_size")?;
        Ok(Self {
            hugging_face,
            tokens_per_batch: rows_per_batch
                .and_then(|rows| (rows as u64).checked_mul(context as u64)),
            n_layers,
            qkv_rows: [d, kv_rows, kv_rows],
            up_rows: hidden / 2,
        })
    }

    pub(super) fn n_layers(&self) -> usize {
        self.n_layers
    }

    /// Where the tensor of a native name goes; one that is not known keeps its name.
    pub(super) fn parts_of(&self, native: &str) -> Vec<Part> {
        let whole = |name: String| vec![Part { name, rows: None }];
        match native {
            "transformer.wte.weight" => return whole("model.embed_tokens.weight".to_owned()),
            "transformer.ff_out.weight" => return whole("lm_head.weight".to_owned()),
            "transformer.ln_f.weight" => return whole("model.norm.weight".to_owned()),
            _ => {}
        }
        let block = (native.strip_prefix("transformer.blocks."))
            .and_then(|rest| rest.split_once('.'))
            .filter(|(block, _)| block.parse::<usize>().is_ok());
        let Some((block, name)) = block else {
            return whole(native.to_owned());
        };
        let key = |name: &str| format!("model.layers.{block}.{name}.weight");
        let cut = |parts: &[(&str, usize)]| {
            let part = |&(name, rows): &(&str, usize)| Part {
                name: key(name),
                rows: Some(rows),
            };
            parts.iter().map(part).collect()
        };
        let [q, k, v] = self.qkv_rows;
        match name {
            "att_proj.weight" => cut(&[
                ("self_attn.q_proj", q),
                ("self_attn.k_proj", k),
                ("self_attn.v_proj", v),
            ]),
            // What is multiplied comes first, the gate second.
            "ff_proj.weight" => cut(&[
                ("mlp.up_proj", self.up_rows),
                ("mlp.gate_proj", self.up_rows),
            ]),
            "attn_out.weight" => whole(key("self_attn.o_proj")),
            "ff_out.weight" => whole(key("mlp.down_proj")),
            "q_norm.weight" => whole(key("self_attn.q_norm")),
            "k_norm.weight" => whole(key("self_attn.k_norm")),
            "attn_norm.weight" => whole(key("post_attention_layernorm")),
            "ff_norm.weight" => whole(key("post_feedforward_layernorm")),
            _ => whole(native.to_owned()),
        }
    }
}

/// The first line of a longer message: ours are one line.
fn first_line(message: &str) -> String {
    message
        .lines()
        .next()
        .unwrap_or("it is not YAML")
        .to_owned()
}

/// The keys of a table; a key that is `null` counts as absent.
struct Keys<'a>(&'a Map<String, Value>);

impl Keys<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    /// Refuses a key whose value, or OLMo's default where it is absent, is not one of `allowed`.
    fn must_be(
        &self,
        key: &str,
        default: impl Into<Value>,
        allowed: &[Value],
    ) -> Result<(), String> {
        let default = default.into();
        let value = self.get(key).unwrap_or(&default);
        if allowed.contains(value) {
            return Ok(());
        }
        let allowed: Vec<String> = allowed.iter().map(Value::to_string).collect();
        Err(format!(
            "`{key}` is {value}; only {} is done",
            allowed.join(" or ")
        ))
    }

    fn optional_count(&self, key: &str) -> Result<Option<usize>, String> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        // YAML 1.1, which OLMo writes and reads, allows 50_304.
        let spaced = (value.as_str())
            .filter(|text| text.starts_with(|c: char| c.is_ascii_digit()))
            .and_then(|text| text.replace('_', "").parse().ok());
        match value
            .as_u64()
            .or(spaced)
            .and_then(|n| usize::try_from(n).ok())
        {
            Some(n) => Ok(Some(n)),
            None => Err(format!("`{key}` is {value}; it must be a whole number")),
        }
    }

    fn count(&self, key: &str) -> Result<usize, String> {
        self.optional_count(key)?
            .ok_or_else(|| format!("`{key}` is missing"))
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool, String> {
        match self.get(key) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(format!("`{key}` is {other}; it must be true or false")),
        }
    }

    fn number(&self, key: &str) -> Result<Option<f64>, String> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        // YAML 1.2 reads 1e-5 as a number, YAML 1.1 as text; OLMo as a number.
        let number = (value.as_f64()).or_else(|| value.as_str()?.replace('_', "").parse().ok());
        match number.filter(|number: &f64| number.is_finite()) {
            Some(number) => Ok(Some(number)),
            None => Err(format!("`{key}` is {value}; it must be a number")),
        }
    }

    /// The keys in which OLMo and OLMo 2 differ.
    fn family(&self) -> Result<Vec<(&'static str, Value)>, String> {
        let eps = self.number("layer_norm_eps")?.unwrap_or(LAYER_NORM_EPS);
        if !self.flag("norm_after", false)? {
            // The second is the same by other operations.
            let plain = [json!("default"), json!("amd_compatible")];
            self.must_be("layer_norm_type", "default", &plain)?;
            self.must_be("layer_norm_with_affine", true, &[json!(false)])?;
            self.must_be("attention_layer_norm", false, &[json!(false)])?;
            if eps != LAYER_NORM_EPS {
                return Err(format!(
                    "`layer_norm_eps` is {eps}; only {LAYER_NORM_EPS} is done"
                ));
            }
            return Ok(vec![
                ("model_type", json!("olmo")),
                ("clip_qkv", json!(self.number("clip_qkv")?)),
            ]);
        }
        self.must_be("layer_norm_type", "default", &[json!("rms")])?;
        self.must_be("layer_norm_with_affine", true, &[json!(true)])?;
        self.must_be("attention_layer_norm", false, &[json!(true)])?;
        self.must_be("attention_layer_norm_with_affine", true, &[json!(true)])?;
        self.must_be("bias_for_layer_norm", false, &[json!(false)])?;
        if let Some(limit) = self.get("clip_qkv") {
            return Err(format!(
                "`clip_qkv` is {limit}; with `norm_after` it is not done"
            ));
        }
        Ok(vec![
            ("model_type", json!("olmo2")),
            ("rms_norm_eps", json!(eps)),
        ])
    }

    /// Refuses a key that nobody here knows and that asks for something.
    fn no_others(&self) -> Result<(), String> {
        const READ: &[&str] = &[
            "activation_type",
            "alibi",
            "attention_dropout",
            "attention_layer_norm",
            "attention_layer_norm_with_affine",
            "bias_for_layer_norm",
            "block_type",
            "clip_qkv",
            "d_model",
            "embedding_dropout",
            "embedding_layer_norm",
            "embedding_size",
            "eos_token_id",
            "include_bias",
            "layer_norm_eps",
            "layer_norm_type",
            "layer_norm_with_affine",
            "max_sequence_length",
            "mlp_hidden_size",
            "mlp_ratio",
            "multi_query_attention",
            "n_heads",
            "n_kv_heads",
            "n_layers",
            "norm_after",
            "pad_token_id",
            "residual_dropout",
            "rope",
            "rope_theta",
            "scale_logits",
            "use_mup",
            "vocab_size",
            "weight_tying",
        ];
        for (key, value) in self.0 {
            let is_known = READ.contains(&key.as_str()) || HARMLESS.contains(&key.as_str());
            let asks = !matches!(value, Value::Null | Value::Bool(false));
            if asks && !is_known && !key.starts_with("mup_") {
                return Err(format!(
                    "`{key}` is {value}, and what that changes is not known here"
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
