//! A resumed training job gives the same bits as one that was never interrupted. So does a job with
//! a reading test.

use crate::training_jobs::{
    CHECKPOINT, CsvRow, SFT, in_memory, learn, metrics, one_update, oreo, recipe, rollouts,
    scripted,
};
use agent::inference::PolicyInference;
use agent::inference::device::Backend;
use agent::model::folder::Model;
use indicatif::ProgressBar;
use scenarios::{Trajectory, WeightFormat};
use std::path::Path;
use support::corridor::babbler;
use trainer::TrainerError;
use trainer::learn::metrics::reading::{ReadingNumbers, ReadingProbe};
use trainer::learn::optimizer::{OptimizerKind, OptimizerRecipe};
use trainer::learn::ranks::Alone;
use trainer::learn::train::{TrainingJob, train};
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
    let job = TrainConfig {
        critic,
        ..job_beyond_a_checkpoint(algorithm)
    };
    resuming_a_job_equals_not_stopping(&job, damage);
}

/// A job that ends a few updates after its checkpoint.
fn job_beyond_a_checkpoint(algorithm: Algorithm) -> TrainConfig {
    let optimizer = OptimizerRecipe {
        batch: 1,
        updates: CHECKPOINT + 4,
        weight_decay: 0.01,
        ..OptimizerRecipe::default()
    };
    recipe(algorithm, optimizer)
}

