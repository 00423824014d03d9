//! GPT-2: LayerNorm, learned positions, transposed weights, tied embeddings.

use serde_json::json;

use super::{Family, Names, QkvNames};
use crate::config::{Biases, Keys, Mlp, ModelConfig, Positions, Sizes};
use crate::error::Error;
use crate::host::NormKind;

pub(super) const NAMES: Names = Names {
    embedding: "transformer.wte",
    positions: "transformer.wpe",
    layer: "transformer.h.{}.",
    qkv: QkvNames::Together("attn.c_attn"),
    q_norm: "",
    k_norm: "",
    attention_out: "attn.c_proj",
    attention_norm: "ln_1",
    mlp_norm: "ln_2",
    gate: "",
    up: "mlp.c_fc",
    down: "mlp.c_proj",
    final_norm: "transformer.ln_f",
    head: "lm_head",
    head_alias: "",
    is_transposed: true,
    optional_prefix: "transformer.",
    buffers: &[".attn.bias", ".attn.masked_bias"],
};

pub(super) fn read(keys: &Keys<'_>) -> Result<ModelConfig, Error> {
    let hidden_size = keys.count("n_embd")?;
    let sizes = Sizes {
        hidden_size,
        intermediate_size: keys.optional_count("n_inner")?.unwrap_or(4 * hidden_size),
        num_hidden_layers: keys.count("n_layer")?,
        num_attention_heads: keys.count("n_head")?,
        max_position_embeddings: keys.count("n_positions")?,
    };
    // An older name of the context's length.
    let context = [json!(sizes.max_position_embeddings)];
    keys.must_be("n_ctx", &context, "it must be `n_positions`")?;
    let mut config = ModelConfig::plain(Family::Gpt2, &sizes, keys)?;
    keys.no_dropout(&["attn_pdrop", "embd_pdrop", "resid_pdrop"]);
    keys.must_be("scale_attn_weights", &[json!(true)], "scores are scaled")?;
    let no = [json!(false)];
    keys.must_be("add_cross_attention", &no, "cross-attention is not done")?;
    // The same numbers in another order, but for the last digits.
    keys.flag("reorder_and_upcast_attn", false)?;
    config.scales_scores_by_layer = keys.flag("scale_attn_by_inverse_layer_idx", false)?;
    config.mlp = Mlp::Plain(keys.activation("activation_function", "gelu_new")?);
    config.norm.kind = NormKind::Layer;
    config.norm.eps = keys.number("layer_norm_epsilon")?.unwrap_or(1e-5) as f32;
    config.norm.has_weight = true;
    config.norm.has_bias = true;
    config.biases = Biases::all(true);
    config.positions = Positions::Learned;
    Ok(config)
}
