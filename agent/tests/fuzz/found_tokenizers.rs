//! Tokenizers and templates that once failed, found by fuzzing or on the way to it.

use crate::readers::encode;
use crate::refusals::{folders, message, refused, vocabulary_size, with};
use crate::seeds::FileSet;
use agent::model::folder::Model;
use serde_json::{Value, json};
use std::path::Path;

/// The ids that the tokenizer of these files gives to a conversation.
fn ids(files: &FileSet) -> Vec<u32> {
    let mut ids = Vec::new();
    let open = |folder: &Path| Model::open(folder).map(|model| ids = encode(&model.tokenizer));
    assert_eq!(message(files, open), None);
    ids
}

/// Checks that the first folder is refused if its tokenizer has this value at a place.
fn refused_tokenizer(place: &str, value: Value, words: &str) {
    refused(
        &with(&folders()[0], "tokenizer.json", place, value),
        &[words],
    );
}

/// If these settings were used, the library would pad every text to a length, cut it to three tokens,
/// or repeat it with a stride.
#[test]
fn padding_and_truncation_of_a_tokenizer_are_ignored() {
    let files = &folders()[0];
    let padding = json!({
        "strategy": {"Fixed": 99_999_999_999_u64}, "direction": "Right", "pad_to_multiple_of": 7,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "x",
    });
    let truncation =
        json!({"max_length": 3, "stride": 9, "strategy": "LongestFirst", "direction": "Left"});
    assert_eq!(
        ids(&with(files, "tokenizer.json", "/padding", padding)),
        ids(files)
    );
    assert_eq!(
        ids(&with(files, "tokenizer.json", "/truncation", truncation)),
        ids(files)
    );
}

/// Each of these is a panic of the library, while it reads the file or at the first text.
#[test]
fn tokenizer_parts_that_panic_in_the_library_are_refused() {
    refused_tokenizer(
        "/normalizer",
        json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
        "normalizer: \"Precompiled\" is not supported",
    );
    refused_tokenizer(
        "/normalizer",
        json!({"type": "Prepend", "prepend": ""}),
        "normalizer: Prepend has 0 bytes",
    );
    refused_tokenizer(
        "/pre_tokenizer",
        json!({"type": "FixedLength", "length": 0}),
        "\"FixedLength\" is not supported",
    );
    let strip = json!({"type": "Strip", "content": " ", "start": 0, "stop": 1});
    refused_tokenizer(
        "/decoder",
        json!({"type": "Sequence", "decoders": [strip]}),
        "decoder: Strip at the end is not supported",
    );
    refused_tokenizer("/decoder", json!([]), "decoder: its type is missing");
    refused_tokenizer(
        "/model",
        json!({"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": ["a b"]}),
        "merge 0, \"a\" and \"b\", does not make a token of two",
    );
    let prefix = json!({
        "type": "BPE", "vocab": {"a": 0}, "merges": [["a", "a"]], "continuing_subword_prefix": "##",
    });
    refused_tokenizer(
        "/model",
        prefix,
        "continuing_subword_prefix \"##\" is not supported",
    );
    refused_tokenizer(
        "/model/unk_token",
        json!("nothing"),
        "unk_token \"nothing\" is not in the vocabulary",
    );
    refused_tokenizer(
        "/model/vocab/a",
        json!(u32::MAX),
        "token \"a\" has the id 4294967295",
    );
    refused_tokenizer("/model/dropout", json!(0.5), "dropout is not supported");
    let words = json!({
        "type": "WordLevel", "vocab": {"<|begin|>": 0, "<|agent|>": 1, "<|end|>": 2},
        "unk_token": "no",
    });
    refused_tokenizer(
        "/model",
        words,
        "unknown variant `WordLevel`, expected `BPE`",
    );
    refused_tokenizer(
        "/added_tokens/0/id",
        json!(7),
        "added token \"<|begin|>\" has the id 0, not 7",
    );
}

fn replace(pattern: Value, content: &str) -> Value {
    json!({"type": "Replace", "pattern": pattern, "content": content})
}

fn split(pattern: &str) -> Value {
    json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
}