#[track_caller]
fn resuming_a_job_equals_not_stopping(job: &TrainConfig, damage: impl Fn(&mut String)) {
    let model = babbler(28);
    let played = [
        scripted(&model, "plain/2", &["east", "east"]),
        scripted(&model, "plain/9", &["east", "west"]),
        scripted(&model, "plain/1", &["east"]),
    ];
    let updates = job.optimizer.updates;
    let out = tempfile::tempdir().unwrap();
    let (whole, left_out) = learn(job, &model, &played, out.path()).unwrap();
    let whole_rows = metrics(out.path());
    assert_eq!(whole_rows.len(), updates);
    assert!(out.path().join("checkpoint/position.json").exists());

    let path = out.path().join("metrics.csv");
    let mut text = std::fs::read_to_string(&path).unwrap();
    damage(&mut text);
    std::fs::write(&path, text).unwrap();
    let (resumed, left_out_again) = learn(job, &model, &played, out.path()).unwrap();
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
        ..job.clone()
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
pub(super) fn without_times(rows: &[CsvRow]) -> Vec<CsvRow> {
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

/// The checkpoint has the momentum of the matrices and the moments of everything else. The short
/// episodes end before it.
#[test]
fn resuming_with_muon_and_short_episodes_equals_not_stopping() {
    let mut job = job_beyond_a_checkpoint(SFT);
    job.optimizer.kind = OptimizerKind::Muon;
    job.short_first = 0.5;
    resuming_a_job_equals_not_stopping(&job, |_| {});
}

/// Both networks have Muon. At the checkpoint, the policy has had fewer updates than the value
/// network.
#[test]
fn resuming_oreo_with_muon_equals_not_stopping() {
    let mut job = job_beyond_a_checkpoint(oreo(Level::Turn, 0.9));
    job.optimizer.kind = OptimizerKind::Muon;
    resuming_a_job_equals_not_stopping(&job, |_| {});
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

/// A probe whose result depends on every weight that affects the output.
struct Probe;

impl ReadingProbe for Probe {
    fn read(&self, policy: &PolicyInference) -> ReadingNumbers {
        let state = vec![0.1; policy.trunk.config().hidden_size];
        ReadingNumbers {
            there: Some(f64::from(policy.logprobs(&state)[5])),
            induction: None,
            ..ReadingNumbers::default()
        }
    }
}

fn job(updates: usize, reading_every: usize) -> TrainConfig {
    TrainConfig {
        reading_every,
        ..recipe(
            SFT,
            OptimizerRecipe {
                batch: 1,
                updates,
                ..OptimizerRecipe::default()
            },
        )
    }
}

fn learn_with_probe(
    recipe: &TrainConfig,
    start: &Model,
    trajectories: &[Trajectory],
    out: &Path,
) -> Result<Model, TrainerError> {
    let job = TrainingJob {
        recipe,
        start,
        lineage: None,
        episodes: &in_memory(recipe, start, trajectories)?,
        branches: &[],
        reading: Some(&Probe),
        seed: 7,
        out,
        hardware: support::device::choice(),
        ranks: &Alone,
    };
    train(&job, &ProgressBar::hidden()).map(|(model, _)| model)
}

fn played(model: &Model) -> [Trajectory; 2] {
    [
        scripted(model, "plain/2", &["east", "east"]),
        scripted(model, "plain/1", &["east"]),
    ]
}

/// The columns of the test, and the updates in which they are filled.
fn filled(rows: &[CsvRow]) -> Vec<usize> {
    assert!(rows.iter().all(|row| row["reading/induction"].is_empty()));
    (0..rows.len())
        .filter(|update| !rows[*update]["reading/there"].is_empty())
        .collect()
}

/// The test changes neither the model nor the other numbers, and adds its columns at the end.
#[test]
fn the_reading_test_is_logged_and_changes_nothing() {
    let model = babbler(5);
    let played = played(&model);
    let plain = tempfile::tempdir().unwrap();
    let (expected, _) = learn(&job(8, 0), &model, &played, plain.path()).unwrap();
    let out = tempfile::tempdir().unwrap();
    let trained = learn_with_probe(&job(8, 3), &model, &played, out.path()).unwrap();
    assert_eq!(trained.policy, expected.policy);
    let rows = metrics(out.path());
    assert_eq!(filled(&rows), [2, 5, 7]);
    assert_ne!(rows[2]["reading/there"], rows[5]["reading/there"]);
    for (with, without) in rows.iter().zip(metrics(plain.path())) {
        assert_eq!(with["loss/policy"], without["loss/policy"]);
        assert_eq!(with.len(), without.len() + 4);
        assert!(!without.contains_key("reading/there"));
    }
    let header = |folder: &Path| {
        let text = std::fs::read_to_string(folder.join("metrics.csv")).unwrap();
        text.lines().next().unwrap().to_string()
    };
    assert_eq!(
        header(out.path()),
        header(plain.path()) + ",reading/there,reading/absent,reading/pairs,reading/induction"
    );
}

/// The result of the last test is that of the model that was saved.
#[test]
fn the_last_test_reads_the_final_model() {
    let model = babbler(5);
    let out = tempfile::tempdir().unwrap();
    let mut trained = learn_with_probe(&job(4, 100), &model, &played(&model), out.path()).unwrap();
    let policy = PolicyInference::from_weights(
        &trained.config,
        &mut trained.policy,
        WeightFormat::Exact,
        &Backend::Cpu,
    )
    .unwrap();
    let rows = metrics(out.path());
    assert_eq!(filled(&rows), [3]);
    assert_eq!(
        rows[3]["reading/there"],
        Probe.read(&policy).there.unwrap().to_string()
    );
}

/// A resumed job has the same columns and results. A checkpoint does not depend on the test, but
/// the columns of the file that it continues must be the same.
#[test]
fn a_job_with_a_reading_test_resumes() {
    let model = babbler(5);
    let played = played(&model);
    let out = tempfile::tempdir().unwrap();
    let job_with_test = job(CHECKPOINT + 4, 50);
    let whole = learn_with_probe(&job_with_test, &model, &played, out.path()).unwrap();
    let rows = metrics(out.path());
    assert_eq!(filled(&rows), [49, 99, 103]);
    let resumed = learn_with_probe(&job_with_test, &model, &played, out.path()).unwrap();
    assert_eq!(resumed.policy, whole.policy);
    let again = metrics(out.path());
    assert_eq!(again.len(), rows.len());
    for (row, before) in again.iter().zip(&rows) {
        assert_eq!(row["reading/there"], before["reading/there"]);
    }
    let plain = learn(&job(CHECKPOINT + 4, 0), &model, &played, out.path()).unwrap_err();
    assert!(plain.to_string().contains("other columns"), "{plain}");
}

#[test]
fn a_job_that_asks_for_a_test_must_have_one() {
    let model = babbler(5);
    let played = played(&model);
    let out = tempfile::tempdir().unwrap();
    let job = TrainConfig {
        reading_every: 1,
        ..recipe(SFT, one_update(&played, 1e-3))
    };
    let refused = learn(&job, &model, &played, out.path()).unwrap_err();
    assert!(
        refused.to_string().contains("reading_every = 1 needs"),
        "{refused}"
    );
}
