//! The decoder of every family against transformers: logits and greedy continuations recorded by
//! `tests/oracle/families.py`, with weights that both sides compute from one formula.

use agent::inference::device::Backend;
use agent::inference::sample::Sampling;
use agent::inference::{KvCache, PolicyInference, Span};
use agent::model::config::{DecoderConfig, Family};
use agent::model::decoder::Decoder;
use agent::model::weights::Weights;
use burn::tensor::{Int, Tensor, TensorData};
use scenarios::WeightFormat;
use serde::Deserialize;
use serde_json::{Map, Value};
use support::device::device;

#[derive(Deserialize)]
struct FamilyCase {
    name: String,
    config: Map<String, Value>,
    prompt: Vec<u32>,
    /// Logits after the first token, and after the prompt.
    first: Vec<f32>,
    last: Vec<f32>,
    continuation: Vec<u32>,
    /// Difference between the best and the second best logit, for each token of `continuation`.
    gaps: Vec<f32>,
}

fn cases() -> Vec<FamilyCase> {
    serde_json::from_str(include_str!("../golden/families.json")).unwrap()
}

/// Every weight of a checkpoint is computed from its place: element i of tensor k, with the names in order.
fn weights(config: &DecoderConfig) -> Weights {
    let mut weights = Weights::random(config, 1).packed(config).into_owned();
    let are_minus_one = config.family == Family::Gemma3;
    for (k, (name, tensor)) in weights.0.iter_mut().enumerate() {
        for (i, number) in tensor.data.iter_mut().enumerate() {
            *number = weight(name, &tensor.shape, k, i);
            if are_minus_one && name.ends_with("norm.weight") {
                *number -= 1.0;
            }
        }
    }
    weights.unpack(config).unwrap();
    weights
}

fn weight(name: &str, shape: &[usize], k: usize, i: usize) -> f32 {
    let place = (k as u64 * 7919 + i as u64) * 2_654_435_761 % (1 << 32);
    let noise = place as f64 / 4_294_967_296.0 - 0.5;
    let value = match shape[..] {
        [_] if name.ends_with("norm.weight") => 1.0 + 0.4 * noise,
        [_, inputs] => 3.0 * noise / (inputs as f64).sqrt(),
        _ => 0.5 * noise,
    };
    value as f32
}

/// Checks that logits differ by less than 1e-4 of the largest.
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

/// The config without the keys that it was read from.
fn bare(config: DecoderConfig) -> DecoderConfig {
    DecoderConfig {
        source: Map::new(),
        ..config
    }
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
fn every_family_is_recorded() {
    let names: Vec<String> = cases().into_iter().map(|case| case.name).collect();
    for family in [
        "llama",
        "llama, llama3",
        "llama, yarn",
        "llama, longrope",
        "qwen2",
        "qwen2, tied",
        "qwen3",
        "qwen3, tied",
        "mistral",
        "mistral, window",
        "mistral, short window",
        "qwen2, some windows",
        "gemma3",
        "gemma3, untied",
        "phi3",
        "phi3, longrope",
        "olmo2",
        "olmo3",
        "smollm3",
        "granite",
        "minicpm",
        "hearth, goal match",
        "hearth, n-grams",
        "hearth, convolution",
        "hearth, all, tied",
    ] {
        assert!(
            names.iter().any(|name| name == family),
            "{family} is not among {names:?}"
        );
    }
}

#[test]
fn the_training_decoder_has_the_logits_of_transformers() {
    for case in cases() {
        let config = DecoderConfig::from_hugging_face(case.config).unwrap();
        let decoder = Decoder::from_weights(&config, &weights(&config), &device()).unwrap();
        let ids: Vec<i32> = case
            .prompt
            .iter()
            .map(|id| i32::try_from(*id).unwrap())
            .collect();
        let tokens =
            Tensor::<2, Int>::from_data(TensorData::new(ids, [1, case.prompt.len()]), &device());
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
fn the_inference_decoder_has_the_logits_and_continuations_of_transformers() {
    for case in cases() {
        let config = DecoderConfig::from_hugging_face(case.config).unwrap();
        let inference = PolicyInference::from_weights(
            &config,
            &mut weights(&config),
            WeightFormat::Exact,
            &Backend::Cpu,
        )
        .unwrap();
        let mut cache = KvCache::default();
        let hidden = inference
            .trunk
            .extend(&mut [Span::new(&case.prompt, &mut cache)]);
        let all = inference.logprobs(&hidden);
        assert_close(
            &case.name,
            &all[..config.vocab_size],
            &logprobs(&case.first),
        );
        let mut last = all[all.len() - config.vocab_size..].to_vec();
        assert_close(&case.name, &last, &logprobs(&case.last));
        for (place, (expected, gap)) in case.continuation.iter().zip(&case.gaps).enumerate() {
            let token = Sampling::GREEDY.draw(&last, 0.0).token;
            if token != *expected {
                assert!(
                    *gap < 1e-3,
                    "{}: token {place} is {token}, not {expected}, which led by {gap}",
                    case.name
                );
                break;
            }
            let hidden = inference
                .trunk
                .extend(&mut [Span::new(&[token], &mut cache)]);
            last = inference.logprobs(&hidden);
        }
    }
}

/// If the config of a family is written and read again, it is the same.
#[test]
fn configs_round_trip() {
    for case in cases() {
        let config = DecoderConfig::from_hugging_face(case.config.clone()).unwrap();
        let again = DecoderConfig::from_hugging_face(config.to_hugging_face()).unwrap();
        assert_eq!(bare(again), bare(config), "{}", case.name);
    }
}
