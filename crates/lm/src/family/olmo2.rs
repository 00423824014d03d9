//! OLMo 2: RMSNorm on the outputs of attention and feed-forward layer, and on queries and keys.

use super::{Family, Names, llama};
use crate::config::{Keys, ModelConfig, NormPlace};
use crate::error::Error;
use crate::host::NormKind;

pub(super) const NAMES: Names = Names {
    q_norm: "self_attn.q_norm",
    k_norm: "self_attn.k_norm",
    attention_norm: "post_attention_layernorm",
    mlp_norm: "post_feedforward_layernorm",
    ..llama::NAMES
};

pub(super) fn read(keys: &Keys<'_>) -> Result<ModelConfig, Error> {
    let mut config = llama::decoder(Family::Olmo2, keys)?;
    config.norm.kind = NormKind::Rms;
    config.norm.eps = keys.number("rms_norm_eps")?.unwrap_or(1e-5) as f32;
    config.norm.has_weight = true;
    config.norm.place = NormPlace::After;
    config.has_qk_norm = true;
    Ok(config)
}
