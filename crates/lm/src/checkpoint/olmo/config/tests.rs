use super::*;

const MODEL: &str = "\
model:
  d_model: 8
  n_heads: 2
  n_layers: 2
  mlp_hidden_size: 24
  activation_type: swiglu
  rope: true
  layer_norm_type: default
  layer_norm_with_affine: false
  include_bias: false
  max_sequence_length: 16
  vocab_size: 45
  embedding_size: 48
  weight_tying: false
  eos_token_id: 44
  pad_token_id: 1
";

fn parsed(more: &str) -> Result<NativeConfig, String> {
    NativeConfig::parse(&format!("{MODEL}{more}"))
}

/// With a key of the model set, in place of what is there or beside it.
fn with(key: &str, value: &str) -> Result<NativeConfig, String> {
    let lines = MODEL
        .lines()
        .filter(|line| !line.trim().starts_with(&format!("{key}:")));
    let kept: Vec<&str> = lines.collect();
    NativeConfig::parse(&format!("{}\n  {key}: {value}\n", kept.join("\n")))
}

#[track_caller]
fn refuses(key: &str, value: &str, want: &str) {
    let reason = with(key, value).err().expect("it is refused");
    assert!(reason.contains(want), "{reason}");
}

#[track_caller]
fn becomes(key: &str, value: &str, hugging_face: &str, want: &Value) {
    let config = with(key, value).expect("it is taken");
    assert_eq!(&config.hugging_face[hugging_face], want, "{key}: {value}");
}

#[test]
fn becomes_the_keys_of_hugging_face() {
    let config = parsed("global_train_batch_size: 4\n").expect("it is taken");
    for (key, want) in [
        ("model_type", json!("olmo")),
        ("vocab_size", json!(48)),
        ("hidden_size", json!(8)),
        ("intermediate_size", json!(12)),
        ("num_hidden_layers", json!(2)),
        ("num_attention_heads", json!(2)),
        ("num_key_value_heads", json!(2)),
        ("max_position_embeddings", json!(16)),
        ("rope_theta", json!(10_000.0)),
        ("tie_word_embeddings", json!(false)),
        ("clip_qkv", json!(null)),
        ("eos_token_id", json!(44)),
        ("pad_token_id", json!(1)),
    ] {
        assert_eq!(config.hugging_face[key], want, "{key}");
    }
    assert_eq!(config.tokens_per_batch, Some(64));
}

#[test]
fn sizes_in_each_form() {
    becomes("embedding_size", "null", "vocab_size", &json!(45));
    let absent = NativeConfig::parse(&MODEL.replace("  embedding_size: 48\n", ""));
    let absent = absent.expect("it is taken");
    assert_eq!(absent.hugging_face["vocab_size"], 50_304);
    becomes("embedding_size", "50_304", "vocab_size", &json!(50_304));
    becomes("mlp_hidden_size", "null", "intermediate_size", &json!(16));
    becomes("n_kv_heads", "1", "num_key_value_heads", &json!(1));
    becomes(
        "multi_query_attention",
        "true",
        "num_key_value_heads",
        &json!(1),
    );
    becomes("clip_qkv", "8.0", "clip_qkv", &json!(8.0));
    becomes("rope_theta", "500000", "rope_theta", &json!(500_000.0));
    becomes("layer_norm_eps", "1e-05", "model_type", &json!("olmo"));
    becomes("weight_tying", "true", "tie_word_embeddings", &json!(true));
}

#[test]
fn what_changes_the_mathematics_is_named() {
    for (key, value) in [
        ("alibi", "true"),
        ("rope", "false"),
        ("activation_type", "gelu"),
        ("block_type", "parallel"),
        ("attention_layer_norm", "true"),
        ("embedding_layer_norm", "true"),
        ("layer_norm_type", "low_precision"),
        ("layer_norm_type", "rms"),
        ("layer_norm_with_affine", "true"),
        ("layer_norm_eps", "1e-6"),
        ("include_bias", "true"),
        ("scale_logits", "true"),
        ("norm_after", "true"),
        ("use_mup", "true"),
        ("a_new_idea", "2"),
        ("d_model", "7"),
        ("mlp_hidden_size", "7"),
        ("embedding_size", "44"),
        ("n_layers", "two"),
    ] {
        let named = match key {
            "norm_after" => "layer_norm_type",
            "d_model" => "n_heads",
            key => key,
        };
        refuses(key, value, &format!("`{named}`"));
    }
    let both = parsed("  n_kv_heads: 1\n  multi_query_attention: false\n");
    assert!(both.err().expect("they differ").contains("`n_kv_heads`"));
    for absent in ["rope", "include_bias", "layer_norm_with_affine", "d_model"] {
        refuses(absent, "null", &format!("`{absent}`"));
    }
    becomes("a_new_idea", "false", "model_type", &json!("olmo"));
}

#[test]
fn norms_after_make_it_olmo_2() {
    let text = MODEL
        .replace("layer_norm_type: default", "layer_norm_type: rms")
        .replace(
            "layer_norm_with_affine: false",
            "layer_norm_with_affine: true",
        )
        + "  norm_after: true\n  attention_layer_norm: true\n  layer_norm_eps: 1e-6\n";
    let config = NativeConfig::parse(&text).expect("it is taken");
    assert_eq!(config.hugging_face["model_type"], "olmo2");
    assert_eq!(config.hugging_face["rms_norm_eps"], 1e-6);
}

#[test]
fn damage_is_one_line() {
    for text in [
        "",
        "model",
        "model: 3",
        "[1, 2",
        "model: &a [*a]",
        "\u{0}",
        "a: b: c",
    ] {
        let reason = NativeConfig::parse(text).err().expect("it is refused");
        assert_eq!(reason.lines().count(), 1, "{reason}");
    }
}

#[test]
fn up_comes_before_the_gate() {
    let config = parsed("").expect("it is taken");
    let names = |native: &str| -> Vec<String> {
        (config.parts_of(native).into_iter())
            .map(|part| part.name)
            .collect()
    };
    assert_eq!(
        names("transformer.blocks.1.ff_proj.weight"),
        [
            "model.layers.1.mlp.up_proj.weight",
            "model.layers.1.mlp.gate_proj.weight"
        ]
    );
    assert_eq!(names("transformer.ff_out.weight"), ["lm_head.weight"]);
    assert_eq!(names("something.else"), ["something.else"]);
}
