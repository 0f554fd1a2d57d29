//! Training on a GPU compared with training on the CPU. Needs the feature `cuda`.

use agent::inference::device::DeviceChoice;
use agent::model::decoder::Precision;
use agent::policy::lm::{LmPolicy, ValueUse};
use agent::rollout::Concurrency;
use indicatif::ProgressBar;
use std::collections::BTreeMap;
use support::corridor::{babbler, jobs, play, protocol, task};
use trainer::learn::optimizer::OptimizerRecipe;
use trainer::learn::train::{TrainingJob, train};
use trainer::pipeline::recipe::{Algorithm, Level, Normalisation, Targets, TrainConfig};

const GPU: DeviceChoice = DeviceChoice::Cuda(0);

/// Number of updates that are compared: rounding errors grow from one to the next.
const UPDATES: usize = 5;

/// Losses by column, update by update.
fn losses(
    algorithm: &Algorithm,
    precision: Precision,
    hardware: DeviceChoice,
) -> BTreeMap<String, Vec<f64>> {
    let model = babbler(22);
    let player = LmPolicy::new(model.clone(), ValueUse::Skip).unwrap();
    let tasks = ["plain/1", "plain/2", "plain/9"].map(task);
    let played = play(
        &player,
        &jobs(&tasks, 4),
        &protocol(),
        Concurrency {
            workers: 2,
            episodes: 8,
        },
    );
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
    let job = TrainingJob {
        recipe: &recipe,
        start: &model,
        lineage: None,
        reading: None,
        trajectories: &played,
        branches: &[],
        seed: 7,
        out: out.path(),
        hardware,
    };
    train(&job, &ProgressBar::hidden()).unwrap();
    let mut losses = BTreeMap::<String, Vec<f64>>::new();
    let mut reader = csv::Reader::from_path(out.path().join("metrics.csv")).unwrap();
    for row in reader
        .deserialize::<BTreeMap<String, String>>()
        .map(Result::unwrap)
    {
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
#[ignore = "needs an NVIDIA GPU"]
fn the_gpu_has_the_losses_of_the_cpu() {
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
        for (precision, tolerance) in [(Precision::F32, 2e-3), (Precision::Bf16, 3e-2)] {
            let found = losses(&algorithm, precision, GPU);
            assert_eq!(found.len(), expected.len());
            for (column, expected) in &expected {
                assert_eq!(found[column].len(), UPDATES);
                for (found, expected) in found[column].iter().zip(expected) {
                    let off = (found - expected).abs() / expected.abs().max(1e-3);
                    assert!(
                        off < tolerance,
                        "{algorithm:?}, {precision:?}, {column}: {found}, on the CPU {expected}"
                    );
                }
            }
        }
    }
}
