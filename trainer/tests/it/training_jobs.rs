//! Helpers that run training jobs on the corridor environment.

use agent::inference::device::DeviceChoice;
use agent::model::folder::Model;
use agent::policy::ScriptedPolicy;
use agent::policy::lm::{LmPolicy, ValueUse};
use agent::rollout::Concurrency;
use indicatif::ProgressBar;
use scenarios::{Outcome, Trajectory};
use std::collections::BTreeMap;
use std::path::Path;
use support::corridor::{jobs, play, protocol, task};
use trainer::TrainerError;
use trainer::learn::episodes::{Episodes, Readable};
use trainer::learn::optimizer::OptimizerRecipe;
use trainer::learn::plan::DataSummary;
use trainer::learn::ranks::Alone;
use trainer::learn::train::{TrainingJob, train};
use trainer::pipeline::recipe::{Algorithm, Level, Normalisation, Targets, TrainConfig};
use trainer::pipeline::run::tokenize_texts;

/// Updates after which a checkpoint is written.
pub(crate) const CHECKPOINT: usize = 100;

pub(crate) const SFT: Algorithm = Algorithm::Sft {
    targets: Targets::Actions,
};
pub(crate) const REJECTION_SAMPLING: Algorithm = Algorithm::RejectionSampling {
    targets: Targets::Actions,
};

/// A row of metrics.csv by column.
pub(crate) type CsvRow = BTreeMap<String, String>;

/// OREO without regularisation.
pub(crate) fn oreo(level: Level, critic_only_share: f64) -> Algorithm {
    Algorithm::Oreo {
        level,
        beta: 0.1,
        alpha: 0.0,
        value_learning_rate: 1e-2,
        critic_only_share,
        discount: 1.0,
        normalise: Normalisation::Trajectory,
        log_ratio_clip: None,
        path_length: None,
        imitation_coef: 0.0,
    }
}

/// A job of an algorithm with optimizer settings.
pub(crate) fn recipe(algorithm: Algorithm, optimizer: OptimizerRecipe) -> TrainConfig {
    TrainConfig {
        optimizer,
        ..TrainConfig::of(algorithm)
    }
}

/// One update on all trajectories, with a learning rate.
pub(crate) fn one_update(trajectories: &[Trajectory], learning_rate: f64) -> OptimizerRecipe {
    OptimizerRecipe {
        batch: trajectories.len(),
        learning_rate,
        ..OptimizerRecipe::default()
    }
}

/// The episodes of a job for a model.
pub(crate) fn in_memory<'a>(
    recipe: &TrainConfig,
    start: &Model,
    trajectories: &'a [Trajectory],
) -> Result<Episodes<'a>, TrainerError> {
    let readable = Readable::new(recipe, start.config.max_position_embeddings);
    Episodes::in_memory(readable, trajectories)
}

/// Trains in a folder, on the device of the tests.
pub(crate) fn learn(
    recipe: &TrainConfig,
    start: &Model,
    trajectories: &[Trajectory],
    out: &Path,
) -> Result<(Model, DataSummary), TrainerError> {
    learn_on(support::device::choice(), recipe, start, trajectories, out)
}

/// Trains in a folder, on a device.
pub(crate) fn learn_on(
    hardware: DeviceChoice,
    recipe: &TrainConfig,
    start: &Model,
    trajectories: &[Trajectory],
    out: &Path,
) -> Result<(Model, DataSummary), TrainerError> {
    train(
        &TrainingJob {
            recipe,
            start,
            lineage: None,
            reading: None,
            episodes: &in_memory(recipe, start, trajectories)?,
            branches: &[],
            seed: 7,
            out,
            hardware,
            ranks: &Alone,
        },
        &ProgressBar::hidden(),
    )
}

/// Trains in a temporary folder; returns the model, the data summary and the rows of metrics.csv.
pub(crate) fn learned(
    recipe: &TrainConfig,
    start: &Model,
    trajectories: &[Trajectory],
) -> (Model, DataSummary, Vec<CsvRow>) {
    let out = tempfile::tempdir().unwrap();
    let (model, left_out) = learn(recipe, start, trajectories, out.path()).unwrap();
    (model, left_out, metrics(out.path()))
}

/// Reads the rows of metrics.csv.
pub(crate) fn metrics(out: &Path) -> Vec<CsvRow> {
    let mut reader = csv::Reader::from_path(out.join("metrics.csv")).unwrap();
    reader.deserialize().map(Result::unwrap).collect()
}

/// The number in a column.
#[track_caller]
pub(crate) fn number(row: &CsvRow, column: &str) -> f64 {
    row[column]
        .parse()
        .unwrap_or_else(|_| panic!("{column} is {:?}", row[column]))
}

/// Sampled episodes, some won and some not.
pub(crate) fn rollouts(model: &Model) -> Vec<Trajectory> {
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
    let won = played.iter().filter(|t| t.is_won()).count();
    assert!(
        won > 1 && won < played.len() - 3,
        "{won} won of {}",
        played.len()
    );
    played
}

/// An episode played by a script, tokenized afterwards.
pub(crate) fn scripted(model: &Model, id: &str, commands: &[&str]) -> Trajectory {
    let policy = ScriptedPolicy(commands.iter().map(ToString::to_string).collect());
    let mut played = play(
        &policy,
        &jobs(&[task(id)], 1),
        &protocol(),
        Concurrency {
            workers: 1,
            episodes: 1,
        },
    );
    tokenize_texts(&model.tokenizer, &mut played);
    played.remove(0)
}

/// Returns the trajectories with these outcomes.
pub(crate) fn of(
    trajectories: &[Trajectory],
    outcome_is: impl Fn(Outcome) -> bool,
) -> Vec<Trajectory> {
    trajectories
        .iter()
        .filter(|t| outcome_is(t.outcome))
        .cloned()
        .collect()
}
