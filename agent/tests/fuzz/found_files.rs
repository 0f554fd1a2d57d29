//! Weights, configs and GGUF files that once failed, found by fuzzing or on the way to it.

use crate::refusals::{folders, message, refused, with};
use crate::seeds::{self, FileSet};
use agent::model::folder::Model;
use serde_json::json;
use std::path::Path;

/// If a key is defined twice, one reader of JSON takes the first value and another the last.
#[test]
fn a_key_that_is_defined_twice_is_refused() {
    let files = &folders()[0];
    let mut twice = files.clone();
    let text = String::from_utf8(files["tokenizer.json"].clone()).unwrap();
    let decoder = r#""decoder":{"type":"Fuse","type":"CTC"},"ignored":"#;
    twice.insert(
        "tokenizer.json".into(),
        text.replace("\"decoder\":", decoder).into_bytes(),
    );
    refused(&twice, &["\"type\" is defined twice"]);
    let header = br#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#;
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header, &[0; 8]].concat();
    let mut twice = files.clone();
    twice.insert("model.safetensors".into(), bytes);
    refused(&twice, &["tensor \"a\" is defined twice"]);
}

/// The names of sixteen million layers took two gigabytes before the weights were compared with
/// them.
#[test]
fn impossible_layers_and_contexts_take_no_memory() {
    for files in &folders()[..2] {
        refused(
            &with(files, "config.json", "/num_hidden_layers", json!(1 << 24)),
            &["num_hidden_layers is 16777216, and must be at most 4096"],
        );
        let wide = with(files, "config.json", "/head_dim", json!(1 << 20));
        refused(
            &with(
                &wide,
                "config.json",
                "/max_position_embeddings",
                json!(1 << 20),
            ),
            &["max_position_embeddings", "head_dim", "is above 268435456"],
        );
    }
}

/// If a long list is in the place of a small value, it was held in memory, at many times its size,
/// before it was refused.
#[test]
fn long_lists_in_small_places_take_no_memory() {
    let zeros = format!("[{}0]", "0,".repeat(7 << 20)).into_bytes();
    let files = &folders()[1];
    for place in ["bos_token", "chat_template"] {
        let mut long = files.clone();
        let text = [format!("{{\"{place}\":").as_bytes(), &zeros, b"}"].concat();
        long.insert("tokenizer_config.json".into(), text);
        refused(&long, &["tokenizer_config.json: invalid type: "]);
    }
    for (place, words) in [("normalizer", "more than 256 settings"), ("padding", "")] {
        let text = String::from_utf8(files["tokenizer.json"].clone()).unwrap();
        let value = format!(
            "\"{place}\":{},\"ignored\":",
            String::from_utf8_lossy(&zeros)
        );
        let mut long = files.clone();
        long.insert(
            "tokenizer.json".into(),
            text.replace(&format!("\"{place}\":"), &value).into_bytes(),
        );
        match words {
            "" => assert_eq!(message(&long, Model::open), None),
            words => refused(&long, &[words]),
        }
    }
    let mut long = files.clone();
    long.insert(
        "config.json".into(),
        [b"{\"a\":", &zeros[..], b"}"].concat(),
    );
    refused(&long, &["and such a file at most 1048576"]);
    for header in [
        [b"{\"a\":", &zeros[..7 << 20], b"0]}"].concat(),
        [b"{\"a\":", &zeros[..], b"}"].concat(),
    ] {
        let mut long = folders()[0].clone();
        long.insert(
            "model.safetensors".into(),
            [&(header.len() as u64).to_le_bytes()[..], &header].concat(),
        );
        refused(&long, &["header"]);
    }
}

/// Types, keys and names of a file are quoted in messages.
#[test]
fn a_file_cannot_control_the_terminal() {
    let files = &folders()[1];
    refused(
        &with(
            files,
            "config.json",
            "/model_type",
            json!("\x1b[2J\u{202e}".repeat(10_000)),
        ),
        &["… (of "],
    );
    let index = json!({"weight_map": {"a": "\x1b]0;owned\x07"}})
        .to_string()
        .into_bytes();
    let mut shards = files.clone();
    shards.insert("model.safetensors.index.json".into(), index);
    refused(&shards, &["\\u{1b}]0;owned\\u{7}"]);
    let mut template = files.clone();
    template.insert(
        "chat_template.jinja".into(),
        b"{{ raise_exception('\x1b[31m') }}".to_vec(),
    );
    assert_eq!(
        message(&template, |folder| {
            Model::open(folder)
                .map(|model| assert!(model.companions.reframed.unwrap().contains("\\u{1b}[31m")))
        }),
        None
    );
}

/// A message quoted a list of a hundred megabytes number by number.
#[test]
fn a_gguf_is_not_quoted_at_length() {
    let mut gguf = seeds::ggufs().swap_remove(0);
    let many = [
        &9_u32.to_le_bytes()[..],
        &0_u32.to_le_bytes(),
        &(16_u64 << 20).to_le_bytes(),
        &vec![200; 16 << 20],
    ]
    .concat();
    gguf.values.push(("llama.expert_count".into(), many));
    let files = FileSet::from([("model.gguf".into(), gguf.bytes())]);
    let message = message(&files, |folder| {
        Model::open_gguf(&folder.join("model.gguf"))
    })
    .unwrap();
    assert!(
        message.ends_with("metadata llama.expert_count is not a number"),
        "{message}"
    );
}

/// If the chat template in a GGUF file was not Jinja, the message named `tokenizer_config.json`,
/// which does not exist.
#[test]
fn the_message_about_a_damaged_template_names_the_gguf() {
    let mut gguf = seeds::ggufs().swap_remove(0);
    let template = gguf
        .values
        .iter_mut()
        .find(|(key, _)| key == "tokenizer.chat_template")
        .unwrap();
    template.1 = [&8_u32.to_le_bytes()[..], &5_u64.to_le_bytes(), b"{{ , "].concat();
    let files = FileSet::from([("model.gguf".into(), gguf.bytes())]);
    let message = message(&files, |folder| {
        Model::open_gguf(&folder.join("model.gguf"))
    })
    .unwrap();
    assert!(
        message.contains("model.gguf: chat template: line 1: "),
        "{message}"
    );
}

/// If a name is not a regular file (a device, a pipe), it is not opened.
#[cfg(unix)]
#[test]
fn only_regular_files_are_opened() {
    for name in [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "model.safetensors.index.json",
        "model-1.safetensors",
    ] {
        let mut files = folders()[1].clone();
        files.remove(name);
        let link = |folder: &Path| {
            std::os::unix::fs::symlink("/dev/zero", folder.join(name)).unwrap();
            Model::open(folder)
        };
        let message = message(&files, link).unwrap();
        assert!(
            message.ends_with(&format!("{name}: it is not a regular file")),
            "{message}"
        );
    }
}
