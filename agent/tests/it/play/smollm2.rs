//! A real checkpoint: SmolLM2-135M-Instruct gives the token ids, the chat, the logits and the
//! continuation that transformers gives for it.
//!
//! ```text
//! HEARTH_SMOLLM2_GGUF=SmolLM2-135M-Instruct.Q4_1.gguf cargo test --release -p agent --test it smollm2 -- --ignored
//! ```

use agent::inference::device::Backend;
use agent::inference::sample::Sampling;
use agent::inference::{KvCache, PolicyInference, Span};
use agent::model::folder::Model;
use agent::text::chat::{self, PromptPosition};
use scenarios::WeightFormat;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Made by `agent/tests/oracle/smollm2.py`.
const GOLDEN: &str = include_str!("../../golden/smollm2.json");

#[derive(Deserialize)]
struct SmolLm2Golden {
    texts: Vec<TokenizedText>,
    /// Observation, command, observation.
    turns: [String; 3],
    chat: String,
    prompt: Vec<u32>,
    logit_ids: Vec<usize>,
    /// By position in the prompt.
    logits: BTreeMap<String, Vec<f32>>,
    continuation: Vec<u32>,
    /// The difference of the two highest logits, before each token of the continuation.
    gaps: Vec<f32>,
}

#[derive(Deserialize)]
struct TokenizedText {
    text: String,
    ids: Vec<u32>,
}

fn golden() -> SmolLm2Golden {
    serde_json::from_str(GOLDEN).unwrap()
}

fn open() -> Model {
    let path = std::env::var_os("HEARTH_SMOLLM2_GGUF")
        .expect("HEARTH_SMOLLM2_GGUF must name the GGUF file of SmolLM2-135M-Instruct");
    Model::open_gguf(path.as_ref()).unwrap()
}

#[test]
#[ignore = "needs SmolLM2-135M-Instruct: HEARTH_SMOLLM2_GGUF"]
fn texts_and_turns_have_the_ids_of_transformers() {
    let Model { tokenizer, .. } = open();
    let golden = golden();
    for TokenizedText { text, ids } in &golden.texts {
        assert_eq!(tokenizer.encode(text), *ids, "{text:?}");
    }
    let [first, command, second] = &golden.turns;
    let mut tokens = chat::observation_tokens(&tokenizer, first, PromptPosition::Opening);
    tokens.extend(chat::completion_tokens(&tokenizer, command));
    tokens.extend(chat::observation_tokens(
        &tokenizer,
        second,
        PromptPosition::AfterEnd,
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

/// The logits differ by less than 1e-4 of the largest. The 64 tokens are the same, unless the two
/// highest logits differ by less than 1e-3.
#[test]
#[ignore = "needs SmolLM2-135M-Instruct: HEARTH_SMOLLM2_GGUF; takes minutes without --release"]
fn the_prompt_has_the_logits_and_the_continuation_of_transformers() {
    let mut model = open();
    let golden = golden();
    let policy = PolicyInference::from_weights(
        &model.config,
        &mut model.policy,
        WeightFormat::Exact,
        &Backend::Cpu,
    )
    .unwrap();
    let width = model.config.hidden_size;
    let vocab = model.config.vocab_size;
    let mut cache = KvCache::default();
    let hidden = policy
        .trunk
        .extend(&mut [Span::new(&golden.prompt, &mut cache)]);
    for (place, expected) in &golden.logits {
        let place: i64 = place.parse().unwrap();
        let row = usize::try_from(place).unwrap_or(golden.prompt.len() - 1);
        let found = policy.logprobs(&hidden[row * width..][..width]);
        let largest = expected
            .iter()
            .fold(0.0_f32, |most, logit| most.max(logit.abs()));
        // Log-probabilities are logits minus their normalizer, so the differences of both are the
        // same.
        for (id, logit) in golden.logit_ids.iter().zip(expected) {
            let found = found[*id] - found[golden.logit_ids[0]];
            let expected = logit - expected[0];
            assert!(
                (found - expected).abs() < 1e-4 * largest,
                "{found} and {expected} at {place}, id {id}"
            );
        }
    }
    let mut last = policy.logprobs(&hidden[hidden.len() - width..]);
    for (place, (expected, gap)) in golden.continuation.iter().zip(&golden.gaps).enumerate() {
        let token = Sampling::GREEDY.draw(&last[..vocab], 0.0).token;
        if token != *expected {
            assert!(
                *gap < 1e-3,
                "token {place} is {token}, not {expected}, which led by {gap}"
            );
            return;
        }
        let hidden = policy.trunk.extend(&mut [Span::new(&[token], &mut cache)]);
        last = policy.logprobs(&hidden);
    }
}
