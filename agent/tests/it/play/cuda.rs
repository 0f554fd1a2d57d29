//! Play on a GPU, compared with play on the CPU. These tests need the feature `cuda` and an NVIDIA
//! GPU:
//!
//! ```text
//! cargo test --release -p agent --features cuda --test it cuda -- --ignored
//! ```

use super::best_of;
use agent::inference::device::{Backend, DeviceChoice};
use agent::inference::{KvCache, PolicyInference, Span};
use agent::policy::lm::{LmPolicy, LoadOptions, ValueUse};
use agent::rollout::Concurrency;
use scenarios::WeightFormat;
use support::corridor::{babbler, jobs, play, task};

fn gpu() -> Backend {
    DeviceChoice::Cuda(0).backend().unwrap()
}

/// Log-probabilities after prompts of many lengths read together, and after three more tokens of
/// each, one by one.
fn logprobs(backend: &Backend, format: WeightFormat) -> Vec<f32> {
    let model = babbler(31);
    let vocab = model.config.vocab_size;
    let policy =
        PolicyInference::from_weights(&model.config, &mut model.policy.clone(), format, backend)
            .unwrap();
    let prompt = |length: usize| {
        (0..length)
            .map(|at| ((at * 31 + length * 7) % vocab) as u32)
            .collect::<Vec<u32>>()
    };
    let mut texts: Vec<Vec<u32>> = [1, 5, 33, 64, 200].map(prompt).into();
    let mut caches: Vec<KvCache> = texts.iter().map(|_| KvCache::default()).collect();
    let mut found = Vec::new();
    for round in 0..4 {
        let mut spans: Vec<Span<'_>> = texts
            .iter()
            .zip(&mut caches)
            .map(|(tokens, cache)| Span::new(tokens, cache))
            .collect();
        found.extend(policy.logprobs(&policy.trunk.last_states(&mut spans)));
        texts = (0..texts.len())
            .map(|sequence| vec![((sequence * 11 + round * 3) % vocab) as u32])
            .collect();
    }
    found
}

/// The tolerances are in nats. On a GPU, f32 products may be computed in TF32, whose mantissa has
/// ten bits; that of bf16 has seven.
#[test]
#[ignore = "needs an NVIDIA GPU"]
fn the_gpu_has_the_logprobs_of_the_cpu() {
    let gpu = gpu();
    for (format, tolerance) in [(WeightFormat::Exact, 1e-2), (WeightFormat::Bf16, 1e-1)] {
        let found = logprobs(&gpu, format);
        let expected = logprobs(&Backend::Cpu, format);
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            assert!(
                (found - expected).abs() < tolerance,
                "{format:?}: {found}, on the CPU {expected}"
            );
        }
    }
}

/// Rounding may change a sampled token, so episodes are not compared. Each is played to its end,
/// and logs the distributions that it was sampled from.
#[test]
#[ignore = "needs an NVIDIA GPU"]
fn episodes_are_played_on_the_gpu() {
    let tasks = ["plain/1", "plain/2", "plain/9"].map(task);
    let player = LmPolicy::new(
        babbler(32),
        LoadOptions {
            backend: gpu(),
            ..ValueUse::Score.into()
        },
    )
    .unwrap();
    let played = play(
        &player,
        &jobs(&tasks, 8),
        &best_of(3),
        Concurrency {
            workers: 2,
            episodes: 24,
        },
    );
    assert_eq!(played.len(), 24);
    for turn in played.iter().flat_map(|trajectory| &trajectory.turns) {
        assert_eq!(turn.logprobs.len(), turn.completion_tokens.len());
        assert!(
            turn.logprobs
                .iter()
                .all(|logprob| (-50.0..=0.0).contains(logprob))
        );
        assert!(
            turn.value.is_some_and(f32::is_finite) && turn.after_value.is_some_and(f32::is_finite)
        );
    }
}
