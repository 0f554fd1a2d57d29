//! Token exactness: if the decoder of the trainer reads the logged ids through
//! [`trainer::learn::batch`], it computes the log-probabilities and values that the inference
//! backend has logged.

use agent::model::decoder::{Decoder, ValueNetwork};
use agent::policy::lm::{LmPolicy, ValueUse};
use agent::rollout::Concurrency;
use burn::tensor::{Device, Tensor};
use scenarios::{Protocol, Trajectory};
use support::corridor::{babbler, jobs, play, protocol, task};
use trainer::learn::batch::Batch;
use trainer::loss::target_logprobs;

/// Largest difference of two f32 computations in different orders; measured 2e-6.
const TOLERANCE: f32 = 1e-4;

fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().unwrap()
}

#[track_caller]
fn assert_close(found: &[f32], logged: &[f32]) {
    assert_eq!(found.len(), logged.len());
    for (found, logged) in found.iter().zip(logged) {
        assert!(
            (found - logged).abs() < TOLERANCE,
            "{found} now, {logged} in the log"
        );
    }
}

/// Returns the entries of one row that the mask keeps.
fn kept(values: &[f32], mask: &[bool], row: usize, width: usize) -> Vec<f32> {
    let row = row * width..(row + 1) * width;
    values[row.clone()]
        .iter()
        .zip(&mask[row])
        .filter(|(_, kept)| **kept)
        .map(|(value, _)| *value)
        .collect()
}

/// Episodes of different lengths in one padded batch: best of 1, and best of 3 at a higher
/// temperature.
#[test]
fn the_trainer_computes_the_logged_logprobs_and_values() {
    let model = babbler(11);
    let player = LmPolicy::new(model.clone(), ValueUse::Score).unwrap();
    let tasks = ["plain/1", "plain/3", "plain/9"].map(task);
    let pool = Concurrency {
        workers: 2,
        episodes: 8,
    };
    let hot = Protocol {
        temperature: 2.0,
        best_of: 3,
        ..protocol()
    };
    let mut played: Vec<Trajectory> = play(&player, &jobs(&tasks, 2), &protocol(), pool);
    played.extend(play(&player, &jobs(&tasks, 2), &hot, pool));
    let lengths: Vec<usize> = played.iter().map(Trajectory::tokens).collect();
    assert!(
        lengths.iter().max() > lengths.iter().min(),
        "there is padding: {lengths:?}"
    );

    let device = Device::flex();
    let batch = Batch::new(&played.iter().collect::<Vec<_>>(), 16).unwrap();
    let tensors = batch.to_device(&device, 1);
    let decoder = Decoder::from_weights(&model.config, &model.policy, &device).unwrap();
    let logits = decoder.logits(
        decoder
            .hidden(tensors.tokens.clone())
            .reshape([batch.batch * batch.time, model.config.hidden_size]),
    );
    let logits = logits.reshape([batch.batch, batch.time, model.config.vocab_size]);
    let logprobs = numbers(target_logprobs(logits, tensors.targets.clone()));
    let network =
        ValueNetwork::from_weights(&model.config, model.value.as_ref().unwrap(), &device).unwrap();
    let values = network.values(tensors.tokens.clone());
    let before = numbers(values.clone().gather(1, tensors.before_positions.clone()));
    let after = numbers(values.gather(1, tensors.after_positions.clone()));
    for (row, trajectory) in played.iter().enumerate() {
        let logged = |of: fn(&scenarios::Turn) -> Vec<f32>| {
            trajectory.turns.iter().flat_map(of).collect::<Vec<f32>>()
        };
        assert_close(
            &kept(&logprobs, &batch.action_mask, row, batch.time),
            &logged(|turn| turn.logprobs.clone()),
        );
        assert_close(
            &kept(&before, &batch.turn_mask, row, batch.turns),
            &logged(|turn| turn.value.into_iter().collect()),
        );
        assert_close(
            &kept(&after, &batch.turn_mask, row, batch.turns),
            &logged(|turn| turn.after_value.into_iter().collect()),
        );
    }
}
