//! GPT-NeoX and Pythia: LayerNorm, heads that are rotated in part, attention and feed-forward layer
//! side by side.

use super::{Family, Names, QkvNames};
use crate::config::{Biases, Keys, Mlp, ModelConfig, RotaryKeys, Sizes};
use crate::error::Error;
use crate::host::NormKind;

pub(super) const NAMES: Names = Names {
    embedding: "gpt_neox.embed_in",
    positions: "",
    layer: "gpt_neox.layers.{}.",
    qkv: QkvNames::ByHead("attention.query_key_value"),
    q_norm: "",
    k_norm: "",
    attention_out: "attention.dense",
    attention_norm: "input_layernorm",
    mlp_norm: "post_attention_layernorm",
    gate: "",
    up: "mlp.dense_h_to_4h",
    down: "mlp.dense_4h_to_h",
    final_norm: "gpt_neox.final_layer_norm",
    head: "embed_out",
    head_alias: "lm_head",
    is_transposed: false,
    optional_prefix: "gpt_neox.",
    buffers: &[
        ".attention.bias",
        ".attention.masked_bias",
        "rotary_emb.inv_freq",
    ],
};

const ROTARY: RotaryKeys = RotaryKeys {
    theta: "rotary_emb_base",
    share: Some(("rotary_pct", 0.25)),
};

pub(super) fn read(keys: &Keys<'_>) -> Result<ModelConfig, Error> {
    let mut config = ModelConfig::plain(Family::GptNeox, &Sizes::read(keys)?, keys)?;
    keys.no_dropout(&[
        "attention_dropout",
        "attention_probs_dropout_prob",
        "hidden_dropout",
        "hidden_dropout_prob",
    ]);
    config.mlp = Mlp::Plain(keys.activation("hidden_act", "gelu")?);
    config.norm.kind = NormKind::Layer;
    config.norm.eps = keys.number("layer_norm_eps")?.unwrap_or(1e-5) as f32;
    config.norm.has_weight = true;
    config.norm.has_bias = true;
    let has_bias = keys.flag("attention_bias", true)?;
    config.biases = Biases {
        qkv: has_bias,
        attention_out: has_bias,
        mlp: true,
    };
    config.is_parallel = keys.flag("use_parallel_residual", true)?;
    config.positions = keys.rotary(config.head_dim, ROTARY)?;
    Ok(config)
}
