//! A random decoder that writes the commands of corridors, and functions that play with it.

use crate::corridor::Corridors;
use agent::model::config::DecoderConfig;
use agent::model::folder::{Companions, Model};
use agent::model::weights::{HostTensor, VALUE_HEAD, Weights};
use agent::policy::Policy;
use agent::rollout::{Concurrency, EpisodeJob, play_episodes};
use agent::text::chat::MALFORMED_ANSWER;
use agent::text::tokenizer::Tokenizer;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use scenarios::{Protocol, Task, Trajectory};
use std::collections::BTreeSet;
use std::convert::Infallible;

/// Returns `repetitions` episodes of every task, each with its own seed.
#[must_use]
pub fn jobs(tasks: &[Task], repetitions: usize) -> Vec<EpisodeJob<'_>> {
    let mut jobs = Vec::new();
    for (index, task) in tasks.iter().enumerate() {
        jobs.extend((0..repetitions).map(|repetition| EpisodeJob {
            task,
            repetition,
            seed: (100 * index + repetition) as u64,
            forced: &[],
        }));
    }
    jobs
}

/// Plays the jobs in corridors. Returns the trajectories in the order of the jobs, with `seconds`
/// set to 0.
pub fn play(
    policy: &impl Policy,
    jobs: &[EpisodeJob<'_>],
    protocol: &Protocol,
    pool: Concurrency,
) -> Vec<Trajectory> {
    let mut played = Vec::new();
    let Ok(()) = play_episodes(
        policy,
        &Corridors::default(),
        jobs,
        protocol,
        pool,
        |trajectory| -> Result<(), Infallible> {
            played.push(Trajectory {
                seconds: 0.0,
                ..trajectory
            });
            Ok(())
        },
    );
    played.sort_by_key(|trajectory| {
        jobs.iter().position(|job| {
            job.task.id == trajectory.game && job.repetition == trajectory.repetition
        })
    });
    played
}

/// Returns a tokenizer that was trained on the texts of corridors.
#[must_use]
pub fn tokenizer() -> Tokenizer {
    let corridor =
        "You are in room 1 of 3.\n\nYour task is to walk east.\nNothing happens.\neast\nwest\nlook";
    Tokenizer::train([corridor, MALFORMED_ANSWER].repeat(8).into_iter(), 400).unwrap()
}

/// Returns a random two-layer decoder with a value network, which prefers commands and the end of
/// its turn.
#[must_use]
pub fn babbler(seed: u64) -> Model {
    let tokenizer = tokenizer();
    let config = DecoderConfig {
        vocab_size: tokenizer.vocab_size(),
        hidden_size: 16,
        intermediate_size: 24,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        max_position_embeddings: 512,
        ..DecoderConfig::default()
    };
    let mut policy = noise(&config, seed);
    let embedding = policy.0.get_mut("model.embed_tokens.weight").unwrap();
    embedding
        .data
        .chunks_exact_mut(config.hidden_size)
        .for_each(|row| row[0] = 1.0);
    for (ids, preference) in [
        (tokenizer.encode("east"), 3.4),
        (tokenizer.encode("look"), 2.8),
        (vec![tokenizer.end], 3.5),
    ] {
        assert_eq!(ids.len(), 1, "a command is one token");
        embedding.data[ids[0] as usize * config.hidden_size] = preference;
    }
    let mut value = noise(&config, seed + 1);
    let head = HostTensor {
        shape: vec![1, config.hidden_size],
        data: (0..config.hidden_size)
            .map(|i| (i as f32).sin() / 4.0)
            .collect(),
    };
    value.0.insert(VALUE_HEAD.into(), head);
    Model {
        config,
        tokenizer,
        policy,
        value: Some(value),
        text_versions: BTreeSet::new(),
        companions: Companions::default(),
    }
}

/// Returns random weights of which none is zero, so that each of them matters.
#[must_use]
pub fn noise(config: &DecoderConfig, seed: u64) -> Weights {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut tensors = Vec::new();
    for (name, shape) in config.tensors() {
        let size: usize = shape.iter().product();
        let is_norm = shape.len() == 1;
        let writes_the_stream =
            name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight");
        let spread = if is_norm || writes_the_stream {
            0.2
        } else {
            0.6
        };
        let centre = if is_norm { 1.0 } else { 0.0 };
        let data = (0..size)
            .map(|_| centre + spread * (rng.random::<f32>() - 0.5))
            .collect();
        tensors.push((name, HostTensor { shape, data }));
    }
    Weights(tensors.into_iter().collect())
}
