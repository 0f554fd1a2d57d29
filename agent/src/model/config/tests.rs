use super::*;
use crate::model::weights::tests::tiny_config;

fn source(model_type: &str) -> Map<String, Value> {
    let value = json!({
        "model_type": model_type, "vocab_size": 64, "hidden_size": 24, "intermediate_size": 40,
        "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2
    });
    value.as_object().expect("an object").clone()
}

/// A configuration of that family with one more key.
fn with(model_type: &str, key: &str, value: Value) -> Result<DecoderConfig, AgentError> {
    let mut keys = source(model_type);
    keys.insert(key.into(), value);
    DecoderConfig::from_hugging_face(keys)
}

#[test]
fn missing_keys_have_the_defaults_of_transformers() {
    let config = DecoderConfig::from_hugging_face(source("llama")).expect("fits");
    assert_eq!(
        (
            config.rope_theta,
            config.rms_norm_eps,
            config.max_position_embeddings
        ),
        (1e4, 1e-6, 2048)
    );
    assert!(!config.tie_word_embeddings && !config.has_biases());
    assert_eq!(
        (config.head_width(), config.kv_width(), config.scales),
        (6, 12, Scales::default())
    );
    let shapes: Vec<String> = config.tensors().into_iter().map(|(name, _)| name).collect();
    assert_eq!(shapes.len(), 1 + 4 * 9 + 2);
    assert_eq!(shapes.last().map(String::as_str), Some("lm_head.weight"));
}

#[test]
fn families_differ_in_biases_and_scales() {
    let qwen2 = with("qwen2", "tie_word_embeddings", json!(true)).expect("fits");
    assert_eq!(qwen2.tensors().len(), 1 + 4 * 12 + 1);
    let minicpm = with("minicpm", "scale_depth", json!(1.4)).expect("fits");
    assert_eq!(
        minicpm.scales,
        Scales {
            embedding: 1.0,
            residual: 0.7,
            attention: 1.0,
            logits: 1.0
        }
    );
}

#[test]
fn unsupported_configurations_are_refused() {
    for (key, value, words) in [
        ("model_type", json!("gpt2"), "\"gpt2\" is not known"),
        ("hidden_act", json!("gelu"), "\"gelu\" is not supported"),
        ("attention_bias", json!(true), "attention_bias is set"),
        (
            "partial_rotary_factor",
            json!(0.5),
            "partial_rotary_factor is set",
        ),
        (
            "layer_types",
            json!(["full_attention", "sliding_attention"]),
            "layer_types",
        ),
        ("use_sliding_window", json!(true), "use_sliding_window"),
        (
            "num_key_value_heads",
            json!(3),
            "num_key_value_heads 3 must divide",
        ),
        ("num_attention_heads", json!(5), "must split into 5 heads"),
        ("hidden_size", json!(0), "hidden_size is 0"),
        (
            "vocab_size",
            json!(1_u64 << 40),
            "vocab_size is 1099511627776",
        ),
        ("rms_norm_eps", json!(-1.0), "must be numbers above 0"),
        (
            "rope_scaling",
            json!({"rope_type": "spiral"}),
            "\"spiral\" is not known",
        ),
        (
            "rope_scaling",
            json!({"type": "dynamic", "alpha": 1000.0}),
            "with alpha",
        ),
        ("hidden_size", json!("wide"), "invalid type"),
    ] {
        let error = with("llama", key, value).expect_err("refused").to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn two_values_of_theta_are_refused() {
    let mut keys = source("llama");
    keys.insert("rope_theta".into(), json!(10_000.0));
    for (inner, fits) in [(10_000.0, true), (500_000.0, false)] {
        keys.insert(
            "rope_parameters".into(),
            json!({"rope_type": "default", "rope_theta": inner}),
        );
        let config = DecoderConfig::from_hugging_face(keys.clone());
        assert_eq!(config.is_ok(), fits);
        if let Err(error) = config {
            let error = error.to_string();
            assert!(
                error.contains("10000") && error.contains("500000"),
                "{error}"
            );
        }
    }
    keys.remove("rope_theta");
    let config = DecoderConfig::from_hugging_face(keys).expect("fits");
    assert_eq!(config.rope_theta, 500_000.0);
}

#[test]
fn minicpm_ties_its_output_unless_the_file_says_otherwise() {
    let tied = |family, key, value| with(family, key, value).expect("fits").tie_word_embeddings;
    assert!(tied("minicpm", "bos_token_id", json!(1)));
    assert!(!tied("minicpm", "tie_word_embeddings", json!(false)));
    assert!(!tied("llama", "bos_token_id", json!(1)));
}

fn without_source(mut config: DecoderConfig) -> DecoderConfig {
    config.source = Map::new();
    config
}

#[test]
fn unknown_keys_are_kept() {
    let config = with("qwen2", "bos_token_id", json!(7)).expect("fits");
    let written = config.to_hugging_face();
    assert_eq!(
        (&written["bos_token_id"], &written["architectures"]),
        (&json!(7), &json!(["Qwen2ForCausalLM"]))
    );
    let again = DecoderConfig::from_hugging_face(written).expect("fits");
    assert_eq!(without_source(again), without_source(config));
}

#[test]
fn a_written_configuration_is_read_as_the_same() {
    let made = tiny_config();
    let again = DecoderConfig::from_hugging_face(made.to_hugging_face()).expect("fits");
    assert_eq!(without_source(again), made);
}
