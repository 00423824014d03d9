//! OLMo v1: LayerNorm without weight or bias, rotary positions, SwiGLU, no biases.

use super::{Family, Names, llama};
use crate::config::{Keys, ModelConfig, refuse};
use crate::error::Error;
use crate::host::NormKind;

pub(super) const NAMES: Names = Names {
    attention_norm: "",
    mlp_norm: "",
    final_norm: "",
    ..llama::NAMES
};

/// ε of OLMo v1's LayerNorm, which its configuration does not carry.
///
/// # Source
/// `OlmoLayerNorm` of `transformers`, and OLMo v1's own `LayerNorm`.
const LAYER_NORM_EPS: f32 = 1e-5;

pub(super) fn read(keys: &Keys<'_>) -> Result<ModelConfig, Error> {
    let mut config = llama::decoder(Family::Olmo, keys)?;
    config.norm.kind = NormKind::Layer;
    config.norm.eps = LAYER_NORM_EPS;
    config.clip_qkv = match keys.number("clip_qkv")? {
        Some(limit) if limit > 0.0 => Some(limit as f32),
        Some(limit) => return refuse("clip_qkv", format!("is {limit}; it must be positive")),
        None => None,
    };
    Ok(config)
}
