use serde_json::{Map, Value, json};

use super::*;

impl ModelConfig {
    /// An OLMo v1 of two layers with a context of 16.
    pub(crate) fn tiny_olmo(
        vocab_size: u32,
        hidden_size: u32,
        intermediate_size: u32,
        num_attention_heads: u32,
        tie_word_embeddings: bool,
    ) -> Self {
        Self::from_spec(&ModelSpec {
            vocab_size: Some(vocab_size),
            hidden_size,
            intermediate_size,
            num_hidden_layers: 2,
            num_attention_heads,
            tie_word_embeddings,
            max_position_embeddings: Some(16),
            rope_theta: 1e4,
        })
        .expect("supported")
    }
}

/// As OLMo-1B's published configuration has it.
fn published() -> Map<String, Value> {
    let json = json!({
        "architectures": ["OlmoForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
        "clip_qkv": null, "eos_token_id": 50279, "hidden_act": "silu", "hidden_size": 2048,
        "initializer_range": 0.02, "intermediate_size": 8192, "max_position_embeddings": 2048,
        "model_type": "olmo", "num_attention_heads": 16, "num_hidden_layers": 16,
        "num_key_value_heads": 16, "pad_token_id": 1, "rope_scaling": null,
        "rope_theta": 10000.0, "tie_word_embeddings": true, "torch_dtype": "float32",
        "use_cache": true, "vocab_size": 50304,
    });
    match json {
        Value::Object(map) => map,
        _ => unreachable!("an object was written above"),
    }
}

#[test]
fn reads_a_published_configuration_and_writes_one_that_reads_the_same() {
    let config = ModelConfig::from_json(&published()).expect("supported");
    assert_eq!(config.hidden_size, 2048);
    assert_eq!(config.head_dim, 128);
    assert!(config.tie_word_embeddings);
    let written = config.to_json();
    assert_eq!(written["eos_token_id"], 50279);
    assert_eq!(written["dtype"], "float32");
    let again = ModelConfig::from_json(written.as_object().expect("an object"));
    assert_eq!(again.expect("supported").to_json(), written);
}

#[test]
fn reads_rope_theta_where_newer_files_have_it() {
    let mut json = published();
    json.remove("rope_theta");
    json.insert(
        "rope_parameters".to_owned(),
        json!({"rope_theta": 5e5, "rope_type": "default"}),
    );
    let config = ModelConfig::from_json(&json).expect("supported");
    let Positions::Rotary(rotary) = config.positions else {
        panic!("OLMo has rotary positions");
    };
    assert_eq!((rotary.theta, rotary.n_rotated), (5e5, 128));
}

#[test]
fn refuses_what_it_does_not_do_and_names_the_key() {
    let rows = [
        ("model_type", json!("mamba"), "model_type"),
        ("sliding_window", json!(128), "sliding_window"),
        ("hidden_act", json!("gelu"), "hidden_act"),
        ("clip_qkv", json!(-8.0), "clip_qkv"),
        (
            "rope_scaling",
            json!({"factor": 2.0}),
            "rope_scaling.factor",
        ),
        (
            "rope_scaling",
            json!({"type": "dynamic", "factor": 2.0}),
            "rope_type",
        ),
        (
            "rope_scaling",
            json!({"type": "llama3", "factor": 2.0}),
            "low_freq_factor",
        ),
        ("rope_parameters", json!({"rope_type": "yarn"}), "rope_type"),
        ("num_key_value_heads", json!(5), "num_key_value_heads"),
        ("num_attention_heads", json!(15), "num_attention_heads"),
        ("head_dim", json!(63), "num_attention_heads"),
        ("vocab_size", json!(0), "vocab_size"),
        ("vocab_size", json!("many"), "vocab_size"),
        ("hidden_size", json!(2056), "num_attention_heads"),
        ("hidden_size", json!(1_u64 << 40), "hidden_size"),
        ("rope_theta", json!(-1.0), "rope_theta"),
        ("tie_word_embeddings", json!("yes"), "tie_word_embeddings"),
    ];
    for (key, value, named) in rows {
        let mut json = published();
        json.insert(key.to_owned(), value.clone());
        let message = match ModelConfig::from_json(&json) {
            Ok(_) => panic!("`{key}` = {value} was taken"),
            Err(err) => err.to_string(),
        };
        assert!(message.contains(named), "`{key}` = {value}: {message}");
    }
}

#[test]
fn names_a_missing_key() {
    for key in [
        "model_type",
        "hidden_size",
        "vocab_size",
        "max_position_embeddings",
    ] {
        let mut json = published();
        json.remove(key);
        let err = ModelConfig::from_json(&json).expect_err("a key is missing");
        assert_eq!(
            err.to_string(),
            format!("model configuration, `{key}`: is missing")
        );
    }
}

#[test]
fn a_model_from_scratch_needs_its_vocabulary() {
    let mut spec = ModelSpec {
        vocab_size: None,
        hidden_size: 64,
        intermediate_size: 168,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        tie_word_embeddings: true,
        max_position_embeddings: Some(64),
        rope_theta: 1e4,
    };
    let err = ModelConfig::from_spec(&spec).expect_err("no vocabulary");
    assert!(err.to_string().contains("`vocab_size`"), "{err}");
    spec.vocab_size = Some(574);
    assert_eq!(
        ModelConfig::from_spec(&spec).expect("complete").head_dim,
        16
    );
    spec.num_attention_heads = 3;
    assert!(ModelConfig::from_spec(&spec).is_err());
}
