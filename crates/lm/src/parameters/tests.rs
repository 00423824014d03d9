use super::*;

fn config(tied: bool) -> ModelConfig {
    ModelConfig::tiny_olmo(50, 64, 96, 4, tied)
}

fn keys(layout: &Layout) -> Vec<&str> {
    (layout.parameters.iter())
        .flat_map(|parameter| parameter.parts.iter().map(|part| part.key.as_str()))
        .collect()
}

#[test]
fn names_are_those_of_hugging_face() {
    let layout = Layout::new(&config(false));
    assert_eq!(
        keys(&layout)[..8],
        [
            "model.embed_tokens.weight",
            "model.layers.0.self_attn.q_proj.weight",
            "model.layers.0.self_attn.k_proj.weight",
            "model.layers.0.self_attn.v_proj.weight",
            "model.layers.0.self_attn.o_proj.weight",
            "model.layers.0.mlp.gate_proj.weight",
            "model.layers.0.mlp.up_proj.weight",
            "model.layers.0.mlp.down_proj.weight",
        ]
    );
    assert_eq!(keys(&layout).last(), Some(&"lm_head.weight"));
    let tied = Layout::new(&config(true));
    assert_eq!(keys(&tied).len(), keys(&layout).len() - 1);
    assert_eq!(tied.head, tied.embedding);
}

#[test]
fn decay_spares_the_embedding_alone() {
    let layout = Layout::new(&config(false));
    for (idx, parameter) in layout.parameters.iter().enumerate() {
        assert_eq!(parameter.decayed, idx != layout.embedding, "{parameter:?}");
    }
}

fn values_of(layout: &Layout, values: &[Vec<f32>], key: &str) -> Vec<f32> {
    for (parameter, values) in layout.parameters.iter().zip(values) {
        for (part, place) in parameter.parts_in_place() {
            if part.key == key {
                return values[place].to_vec();
            }
        }
    }
    panic!("no parameter `{key}`");
}

#[test]
fn first_values_are_normal_truncated_and_scaled_as_the_reference_does() {
    let layout = Layout::new(&config(false));
    let values = layout.initial_values(7);
    let d = 64.0_f64;
    // A standard normal truncated at ±3 has standard deviation 0.98658.
    for (key, sigma) in [
        ("model.embed_tokens.weight", 1.0 / d.sqrt()),
        ("model.layers.0.self_attn.q_proj.weight", 1.0 / d.sqrt()),
        (
            "model.layers.0.self_attn.o_proj.weight",
            1.0 / (2.0 * d).sqrt(),
        ),
        (
            "model.layers.1.self_attn.o_proj.weight",
            1.0 / (4.0 * d).sqrt(),
        ),
        (
            "model.layers.1.mlp.down_proj.weight",
            1.0 / (4.0 * d).sqrt(),
        ),
        ("lm_head.weight", 1.0 / d.sqrt()),
    ] {
        let values = values_of(&layout, &values, key);
        let n = values.len() as f64;
        let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
        let variance = values
            .iter()
            .map(|&x| (f64::from(x) - mean).powi(2))
            .sum::<f64>()
            / n;
        let tolerance = 5.0 / n.sqrt();
        assert!(mean.abs() < tolerance * sigma, "{key}: mean {mean}");
        let ratio = variance.sqrt() / (0.98658 * sigma);
        assert!(
            (ratio - 1.0).abs() < tolerance,
            "{key}: σ is off by {ratio}"
        );
        let widest = values.iter().fold(0.0_f32, |a, &x| a.max(x.abs()));
        assert!(
            f64::from(widest) <= 3.0 * sigma * 1.000_001,
            "{key}: {widest}"
        );
    }
}

#[test]
fn first_values_follow_from_the_seed_and_the_key() {
    let layout = Layout::new(&config(false));
    let values = layout.initial_values(7);
    assert_eq!(values, layout.initial_values(7));
    assert_ne!(values, layout.initial_values(8));
    let mut deeper = config(true);
    deeper.num_hidden_layers = 3;
    let deeper = Layout::new(&deeper);
    let key = "model.layers.1.mlp.up_proj.weight";
    assert_eq!(
        values_of(&layout, &values, key),
        values_of(&deeper, &deeper.initial_values(7), key)
    );
}
