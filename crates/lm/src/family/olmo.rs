//! OLMo v1: LayerNorm without weight or bias, rotary positions, SwiGLU, no biases.

use serde_json::json;

use super::{Family, Names, QkvNames};
use crate::config::{Keys, ModelConfig, Sizes, WHOLE_HEADS, refuse};
use crate::error::Error;
use crate::host::NormKind;

pub(super) const NAMES: Names = Names {
    embedding: "model.embed_tokens",
    positions: "",
    layer: "model.layers.{}.",
    qkv: QkvNames::Apart(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
    q_norm: "",
    k_norm: "",
    attention_out: "self_attn.o_proj",
    attention_norm: "",
    mlp_norm: "",
    gate: "mlp.gate_proj",
    up: "mlp.up_proj",
    down: "mlp.down_proj",
    final_norm: "",
    head: "lm_head",
    head_alias: "",
    is_transposed: false,
    optional_prefix: "model.",
    buffers: &["rotary_emb.inv_freq"],
};

/// ε of OLMo v1's LayerNorm, which its configuration does not carry.
///
/// # Source
/// `OlmoLayerNorm` of `transformers`, and OLMo v1's own `LayerNorm`.
const LAYER_NORM_EPS: f32 = 1e-5;

pub(super) fn read(keys: &Keys<'_>) -> Result<ModelConfig, Error> {
    let mut config = ModelConfig::plain(Family::Olmo, &Sizes::read(keys)?, keys)?;
    keys.must_be(
        "hidden_act",
        &[json!("silu"), json!("swish")],
        "only `silu` is done",
    )?;
    keys.no_dropout(&["attention_dropout"]);
    config.norm.kind = NormKind::Layer;
    config.norm.eps = LAYER_NORM_EPS;
    config.num_key_value_heads = keys
        .optional_count("num_key_value_heads")?
        .unwrap_or(config.num_attention_heads);
    let has_bias = keys.flag("attention_bias", false)?;
    config.biases.qkv = has_bias;
    config.biases.attention_out = has_bias;
    config.clip_qkv = match keys.number("clip_qkv")? {
        Some(limit) if limit > 0.0 => Some(limit as f32),
        Some(limit) => return refuse("clip_qkv", format!("is {limit}; it must be positive")),
        None => None,
    };
    config.positions = keys.rotary(config.head_dim, WHOLE_HEADS)?;
    Ok(config)
}