/// If bytes are spelled as letters thirty times over, one letter becomes 2³⁰ letters; so do
/// replacements by longer texts. If a pattern repeats repetitions, it is compiled as often.
#[test]
fn tokenizer_parts_that_grow_without_bound_are_refused() {
    let bytes = json!({
        "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true,
    });
    let sequence = json!({"type": "Sequence", "pretokenizers": vec![bytes.clone(); 30]});
    refused_tokenizer(
        "/pre_tokenizer",
        sequence,
        "pre_tokenizer: more than 4 parts that make a text longer",
    );
    refused_tokenizer(
        "/normalizer",
        replace(json!({"String": "e"}), "ee"),
        "Replace by \"ee\" makes a text longer",
    );
    refused_tokenizer(
        "/normalizer",
        replace(json!({"Regex": ""}), "ee"),
        "Replace by \"ee\" makes a text longer",
    );
    refused_tokenizer(
        "/decoder",
        replace(json!({"String": ""}), "e"),
        "Replace by \"e\" makes a text longer",
    );
    refused_tokenizer(
        "/pre_tokenizer",
        split("((((a?){30}){30}){30})(?!b)"),
        "repeats too much",
    );
    refused_tokenizer(
        "/pre_tokenizer",
        split(&"x".repeat(3000)),
        "patterns of more than 2048 bytes",
    );
    let nested = (0..100).fold(
        bytes,
        |inner, _| json!({"type": "Sequence", "pretokenizers": [inner]}),
    );
    refused_tokenizer("/pre_tokenizer", nested, "");
}

/// An added token of the vocabulary's size and upwards, with a long text.
fn long_token(first_id: usize, index: usize) -> Value {
    let content = format!("{index}{}", "x".repeat(250));
    json!({
        "id": first_id + index, "content": content, "single_word": false, "lstrip": false,
        "rstrip": false, "normalized": false, "special": false,
    })
}

/// The automaton that finds added tokens took sixty times their bytes, and a second for each million
/// of them.
#[test]
fn long_added_tokens_take_no_memory() {
    let first = vocabulary_size(&folders()[0]);
    let added: Value = (0..20_000).map(|index| long_token(first, index)).collect();
    refused_tokenizer("/added_tokens", added, "bytes, 1048576 are allowed");
    let mut one = long_token(first, 0);
    one["content"] = json!("x".repeat(300));
    refused_tokenizer(
        "/added_tokens",
        json!([one]),
        "has 300 bytes; 1 to 256 bytes",
    );
}

/// If a token has no embedding, it would end an episode in a panic.
#[test]
fn a_tokenizer_with_more_tokens_than_the_model_is_refused() {
    let files = &folders()[0];
    refused(
        &with(files, "config.json", "/vocab_size", json!(100)),
        &["vocab_size", "100"],
    );
    let id = vocabulary_size(files);
    let added = json!([{
        "id": id, "content": "<new>", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": false,
    }]);
    refused(
        &with(files, "tokenizer.json", "/added_tokens", added),
        &["tokenizer.json", "vocab_size", &id.to_string()],
    );
}

/// A turn must begin with at least one token.
#[test]
fn frames_that_the_vocabulary_cannot_spell_are_refused() {
    let mut files = folders()[1].clone();
    files.insert(
        "tokenizer.json".into(),
        br#"{"model":{"vocab":{"<|im_end|>":0},"merges":[]}}"#.to_vec(),
    );
    files.insert(
        "chat_template.jinja".into(),
        b"{% for m in messages %}{{ m.content }}{% endfor %}".to_vec(),
    );
    refused(
        &files,
        &["the vocabulary has no token for the frames of a turn"],
    );
}

/// A template may repeat a long token. The texts of one, two and three turns were in memory at once.
#[test]
fn a_template_that_repeats_a_long_token_takes_no_memory() {
    let mut files = folders()[1].clone();
    let settings = json!({"bos_token": "x".repeat(100_000), "eos_token": "<|im_end|>"});
    files.insert(
        "tokenizer_config.json".into(),
        settings.to_string().into_bytes(),
    );
    files.insert(
        "chat_template.jinja".into(),
        "{{ bos_token }}".repeat(300).into_bytes(),
    );
    let open = |folder: &Path| {
        Model::open(folder).map(|model| {
            assert!(
                model
                    .companions
                    .reframed
                    .unwrap()
                    .contains("makes more than 8 MiB of text or lists")
            );
        })
    };
    assert_eq!(message(&files, open), None);
}
