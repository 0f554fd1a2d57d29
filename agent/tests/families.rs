//! The decoder of every family against transformers: logits and greedy continuations recorded by
//! `tests/oracle/families.py`, on weights that both sides make by one formula.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use agent::inference::device::Backend;
use agent::inference::sample::Sampling;
use agent::inference::{KvCache, PolicyInference, Span};
use agent::model::config::DecoderConfig;
use agent::model::decoder::Decoder;
use agent::model::weights::{HostTensor, Weights};
use burn::tensor::{Device, Int, Tensor, TensorData};
use rand::{SeedableRng, rngs::StdRng};
use scenarios::WeightFormat;
use serde::Deserialize;
use serde_json::{Map, Value};

#[derive(Deserialize)]
struct Case {
    name: String,
    config: Map<String, Value>,
    prompt: Vec<u32>,
    /// Logits after the first token, and after the prompt.
    first: Vec<f32>,
    last: Vec<f32>,
    continuation: Vec<u32>,
    /// By how much the best logit led.
    gaps: Vec<f32>,
}

fn cases() -> Vec<Case> {
    serde_json::from_str(include_str!("golden/families.json")).unwrap()
}

/// Every weight by its place: tensor k of the names in order, element i.
fn weights(config: &DecoderConfig) -> Weights {
    let mut tensors = config.tensors();
    tensors.sort();
    let fill = |(k, (name, shape)): (usize, (String, Vec<usize>))| {
        let value = |i: usize| {
            let place = (k as u64 * 7919 + i as u64) * 2_654_435_761 % (1 << 32);
            let noise = place as f64 / 4_294_967_296.0 - 0.5;
            let value = match shape[..] {
                [_] if name.ends_with("norm.weight") => 1.0 + 0.4 * noise,
                [_, inputs] => 3.0 * noise / (inputs as f64).sqrt(),
                _ => 0.5 * noise,
            };
            value as f32
        };
        let data = (0..shape.iter().product()).map(value).collect();
        (name, HostTensor { shape, data })
    };
    Weights(tensors.into_iter().enumerate().map(fill).collect())
}

/// Within 1e-4 of the largest logit.
fn assert_close(name: &str, found: &[f32], expected: &[f32]) {
    let largest = expected
        .iter()
        .fold(0.0f32, |largest, logit| largest.max(logit.abs()));
    let worst = found
        .iter()
        .zip(expected)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert_eq!(found.len(), expected.len());
    assert!(
        worst < 1e-4 * largest,
        "{name}: off by {worst}, the largest is {largest}"
    );
}

/// Log-probabilities of recorded logits.
fn logprobs(logits: &[f32]) -> Vec<f32> {
    let total: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
    logits
        .iter()
        .map(|logit| (f64::from(*logit) - total.ln()) as f32)
        .collect()
}

#[test]
fn every_family_is_there() {
    let names: Vec<String> = cases().into_iter().map(|case| case.name).collect();
    for family in [
        "llama",
        "llama, llama3",
        "llama, yarn",
        "llama, longrope",
        "qwen2",
        "qwen2, tied",
        "minicpm",
    ] {
        assert!(
            names.iter().any(|name| name == family),
            "{family} is not among {names:?}"
        );
    }
}

#[test]
fn the_decoder_that_learns_has_the_logits_of_transformers() {
    for case in cases() {
        let config = DecoderConfig::from_hugging_face(case.config).unwrap();
        let decoder = Decoder::from_weights(&config, &weights(&config), &Device::flex()).unwrap();
        let ids: Vec<i32> = case
            .prompt
            .iter()
            .map(|id| i32::try_from(*id).unwrap())
            .collect();
        let tokens = Tensor::<2, Int>::from_data(
            TensorData::new(ids, [1, case.prompt.len()]),
            &Device::flex(),
        );
        let hidden = decoder
            .hidden(tokens)
            .reshape([case.prompt.len(), config.hidden_size]);
        let logits = decoder
            .logits(hidden)
            .into_data()
            .try_to_vec::<f32>()
            .unwrap();
        assert_close(&case.name, &logits[..config.vocab_size], &case.first);
        assert_close(
            &case.name,
            &logits[logits.len() - config.vocab_size..],
            &case.last,
        );
    }
}

#[test]
fn the_decoder_that_plays_has_the_logits_of_transformers_and_says_what_it_says() {
    for case in cases() {
        let config = DecoderConfig::from_hugging_face(case.config).unwrap();
        let engine = PolicyInference::from_weights(
            &config,
            &mut weights(&config),
            WeightFormat::Exact,
            &Backend::Cpu,
        )
        .unwrap();
        let mut cache = KvCache::default();
        let mut rng = StdRng::seed_from_u64(1);
        let hidden = engine
            .trunk
            .extend(&mut [Span::new(&case.prompt, &mut cache)]);
        let all = engine.logprobs(&hidden);
        assert_close(
            &case.name,
            &all[..config.vocab_size],
            &logprobs(&case.first),
        );
        let mut last = all[all.len() - config.vocab_size..].to_vec();
        assert_close(&case.name, &last, &logprobs(&case.last));
        for (place, (expected, gap)) in case.continuation.iter().zip(&case.gaps).enumerate() {
            let token = Sampling::GREEDY.draw(&last, &mut rng).token;
            if token != *expected {
                assert!(
                    *gap < 1e-3,
                    "{}: token {place} is {token}, not {expected}, which led by {gap}",
                    case.name
                );
                break;
            }
            let hidden = engine.trunk.extend(&mut [Span::new(&[token], &mut cache)]);
            last = engine.logprobs(&hidden);
        }
    }
}

/// A model folder of every family comes back as it was written, and keeps what transformers wrote into its config.
#[test]
fn configs_come_back() {
    for case in cases() {
        let config = DecoderConfig::from_hugging_face(case.config.clone()).unwrap();
        let again = DecoderConfig::from_hugging_face(config.to_hugging_face()).unwrap();
        let bare = |config: DecoderConfig| DecoderConfig {
            source: Map::new(),
            ..config
        };
        assert_eq!(bare(again), bare(config), "{}", case.name);
    }
}
