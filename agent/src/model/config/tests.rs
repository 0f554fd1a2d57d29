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

/// The configuration of a family with these keys.
fn with_keys(model_type: &str, layers: usize, more: Value) -> Result<DecoderConfig, String> {
    let mut keys = source(model_type);
    keys.insert("num_hidden_layers".into(), json!(layers));
    keys.insert("head_dim".into(), json!(6));
    keys.extend(more.as_object().expect("an object").clone());
    DecoderConfig::from_hugging_face(keys).map_err(|error| error.to_string())
}

/// The layers with a window, and the window.
fn windows(model_type: &str, layers: usize, more: Value) -> (Vec<usize>, usize) {
    let pattern = with_keys(model_type, layers, more).expect("fits").pattern;
    (pattern.windowed.into_iter().collect(), pattern.window)
}

/// As in transformers 5.17.
#[test]
fn windows_have_the_defaults_of_transformers() {
    let none = (vec![], 0);
    assert_eq!(windows("mistral", 2, json!({})), (vec![0, 1], 4096));
    assert_eq!(windows("mistral", 2, json!({"sliding_window": null})), none);
    assert_eq!(windows("phi3", 2, json!({})), none);
    let unlimited = json!({"sliding_window": u64::MAX});
    assert_eq!(windows("phi3", 1, unlimited), (vec![0], 1 << 24));
    let mixed =
        json!({"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 3});
    assert_eq!(windows("mistral", 2, mixed), (vec![1], 3));
    assert_eq!(
        windows("phi3", 2, json!({"sliding_window": 8})),
        (vec![0, 1], 8)
    );
    assert_eq!(windows("qwen2", 2, json!({"sliding_window": 8})), none);
    let used = json!({"use_sliding_window": true, "max_window_layers": 2});
    assert_eq!(windows("qwen2", 4, used), (vec![2, 3], 4096));
    assert_eq!(
        windows("gemma3_text", 7, json!({})),
        (vec![0, 1, 2, 3, 4, 6], 4096)
    );
    let every = json!({"sliding_window_pattern": 2, "sliding_window": 5});
    assert_eq!(windows("gemma3_text", 4, every), (vec![0, 2], 5));
    assert_eq!(windows("olmo3", 5, json!({})), (vec![0, 1, 2, 4], 4096));
    let listed = json!({"layer_types": ["full_attention", "sliding_attention"]});
    assert_eq!(windows("olmo3", 2, listed), (vec![1], 4096));
}

/// The keys of hubs and the keys that transformers 5 writes mean the same.
#[test]
fn old_and_new_keys_are_read_alike() {
    let bare = |config: DecoderConfig| without_source(config);
    let linear = json!({"rope_type": "linear", "factor": 8.0});
    let old = json!({"rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": linear});
    let new = json!({"rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }});
    let read = |family, keys| bare(with_keys(family, 2, keys).expect("fits"));
    assert_eq!(read("gemma3_text", old), read("gemma3_text", new));
    let factors = json!({"type": "longrope", "short_factor": [1.5], "long_factor": [2.0]});
    let old = json!({
        "max_position_embeddings": 64, "original_max_position_embeddings": 32,
        "partial_rotary_factor": 0.34, "rope_scaling": factors, "rope_theta": 1e4,
    });
    let new = json!({"max_position_embeddings": 64, "rope_parameters": {
        "rope_type": "longrope", "short_factor": [1.5], "long_factor": [2.0], "rope_theta": 1e4,
        "partial_rotary_factor": 0.34, "original_max_position_embeddings": 32,
    }});
    let read = read("phi3", old);
    assert_eq!(
        (read.rotated_width(), read.max_position_embeddings),
        (2, 32)
    );
    assert_eq!(read, bare(with_keys("phi3", 2, new).expect("fits")));
}

#[test]
fn keys_that_cannot_be_meant_are_refused() {
    let huge = json!({"num_hidden_layers": 1_000_000_000_000_u64});
    for (family, more, words) in [
        ("mistral", huge, "num_hidden_layers is 1000000000000"),
        (
            "mistral",
            json!({"sliding_window": 0}),
            "sliding_window is 0",
        ),
        (
            "gemma3_text",
            json!({"sliding_window": null}),
            "sliding_window is null",
        ),
        (
            "mistral",
            json!({"layer_types": ["chunked_attention", "full_attention"]}),
            "\"chunked_attention\"",
        ),
        (
            "llama",
            json!({"layer_types": ["full_attention"]}),
            "layer_types has 1 entries",
        ),
        (
            "qwen3",
            json!({"layer_types": ["full_attention", "sliding_attention"]}),
            "needs use_sliding_window",
        ),
        (
            "llama",
            json!({"rope_parameters": {"rope_theta": "1000000.0"}}),
            "rope_parameters.rope_theta is \"1000000.0\"",
        ),
        ("gemma3", json!({}), "whose model_type is gemma3_text"),
        (
            "olmo3",
            json!({"layer_types": ["full_attention"]}),
            "layer_types has 1 entries",
        ),
        (
            "olmo3",
            json!({"layer_types": ["chunked_attention", "full_attention"]}),
            "\"chunked_attention\"",
        ),
        (
            "phi3",
            json!({"partial_rotary_factor": -0.5}),
            "partial_rotary_factor is -0.5",
        ),
        (
            "phi3",
            json!({"partial_rotary_factor": 0.1}),
            "rotates 0 of 6 numbers",
        ),
        (
            "phi3",
            json!({"partial_rotary_factor": 0.5}),
            "rotates 3 of 6 numbers",
        ),
        (
            "llama",
            json!({"rope_parameters": {"partial_rotary_factor": 0.5}}),
            "partial_rotary_factor is set",
        ),
        (
            "gemma3_text",
            json!({"hidden_activation": "relu"}),
            "hidden_activation \"relu\"",
        ),
        (
            "gemma3_text",
            json!({"final_logit_softcapping": 30.0}),
            "final_logit_softcapping is set",
        ),
        (
            "smollm3",
            json!({"no_rope_layers": [1]}),
            "no_rope_layers has 1 entries",
        ),
    ] {
        let error = with_keys(family, 2, more).expect_err("refused");
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
