//! A real GGUF file, if there is one: SmolLM2-135M-Instruct against the package gguf (numbers) and
//! llama.cpp (token ids).

use agent::model::gguf::GgufFile;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// Made by `agent/tests/oracle/gguf_smollm2.py`.
const GOLDEN: &str = include_str!("../golden/gguf_smollm2.json");

/// The file that `HEARTH_SMOLLM2_GGUF` names.
fn open() -> GgufFile {
    let path = std::env::var_os("HEARTH_SMOLLM2_GGUF")
        .expect("HEARTH_SMOLLM2_GGUF names the GGUF file of SmolLM2-135M-Instruct");
    GgufFile::open(path.as_ref()).expect("opens")
}

#[test]
#[ignore = "needs SmolLM2-135M-Instruct as GGUF, named by HEARTH_SMOLLM2_GGUF"]
fn smollm2_has_the_reference_numbers() {
    let mut file = open();
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
#[ignore = "needs SmolLM2-135M-Instruct as GGUF, named by HEARTH_SMOLLM2_GGUF"]
fn smollm2_has_llama_cpps_token_ids() {
    let file = open();
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
#[ignore = "needs SmolLM2-135M-Instruct as GGUF, named by HEARTH_SMOLLM2_GGUF"]
fn smollm2_has_the_config_of_its_authors() {
    let mut file = open();
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
