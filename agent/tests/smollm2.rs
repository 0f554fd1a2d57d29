//! A real checkpoint, where there is one: SmolLM2-135M-Instruct holds the ids, the chat, the logits and the words that
//! transformers has for it.
//!
//! ```text
//! HEARTH_SMOLLM2_GGUF=SmolLM2-135M-Instruct.Q4_1.gguf cargo test --release -p agent --test smollm2
//! ```

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use agent::inference::device::Backend;
use agent::inference::sample::Sampling;
use agent::inference::{KvCache, PolicyInference, Span};
use agent::model::folder::Model;
use agent::text::chat::{self, Place};
use rand::{SeedableRng, rngs::StdRng};
use scenarios::WeightFormat;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Made by `agent/tests/oracle/smollm2.py`.
const GOLDEN: &str = include_str!("golden/smollm2.json");

#[derive(Deserialize)]
struct Golden {
    texts: Vec<Text>,
    /// Observation, command, observation.
    turns: [String; 3],
    chat: String,
    prompt: Vec<u32>,
    logit_ids: Vec<usize>,
    /// By place in the prompt.
    logits: BTreeMap<String, Vec<f32>>,
    continuation: Vec<u32>,
    /// Between the two best logits, before each token of the continuation.
    gaps: Vec<f32>,
}

#[derive(Deserialize)]
struct Text {
    text: String,
    ids: Vec<u32>,
}

fn golden() -> Golden {
    serde_json::from_str(GOLDEN).unwrap()
}

fn open() -> Option<Model> {
    let Some(path) = std::env::var_os("HEARTH_SMOLLM2_GGUF") else {
        println!(
            "skipped: HEARTH_SMOLLM2_GGUF does not name the GGUF file of SmolLM2-135M-Instruct"
        );
        return None;
    };
    Some(Model::open_gguf(path.as_ref()).unwrap())
}

#[test]
fn texts_and_turns_have_the_ids_of_transformers() {
    let Some(Model { tokenizer, .. }) = open() else {
        return;
    };
    let golden = golden();
    for Text { text, ids } in &golden.texts {
        assert_eq!(tokenizer.encode(text), *ids, "{text:?}");
    }
    let [first, command, second] = &golden.turns;
    let mut tokens = chat::observation_tokens(&tokenizer, first, Place::Opening);
    tokens.extend(chat::completion_tokens(&tokenizer, command));
    tokens.extend(chat::observation_tokens(
        &tokenizer,
        second,
        Place::AfterEnd,
    ));
    assert_eq!(tokens, golden.prompt);
    let frames = tokenizer.frames();
    let rendered = [
        &frames.opening,
        first,
        &frames.answer,
        command,
        &frames.end,
        &frames.between,
        second,
        &frames.answer,
    ];
    assert_eq!(rendered.map(String::as_str).concat(), golden.chat);
}

/// Logits within 1e-4 of the largest, and the same 64 tokens, or another where the two best lie within 1e-3.
#[test]
fn the_prompt_has_the_logits_and_the_continuation_of_transformers() {
    if cfg!(debug_assertions) {
        println!("skipped: 19 thousand million multiplications take minutes without --release");
        return;
    }
    let Some(mut model) = open() else { return };
    let golden = golden();
    let engine = PolicyInference::from_weights(
        &model.config,
        &mut model.policy,
        WeightFormat::Exact,
        &Backend::Cpu,
    )
    .unwrap();
    let (width, vocab) = (model.config.hidden_size, model.config.vocab_size);
    let mut cache = KvCache::default();
    let hidden = engine
        .trunk
        .extend(&mut [Span::new(&golden.prompt, &mut cache)]);
    for (place, expected) in &golden.logits {
        let place: i64 = place.parse().unwrap();
        let row = usize::try_from(place).unwrap_or(golden.prompt.len() - 1);
        let found = engine.logprobs(&hidden[row * width..][..width]);
        let largest = expected
            .iter()
            .fold(0.0_f32, |most, logit| most.max(logit.abs()));
        // Log-probabilities are logits less their normalizer, so differences of both are the same.
        for (id, logit) in golden.logit_ids.iter().zip(expected) {
            let (found, expected) = (found[*id] - found[golden.logit_ids[0]], logit - expected[0]);
            assert!(
                (found - expected).abs() < 1e-4 * largest,
                "{found} and {expected} at {place}, id {id}"
            );
        }
    }
    let mut last = engine.logprobs(&hidden[hidden.len() - width..]);
    let mut rng = StdRng::seed_from_u64(1);
    for (place, (expected, gap)) in golden.continuation.iter().zip(&golden.gaps).enumerate() {
        let token = Sampling::GREEDY.draw(&last[..vocab], &mut rng).token;
        if token != *expected {
            assert!(
                *gap < 1e-3,
                "token {place} is {token}, not {expected}, which led by {gap}"
            );
            return;
        }
        let hidden = engine.trunk.extend(&mut [Span::new(&[token], &mut cache)]);
        last = engine.logprobs(&hidden);
    }
}
