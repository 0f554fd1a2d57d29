//! Prefill and decode speed, and the roofline limit: what a pass reads and computes against what
//! the hardware can do.

use super::options::BenchInference;
use super::report::InferenceRow;
use crate::bench::measure::median;
use agent::inference::device::Backend;
use agent::inference::limits::Limits;
use agent::inference::{KvCache, PolicyInference, Span, on_all_threads};
use agent::model::decoder::Precision;
use agent::model::folder::Model;
use scenarios::WeightFormat;
use std::time::Instant;
use trainer::TrainerError;

/// A model in one weight format.
pub(super) struct FormatUnderTest<'a> {
    pub(super) model: &'a Model,
    pub(super) name: &'a str,
    pub(super) weights: WeightFormat,
    pub(super) limits: Limits,
}

/// Measures prefill and decode at every batch size.
pub(super) fn measure(
    options: &BenchInference,
    tested: &FormatUnderTest<'_>,
    backend: &Backend,
) -> anyhow::Result<Vec<InferenceRow>> {
    let mut policy = tested.model.policy.clone();
    let config = &tested.model.config;
    let inference = PolicyInference::from_weights(config, &mut policy, tested.weights, backend)
        .and_then(|inference| inference.with_kv(options.kv))
        .map_err(TrainerError::from)?;
    let mut rows = Vec::new();
    for &batch in &options.batches {
        if !inference.trunk.is_on_host() {
            times(options, &inference, batch); // compiles and tunes the kernels
        }
        let readings: Vec<PassTimes> = (0..options.repetitions)
            .map(|_| on_all_threads(|| times(options, &inference, batch)))
            .collect();
        let prefill = median(readings.iter().map(|reading| reading.prefill).collect());
        let decode = median(readings.iter().map(|reading| reading.decode).collect());
        let prefill_limit =
            PassCost::of(&inference, batch, options.prompt, 0).seconds(&tested.limits);
        let middle = options.prompt + options.tokens / 2;
        let decode_limit = options.tokens as f64
            * PassCost::of(&inference, batch, 1, middle).seconds(&tested.limits);
        let speeds = [
            ("prefill", options.prompt, prefill, prefill_limit),
            ("decode", options.tokens, decode, decode_limit),
        ];
        rows.extend(speeds.map(|(what, tokens, seconds, limit)| InferenceRow {
            what,
            model: tested.name.into(),
            weights: tested.weights,
            batch,
            ours: (batch * tokens) as f64 / seconds,
            peer: None,
            peer_name: None,
            ratio: None,
            share_of_limit: Some(limit / seconds),
        }));
    }
    Ok(rows)
}

/// Returns the hardware limits for each weight format.
pub(super) fn limits(backend: &Backend, formats: &[WeightFormat]) -> Vec<(WeightFormat, Limits)> {
    match backend {
        Backend::Cpu => {
            let limits = Limits::measure();
            formats.iter().map(|format| (*format, limits)).collect()
        }
        Backend::Burn(device) => formats
            .iter()
            .map(|format| {
                let precision = Precision::of(*format).unwrap_or_default();
                (*format, Limits::of_device(device, precision))
            })
            .collect(),
    }
}

/// Times in seconds.
struct PassTimes {
    /// Of all prompts.
    prefill: f64,
    /// Of all further tokens.
    decode: f64,
}

/// Runs every prompt and then every further token, each with the logits of the last token of each
/// sequence.
fn times(options: &BenchInference, inference: &PolicyInference, batch: usize) -> PassTimes {
    let vocab = inference.trunk.config().vocab_size;
    let prompts: Vec<Vec<u32>> = (0..batch)
        .map(|sequence| {
            (0..options.prompt)
                .map(|position| token(sequence, position, vocab))
                .collect()
        })
        .collect();
    let mut caches: Vec<KvCache> = prompts.iter().map(|_| KvCache::default()).collect();
    let started = Instant::now();
    forward(inference, &prompts, &mut caches);
    let prefill = started.elapsed().as_secs_f64();
    let started = Instant::now();
    for position in options.prompt..options.prompt + options.tokens {
        let tokens: Vec<Vec<u32>> = (0..batch)
            .map(|sequence| vec![token(sequence, position, vocab)])
            .collect();
        forward(inference, &tokens, &mut caches);
    }
    PassTimes {
        prefill,
        decode: started.elapsed().as_secs_f64(),
    }
}

/// Returns a token id that differs between sequences and positions.
fn token(sequence: usize, position: usize, vocab: usize) -> u32 {
    ((7919 * position + 104_729 * sequence + 11) % vocab) as u32
}

fn forward(inference: &PolicyInference, tokens: &[Vec<u32>], caches: &mut [KvCache]) {
    let mut spans: Vec<Span<'_>> = tokens
        .iter()
        .zip(caches)
        .map(|(tokens, cache)| Span::new(tokens, cache))
        .collect();
    std::hint::black_box(inference.logprobs(&inference.trunk.last_states(&mut spans)));
}

/// What one pass reads from memory, in bytes, and computes, in floating-point operations.
struct PassCost {
    bytes: f64,
    operations: f64,
}

impl PassCost {
    /// The cost of `new` tokens in each of `batch` sequences with `before` cached tokens, and of
    /// the logits of the last token of each sequence.
    fn of(inference: &PolicyInference, batch: usize, new: usize, before: usize) -> Self {
        let config = inference.trunk.config();
        let rows = (batch * new) as f64;
        let layer = config.hidden_size * (2 * config.query_width() + 2 * config.kv_width())
            + 3 * config.hidden_size * config.intermediate_size;
        let matrices = (layer * config.num_hidden_layers) as f64 * rows;
        let logits = (config.hidden_size * config.vocab_size * batch) as f64;
        let attended = before as f64 + (new as f64 + 1.0) / 2.0;
        let attention =
            2.0 * rows * attended * (config.query_width() * config.num_hidden_layers) as f64;
        let cached = (batch * (before + new) * inference.trunk.bytes_per_token()) as f64;
        Self {
            bytes: inference.bytes() as f64 + cached,
            operations: 2.0 * (matrices + logits + attention),
        }
    }

    /// The least time that the hardware needs.
    fn seconds(&self, limits: &Limits) -> f64 {
        limits.seconds(self.bytes, self.operations)
    }
}
