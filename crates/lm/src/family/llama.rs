//! Llama: RMSNorm, rotary positions (scaled from 3.1 on), SwiGLU, shared keys and values.

use serde_json::json;

use super::{Family, Names, QkvNames};
use crate::config::{Keys, ModelConfig, Sizes, WHOLE_HEADS};
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
    attention_norm: "input_layernorm",
    mlp_norm: "post_attention_layernorm",
    gate: "mlp.gate_proj",
    up: "mlp.up_proj",
    down: "mlp.down_proj",
    final_norm: "model.norm",
    head: "lm_head",
    head_alias: "",
    is_transposed: false,
    optional_prefix: "model.",
    buffers: &["rotary_emb.inv_freq"],
};

pub(super) fn read(keys: &Keys<'_>) -> Result<ModelConfig, Error> {
    let mut config = decoder(Family::Llama, keys)?;
    config.norm.kind = NormKind::Rms;
    config.norm.eps = keys.number("rms_norm_eps")?.unwrap_or(1e-6) as f32;
    config.norm.has_weight = true;
    config.biases.mlp = keys.flag("mlp_bias", false)?;
    Ok(config)
}

/// What Llama and the families after it share: rotary positions, SwiGLU, and keys and values that
/// heads of queries may share.
pub(super) fn decoder(family: Family, keys: &Keys<'_>) -> Result<ModelConfig, Error> {
    let mut config = ModelConfig::plain(family, &Sizes::read(keys)?, keys)?;
    keys.must_be(
        "hidden_act",
        &[json!("silu"), json!("swish")],
        "only `silu` is done",
    )?;
    keys.no_dropout(&["attention_dropout"]);
    config.num_key_value_heads = keys
        .optional_count("num_key_value_heads")?
        .unwrap_or(config.num_attention_heads);
    let has_bias = keys.flag("attention_bias", false)?;
    config.biases.qkv = has_bias;
    config.biases.attention_out = has_bias;
    config.positions = keys.rotary(config.head_dim, WHOLE_HEADS)?;
    Ok(config)
}
