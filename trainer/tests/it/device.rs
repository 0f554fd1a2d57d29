//! Training on a GPU compared with training on the CPU:
//!
//! ```text
//! HEARTH_TEST_DEVICE=webgpu cargo test -p trainer --features webgpu --test it device -- --ignored
//! ```

use crate::training_jobs::{learn_on, metrics, rollouts};
use agent::inference::device::DeviceChoice;
use agent::model::config::DecoderConfig;
use agent::model::decoder::{Decoder, Precision};
use agent::model::weights::Weights;
use burn::tensor::{Int, Tensor, TensorData};
use std::collections::BTreeMap;
use support::corridor::babbler;
use trainer::learn::optimizer::OptimizerRecipe;
use trainer::learn::parameters::{Gradient, gradients};
use trainer::learn::transfer;
use trainer::pipeline::recipe::{Algorithm, Level, Normalisation, Targets, TrainConfig};

/// Number of updates that are compared: rounding errors grow from one to the next.
const UPDATES: usize = 5;

/// Losses by column, update by update.
fn losses(
    algorithm: &Algorithm,
    precision: Precision,
    hardware: DeviceChoice,
) -> BTreeMap<String, Vec<f64>> {
    let model = babbler(22);
    let played = rollouts(&model);
    let optimizer = OptimizerRecipe {
        batch: played.len(),
        updates: UPDATES,
        ..OptimizerRecipe::default()
    };
    let recipe = TrainConfig {
        precision,
        optimizer,
        ..TrainConfig::of(algorithm.clone())
    };
    let out = tempfile::tempdir().unwrap();
    learn_on(hardware, &recipe, &model, &played, out.path()).unwrap();
    let mut losses = BTreeMap::<String, Vec<f64>>::new();
    for row in metrics(out.path()) {
        for (column, text) in row
            .iter()
            .filter(|(column, text)| column.starts_with("loss") && !text.is_empty())
        {
            losses
                .entry(column.clone())
                .or_default()
                .push(text.parse().unwrap());
        }
    }
    losses
}

/// Relative to f32 on the CPU. On a GPU, f32 products may use TF32, whose mantissa has ten bits.
#[test]
#[ignore = "needs a GPU that HEARTH_TEST_DEVICE names"]
fn the_gpu_has_the_losses_of_the_cpu() {
    let gpu = support::device::choice();
    assert_ne!(gpu, DeviceChoice::Cpu, "HEARTH_TEST_DEVICE names no GPU");
    let mut precisions = vec![(Precision::F32, 2e-3)];
    if Precision::Bf16.check(&support::device::device()).is_ok() {
        precisions.push((Precision::Bf16, 3e-2));
    }
    let oreo = |level| Algorithm::Oreo {
        level,
        beta: 0.1,
        alpha: 0.01,
        value_learning_rate: 1e-3,
        critic_only_share: 0.0,
        discount: 1.0,
        normalise: Normalisation::Trajectory,
        log_ratio_clip: None,
        path_length: None,
        imitation_coef: 0.0,
    };
    for algorithm in [
        Algorithm::Sft {
            targets: Targets::Actions,
        },
        Algorithm::Sft {
            targets: Targets::Transcript,
        },
        oreo(Level::Turn),
        oreo(Level::Token),
    ] {
        let expected = losses(&algorithm, Precision::F32, DeviceChoice::Cpu);
        for (precision, tolerance) in &precisions {
            let found = losses(&algorithm, *precision, gpu);
            assert_eq!(found.len(), expected.len());
            for (column, expected) in &expected {
                assert_eq!(found[column].len(), UPDATES);
                for (found, expected) in found[column].iter().zip(expected) {
                    let off = (found - expected).abs() / expected.abs().max(1e-3);
                    assert!(
                        off < *tolerance,
                        "{algorithm:?}, {precision:?}, {column}: {found}, on the CPU {expected}"
                    );
                }
            }
        }
    }
}

/// The memory that the allocator of the GPU reserved after one forward and backward pass over a
/// sequence.
fn reserved_after(time: usize) -> u64 {
    let model = babbler(22);
    let config = DecoderConfig {
        max_position_embeddings: time,
        ..model.config
    };
    let device = support::device::device();
    device.memory_cleanup();
    let decoder =
        Decoder::from_weights(&config, &model.policy, &device.clone().autodiff()).unwrap();
    let tokens: Vec<i32> = (0..time as i32).map(|at| at % 7).collect();
    let tokens = Tensor::<2, Int>::from_data(
        TensorData::new(tokens, [1, time]),
        &device.clone().autodiff(),
    );
    let loss = decoder.hidden(tokens).square().mean();
    let found = gradients(&decoder, loss.backward());
    assert!(found.iter().flatten().all(|gradient| {
        matches!(gradient, Gradient::Device(_)) && gradient.to_vec().iter().all(|x| x.is_finite())
    }));
    device.memory_pool_usage().unwrap().bytes_reserved
}

/// Four times the tokens need at most about four times the memory. The scores of all pairs of tokens
/// would need sixteen times as much.
#[test]
#[ignore = "needs a GPU that HEARTH_TEST_DEVICE names"]
fn memory_grows_linearly_with_the_length() {
    assert_ne!(support::device::choice(), DeviceChoice::Cpu);
    let [short, long] = [512, 2048].map(reserved_after);
    eprintln!("{short} bytes for 512 tokens, {long} for 2048");
    assert!(
        long < 6 * short,
        "{short} bytes for 512 tokens, {long} for 2048"
    );
}

/// The bytes that this many updates copy between the host and the GPU, with start and end, if the
/// decoder is this wide.
fn copied_bytes(intermediate_size: usize, updates: usize) -> u64 {
    let played = rollouts(&babbler(22));
    let mut model = babbler(22);
    model.config.intermediate_size = intermediate_size;
    model.policy = Weights::random(&model.config, 1);
    model.value = None;
    let recipe = TrainConfig {
        optimizer: OptimizerRecipe {
            batch: played.len(),
            updates,
            ..OptimizerRecipe::default()
        },
        ..TrainConfig::of(Algorithm::Sft {
            targets: Targets::Actions,
        })
    };
    let out = tempfile::tempdir().unwrap();
    let before = transfer::bytes();
    learn_on(
        support::device::choice(),
        &recipe,
        &model,
        &played,
        out.path(),
    )
    .unwrap();
    transfer::bytes() - before
}

/// An update copies its batch and some scalars, but no parameter, gradient or moment.
#[test]
#[ignore = "needs a GPU that HEARTH_TEST_DEVICE names"]
fn copies_of_an_update_do_not_grow_with_the_parameters() {
    assert_ne!(support::device::choice(), DeviceChoice::Cpu);
    let [narrow, wide] = [24, 960].map(|width| {
        let [few, many] = [1, 3].map(|updates| copied_bytes(width, updates));
        (many - few) / 2
    });
    eprintln!("{narrow} and {wide} bytes an update");
    assert_eq!(narrow, wide);
    assert!(narrow > 0, "the batch is copied");
}
