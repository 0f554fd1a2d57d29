//! A real GGUF file, if there is one: SmolLM2-135M-Instruct against the package gguf (numbers) and
//! llama.cpp (token ids).

use agent::model::gguf::GgufFile;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// Made by `agent/tests/oracle/gguf_smollm2.py`.
const GOLDEN: &str = include_str!("../golden/gguf_smollm2.json");

/// The file that `HEARTH_SMOLLM2_GGUF` names. If the variable is not set, the test is skipped; with
/// `HEARTH_REQUIRE_ALL=1` that is a failure.
fn open() -> Option<GgufFile> {
    if let Some(path) = std::env::var_os("HEARTH_SMOLLM2_GGUF") {
        return Some(GgufFile::open(path.as_ref()).expect("opens"));
    }
    let reason = "HEARTH_SMOLLM2_GGUF does not name the GGUF file of SmolLM2-135M-Instruct";
    eprintln!("skipped: {reason}");
    let is_required = std::env::var_os("HEARTH_REQUIRE_ALL").is_some_and(|value| value == "1");
    assert!(!is_required, "HEARTH_REQUIRE_ALL=1, but {reason}");
    None
}

#[test]
fn smollm2_has_the_reference_numbers() {
    let Some(mut file) = open() else { return };
    let golden: Value = serde_json::from_str(GOLDEN).unwrap();
    let expected: BTreeMap<String, String> =
        serde_json::from_value(golden["tensors"].clone()).unwrap();
    let mut found = BTreeMap::new();
    for tensor in file.hf_tensors().unwrap() {
        let mut digest = Sha256::new();
        file.hf_tensor(&tensor)
            .unwrap()
            .iter()
            .for_each(|number| digest.update(number.to_le_bytes()));
        let hash = digest
            .finalize()
            .iter()
            .take(8)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        found.insert(tensor.name, hash);
    }
    assert_eq!(found, expected);
}

#[test]
fn smollm2_has_llama_cpps_token_ids() {
    let Some(file) = open() else { return };
    let golden: Value = serde_json::from_str(GOLDEN).unwrap();
    let texts: Vec<(String, Vec<u32>)> = serde_json::from_value(golden["texts"].clone()).unwrap();
    let tokenizer =
        tokenizers::Tokenizer::from_bytes(file.tokenizer().unwrap().to_string()).unwrap();
    for (text, ids) in texts {
        assert_eq!(
            tokenizer.encode(text.as_str(), true).unwrap().get_ids(),
            ids,
            "{text:?}"
        );
    }
}

#[test]
fn smollm2_has_the_config_of_its_authors() {
    let Some(mut file) = open() else { return };
    let config = file.config().unwrap();
    for (key, value) in [
        ("vocab_size", 49_152),
        ("hidden_size", 576),
        ("intermediate_size", 1536),
        ("num_hidden_layers", 30),
        ("num_attention_heads", 9),
        ("num_key_value_heads", 3),
        ("max_position_embeddings", 8192),
        ("bos_token_id", 1),
        ("eos_token_id", 2),
    ] {
        assert_eq!(config[key], value, "{key}");
    }
    assert_eq!(
        (&config["rope_theta"], &config["rms_norm_eps"]),
        (&1e5.into(), &1e-5.into())
    );
    assert_eq!(config["tie_word_embeddings"], true);
    assert!(
        file.chat_template()
            .unwrap()
            .unwrap()
            .contains("<|im_start|>")
    );
}
