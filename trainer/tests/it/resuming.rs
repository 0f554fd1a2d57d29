//! A resumed training job gives the same bits as one that was never interrupted.

use crate::training_jobs::{
    CHECKPOINT, CsvRow, SFT, learn, metrics, oreo, recipe, rollouts, scripted,
};
use support::corridor::babbler;
use trainer::learn::optimizer::OptimizerRecipe;
use trainer::pipeline::recipe::{
    Algorithm, CriticConfig, CriticInit, EarlyStopping, Level, ReferenceUse, TrainConfig, ValueLoss,
};

/// If a job ends a few updates after its checkpoint, the checkpoint stays, as after a kill. A
/// second call resumes there and must end in the same bits. `damage` changes metrics.csv as a kill
/// would.
#[track_caller]
fn resuming_equals_not_stopping(algorithm: Algorithm, damage: impl Fn(&mut String)) {
    resuming_with_a_critic_equals_not_stopping(algorithm, CriticConfig::default(), damage);
}

/// The same with a form of the value network.
#[track_caller]
fn resuming_with_a_critic_equals_not_stopping(
    algorithm: Algorithm,
    critic: CriticConfig,
    damage: impl Fn(&mut String),
) {
    let model = babbler(28);
    let played = [
        scripted(&model, "plain/2", &["east", "east"]),
        scripted(&model, "plain/9", &["east", "west"]),
        scripted(&model, "plain/1", &["east"]),
    ];
    let updates = CHECKPOINT + 4;
    let optimizer = OptimizerRecipe {
        batch: 1,
        updates,
        weight_decay: 0.01,
        ..OptimizerRecipe::default()
    };
    let job = TrainConfig {
        critic,
        ..recipe(algorithm, optimizer)
    };
    let out = tempfile::tempdir().unwrap();
    let (whole, left_out) = learn(&job, &model, &played, out.path()).unwrap();
    let whole_rows = metrics(out.path());
    assert_eq!(whole_rows.len(), updates);
    assert!(out.path().join("checkpoint/position.json").exists());

    let path = out.path().join("metrics.csv");
    let mut text = std::fs::read_to_string(&path).unwrap();
    damage(&mut text);
    std::fs::write(&path, text).unwrap();
    let (resumed, left_out_again) = learn(&job, &model, &played, out.path()).unwrap();
    let rows = metrics(out.path());
    assert!(
        rows[..CHECKPOINT] == whole_rows[..CHECKPOINT],
        "rows before the checkpoint stay, with their seconds"
    );
    assert!(
        rows[CHECKPOINT..]
            .iter()
            .zip(&whole_rows[CHECKPOINT..])
            .any(|(a, b)| a["seconds"] != b["seconds"]),
        "the others were computed again"
    );
    assert_eq!(rows.len(), updates, "one row an update");
    assert_eq!(
        without_times(&rows[CHECKPOINT..]),
        without_times(&whole_rows[CHECKPOINT..]),
        "the same numbers"
    );
    assert_eq!(resumed.policy, whole.policy);
    assert_eq!(resumed.value, whole.value);
    assert_eq!(resumed.text_versions, whole.text_versions);
    assert_eq!(left_out_again, left_out);

    let other = TrainConfig {
        optimizer: OptimizerRecipe {
            learning_rate: 0.5,
            ..job.optimizer.clone()
        },
        ..job
    };
    let error = learn(&other, &model, &played, out.path())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("position.json: belongs to another recipe, data or starting policy"),
        "{error}"
    );
}

/// The rows without the columns that depend on wall-clock time.
fn without_times(rows: &[CsvRow]) -> Vec<CsvRow> {
    let mut rows = rows.to_vec();
    for row in &mut rows {
        row.retain(|name, _| {
            name != "seconds" && name != "tokens_per_s" && !name.starts_with("time/")
        });
    }
    rows
}

/// The job was killed in the middle of a row of metrics.csv.
#[test]
fn resuming_sft_equals_not_stopping() {
    resuming_equals_not_stopping(SFT, |text| text.truncate(text.len() - 40));
}

/// At the checkpoint, the policy has had fewer updates than the value network.
#[test]
fn resuming_oreo_after_critic_only_updates_equals_not_stopping() {
    resuming_equals_not_stopping(oreo(Level::Token, 0.9), |_| {});
}

/// At the checkpoint, the policy has had no update.
#[test]
fn resuming_within_critic_only_updates_equals_not_stopping() {
    resuming_equals_not_stopping(oreo(Level::Turn, 0.97), |_| {});
}

/// At the checkpoint, only the heads of the value network have learned; its trunk joins two updates
/// later.
#[test]
fn resuming_within_head_only_updates_equals_not_stopping() {
    let critic = CriticConfig {
        init: CriticInit::Critic,
        head_only: 0.98,
        advantage_head: true,
        next_observation_coef: 0.1,
        ..CriticConfig::default()
    };
    resuming_with_a_critic_equals_not_stopping(oreo(Level::Turn, 0.5), critic, |_| {});
}

/// The trunk joined before the checkpoint.
#[test]
fn resuming_with_bins_equals_not_stopping() {
    let critic = CriticConfig {
        head_only: 0.5,
        value_loss: ValueLoss::HlGauss,
        ..CriticConfig::default()
    };
    resuming_with_a_critic_equals_not_stopping(oreo(Level::Turn, 0.5), critic, |_| {});
}

/// The best evaluation is before the checkpoint.
#[test]
fn resuming_with_early_stopping_and_a_cached_reference_equals_not_stopping() {
    let model = babbler(28);
    let mut played = rollouts(&model);
    played.retain(|trajectory| trajectory.game != "plain/9");
    let optimizer = OptimizerRecipe {
        batch: 2,
        updates: CHECKPOINT + 3,
        learning_rate: 2e-3,
        ..OptimizerRecipe::default()
    };
    let job = TrainConfig {
        reference: ReferenceUse::Cached,
        early_stopping: Some(EarlyStopping {
            share: 0.4,
            every: 10,
            patience: 100,
        }),
        ..recipe(oreo(Level::Token, 0.1), optimizer)
    };
    let out = tempfile::tempdir().unwrap();
    let (whole, read) = learn(&job, &model, &played, out.path()).unwrap();
    assert!(read.held_out > 0);
    let (resumed, _) = learn(&job, &model, &played, out.path()).unwrap();
    assert_eq!((resumed.policy, resumed.value), (whole.policy, whole.value));
}
