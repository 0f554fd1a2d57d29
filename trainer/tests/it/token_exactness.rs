//! Token exactness: if the decoder of the trainer reads the logged ids through
//! [`trainer::learn::batch`], it computes the log-probabilities and values that the inference
//! backend has logged.

use agent::model::decoder::{Decoder, HeadOutputs, ValueNetwork};
use agent::model::folder::Model;
use agent::model::value_heads::{ValueHeadKind, ValueHeads};
use agent::model::weights::{ADVANTAGE_HEAD, VALUE_HEAD};
use agent::policy::lm::{LmPolicy, ValueUse};
use agent::rollout::Concurrency;
use burn::tensor::Tensor;
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

/// A model whose value network has these heads, none of whose weights is 0.
fn with_heads(heads: ValueHeads) -> Model {
    let mut model = babbler(11);
    let value = model.value.as_ref().unwrap();
    let mut value = value.with_zero_heads(&model.config, heads);
    for name in [VALUE_HEAD, ADVANTAGE_HEAD] {
        if let Some(tensor) = value.0.get_mut(name) {
            for (index, w) in tensor.data.iter_mut().enumerate() {
                *w = (index as f32 + name.len() as f32).sin() / 4.0;
            }
        }
    }
    model.value = Some(value);
    model
}

#[test]
fn the_trainer_computes_the_logged_logprobs_and_values() {
    the_logged_numbers_are_those_of_the_trainer(&babbler(11));
}

#[test]
fn the_trainer_computes_the_logged_values_of_every_kind_of_head() {
    for (value, has_advantage) in [
        (ValueHeadKind::Scalar, true),
        (ValueHeadKind::Bins, false),
        (ValueHeadKind::Bins, true),
    ] {
        let heads = ValueHeads {
            value,
            has_advantage,
        };
        the_logged_numbers_are_those_of_the_trainer(&with_heads(heads));
    }
}

/// If the advantage head is zero, U of every completion is V before it, to the bit.
#[test]
fn a_zero_advantage_head_gives_the_value_before_the_action() {
    let mut model = babbler(11);
    let mut value = model.value.clone().unwrap();
    let heads = ValueHeads {
        has_advantage: true,
        ..ValueHeads::default()
    };
    let zero = value.with_zero_heads(&model.config, heads);
    let head = zero.0[ADVANTAGE_HEAD].clone();
    value.0.insert(ADVANTAGE_HEAD.into(), head);
    model.value = Some(value);
    let player = LmPolicy::new(model, ValueUse::Score).unwrap();
    let pool = Concurrency {
        workers: 1,
        episodes: 4,
    };
    let best_of_2 = Protocol {
        best_of: 2,
        ..protocol()
    };
    let played = play(&player, &jobs(&[task("plain/3")], 2), &best_of_2, pool);
    for turn in played.iter().flat_map(|episode| &episode.turns) {
        assert!(turn.value.is_some_and(|value| value != 0.0));
        assert_eq!(turn.after_value, turn.value);
        assert!(turn.candidates.iter().all(|c| c.after_value == turn.value));
    }
}

/// Episodes of different lengths in one padded batch: best of 1, and best of 3 at a higher
/// temperature.
#[track_caller]
fn the_logged_numbers_are_those_of_the_trainer(model: &Model) {
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

    let device = support::device::device();
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
    let HeadOutputs {
        values, advantages, ..
    } = network.head_outputs(network.trunk().hidden(tensors.tokens.clone()));
    let at_end = |values: Tensor<2>| values.gather(1, tensors.after_positions.clone());
    let before = values.clone().gather(1, tensors.before_positions.clone());
    let after = match advantages {
        Some(advantages) => before.clone() + at_end(advantages),
        None => at_end(values),
    };
    let [before, after] = [before, after].map(numbers);
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
