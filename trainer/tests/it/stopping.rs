//! When training stops before its last update: early stopping, and numbers that are not finite.

use crate::training_jobs::{
    SFT, learn, learned, metrics, number, one_update, oreo, recipe, rollouts,
};
use scenarios::{Outcome, Trajectory};
use support::corridor::babbler;
use trainer::learn::optimizer::OptimizerRecipe;
use trainer::pipeline::recipe::{Algorithm, EarlyStopping, Level, TrainConfig};

/// No update reads the held-out games. They decide when training stops, and the best weights are
/// kept.
#[test]
fn training_stops_if_the_held_out_loss_rises() {
    let model = babbler(23);
    let played = rollouts(&model);
    let early = EarlyStopping {
        share: 0.3,
        every: 2,
        patience: 2,
    };
    // So high a rate that the held-out loss soon rises.
    let optimizer = OptimizerRecipe {
        batch: 4,
        updates: 60,
        learning_rate: 0.3,
        warmup: 0.5,
        ..OptimizerRecipe::default()
    };
    let job = TrainConfig {
        early_stopping: Some(early),
        ..recipe(SFT, optimizer)
    };
    let (stopped, read, rows) = learned(&job, &model, &played);
    assert_eq!(read.held_out + read.trajectories, played.len());
    assert!(read.held_out >= 4, "the four episodes of a game");
    let losses: Vec<f64> = rows
        .iter()
        .filter(|row| !row["loss/held_out"].is_empty())
        .map(|row| number(row, "loss/held_out"))
        .collect();
    assert_eq!(losses.len(), rows.len() / 2);
    assert!(rows.len() < 60, "it did not stop early");
    let best = losses.iter().copied().fold(f64::INFINITY, f64::min);
    assert_eq!(
        losses[losses.len() - 3],
        best,
        "it stopped two evaluations after the best: {losses:?}"
    );
    let until_best = 2 * (losses.len() - 2);
    let never = EarlyStopping {
        patience: 1000,
        ..early
    };
    let mut shorter = TrainConfig {
        early_stopping: Some(never),
        ..job
    };
    shorter.optimizer.log_ratio_limit = 1e9;
    let out = tempfile::tempdir().unwrap();
    let (whole, _) = learn(&shorter, &model, &played, out.path()).unwrap();
    let all = metrics(out.path());
    assert_eq!(all.len(), 60);
    assert_eq!(
        all[until_best - 1]["loss/held_out"],
        rows[until_best - 1]["loss/held_out"]
    );
    if number(&all[59], "loss/held_out") > best {
        assert_eq!(whole.policy, stopped.policy, "both have the best weights");
    }
}

/// If an algorithm compares episodes of one game and no held-out game can be compared, there is
/// nothing to measure: the job fails before its first update.
#[test]
fn held_out_games_that_cannot_be_compared_are_refused() {
    let model = babbler(21);
    let mut played = rollouts(&model);
    // Only one of ten games was both won and lost, so a share of a tenth of the games seldom has it.
    let both: Vec<Trajectory> = played
        .iter()
        .filter(|trajectory| trajectory.game_hash == played[0].game_hash)
        .cloned()
        .collect();
    played = both.clone();
    for copy in 0..9 {
        for mut trajectory in both.clone() {
            trajectory.game = format!("lost/{copy}");
            trajectory.game_hash = trajectory.game.clone();
            trajectory.outcome = Outcome::TurnLimit;
            played.push(trajectory);
        }
    }
    played[0].outcome = Outcome::Success;
    played[1].outcome = Outcome::TurnLimit;
    for algorithm in [
        Algorithm::Dpo {
            beta: 0.1,
            pairs: 5,
        },
        Algorithm::Grpo {
            level: Level::Turn,
            clip: 0.2,
            alpha: 0.0,
        },
    ] {
        let job = TrainConfig {
            early_stopping: Some(EarlyStopping {
                share: 0.1,
                every: 1,
                patience: 1,
            }),
            ..recipe(algorithm.clone(), one_update(&played, 1e-3))
        };
        let out = tempfile::tempdir().unwrap();
        let error = learn(&job, &model, &played, out.path())
            .unwrap_err()
            .to_string();
        let expected = format!(
            "{} compares episodes of one game, and no game that early_stopping holds out was both won and lost\nhint: ",
            algorithm.kind()
        );
        assert!(error.contains(&expected), "{error}");
    }
}

/// If the log-ratios exceed the limit, training stops and the batch is saved.
#[test]
fn a_diverged_policy_stops_training() {
    let model = babbler(24);
    let played = rollouts(&model);
    let optimizer = OptimizerRecipe {
        updates: 50,
        log_ratio_limit: 5.0,
        ..one_update(&played, 0.1)
    };
    let out = tempfile::tempdir().unwrap();
    let error = learn(
        &recipe(oreo(Level::Turn, 0.0), optimizer),
        &model,
        &played,
        out.path(),
    )
    .unwrap_err()
    .to_string();
    assert!(
        error.contains(": a trajectory's sum of log-ratios is "),
        "{error}"
    );
    let batch = scenarios::store::Store::read(out.path().join("stopped-batch.jsonl")).unwrap();
    assert_eq!(batch.len(), played.len());
    assert!(!metrics(out.path()).is_empty(), "earlier rows stay");
    let events =
        std::fs::metadata(out.path().join("tensorboard/events.out.tfevents.hearth")).unwrap();
    assert!(events.len() > 1000, "TensorBoard has them too");
}

#[test]
fn a_nan_loss_stops_training_and_is_named() {
    let mut model = babbler(27);
    let played = rollouts(&model);
    model.policy.0.get_mut("model.norm.weight").unwrap().data[3] = f32::NAN;
    let out = tempfile::tempdir().unwrap();
    let error = learn(
        &recipe(SFT, one_update(&played, 1e-3)),
        &model,
        &played,
        out.path(),
    )
    .unwrap_err();
    let batch = out.path().join("stopped-batch.jsonl");
    let expected = format!(
        "update 0: the policy loss is NaN; the episodes of its batch are in {}\nhint: use a smaller learning rate, and read the last rows of metrics.csv",
        batch.display()
    );
    assert_eq!(error.to_string(), expected);
    let saved = scenarios::store::Store::read(&batch).unwrap();
    assert_eq!(saved.len(), played.len(), "the batch was saved");
    assert_eq!(metrics(out.path()).len(), 0, "only finite rows are written");
}
