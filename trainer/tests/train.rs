//! Lessons on played episodes: what is read, what is logged, and that resuming equals not stopping.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../../agent/tests/corridor/mod.rs"]
mod corridor;

use agent::inference::device::DeviceChoice;
use agent::model::decoder::Precision;
use agent::model::folder::Model;
use agent::model::weights::VALUE_HEAD;
use agent::policy::ScriptedPolicy;
use agent::policy::lm::{LmPolicy, ValueUse};
use agent::rollout::Concurrency;
use corridor::{babbler, jobs, play, protocol, task};
use indicatif::ProgressBar;
use scenarios::{Outcome, TextVersion, Trajectory};
use std::collections::BTreeMap;
use std::path::Path;
use trainer::TrainerError;
use trainer::learn::optimizer::OptimizerRecipe;
use trainer::learn::plan::{LeftOut, Read};
use trainer::learn::train::{TrainingJob, train};
use trainer::pipeline::recipe::{
    Algorithm, EarlyStopping, Level, ReferenceUse, Targets, TrainConfig,
};
use trainer::pipeline::run::tokenize_texts;

/// Updates after which a checkpoint is written.
const CHECKPOINT: usize = 100;

const SFT: Algorithm = Algorithm::Sft {
    targets: Targets::Actions,
};
const REJECTION_SAMPLING: Algorithm = Algorithm::RejectionSampling {
    targets: Targets::Actions,
};

fn oreo(level: Level, critic_only_share: f64) -> Algorithm {
    Algorithm::Oreo {
        level,
        beta: 0.1,
        alpha: 0.0,
        value_learning_rate: 1e-2,
        critic_only_share,
    }
}

fn recipe(algorithm: Algorithm, optimizer: OptimizerRecipe) -> TrainConfig {
    TrainConfig {
        optimizer,
        ..TrainConfig::of(algorithm)
    }
}

/// Every trajectory once, all in one update, at a rate.
fn one_update(trajectories: &[Trajectory], learning_rate: f64) -> OptimizerRecipe {
    OptimizerRecipe {
        batch: trajectories.len(),
        learning_rate,
        ..OptimizerRecipe::default()
    }
}

fn learn(
    recipe: &TrainConfig,
    start: &Model,
    trajectories: &[Trajectory],
    out: &Path,
) -> Result<(Model, Read), TrainerError> {
    train(
        &TrainingJob {
            recipe,
            start,
            lineage: None,
            trajectories,
            seed: 7,
            out,
            hardware: DeviceChoice::Cpu,
        },
        &ProgressBar::hidden(),
    )
}

/// Learns in a folder of its own; what came of it and the rows of metrics.csv.
fn learned(
    recipe: &TrainConfig,
    start: &Model,
    trajectories: &[Trajectory],
) -> (Model, Read, Vec<MetricsRow>) {
    let out = tempfile::tempdir().unwrap();
    let (model, left_out) = learn(recipe, start, trajectories, out.path()).unwrap();
    (model, left_out, metrics(out.path()))
}

/// A row of metrics.csv by column.
type MetricsRow = BTreeMap<String, String>;

fn metrics(out: &Path) -> Vec<MetricsRow> {
    let mut reader = csv::Reader::from_path(out.join("metrics.csv")).unwrap();
    reader.deserialize().map(Result::unwrap).collect()
}

#[track_caller]
fn number(row: &MetricsRow, column: &str) -> f64 {
    row[column]
        .parse()
        .unwrap_or_else(|_| panic!("{column} is {:?}", row[column]))
}

/// Sampled episodes, some won and some not.
fn rollouts(model: &Model) -> Vec<Trajectory> {
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

/// Episodes played by a script, tokenized afterwards.
fn scripted(model: &Model, id: &str, commands: &[&str]) -> Trajectory {
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

fn of(trajectories: &[Trajectory], outcome_is: impl Fn(Outcome) -> bool) -> Vec<Trajectory> {
    trajectories
        .iter()
        .filter(|t| outcome_is(t.outcome))
        .cloned()
        .collect()
}

/// Facts T11: the zero head makes V ≡ 0 and ρ = 0 at update 0, so the residual of every action is −R and its mean
/// square the share of wins, at both levels.
#[test]
fn the_first_value_loss_is_the_success_rate() {
    let model = babbler(21);
    let played = rollouts(&model);
    let wins = played
        .iter()
        .map(|episode| episode.outcome.reward())
        .sum::<f64>()
        / played.len() as f64;
    for level in [Level::Turn, Level::Token] {
        let (_, _, rows) = learned(
            &recipe(oreo(level, 0.0), one_update(&played, 1e-3)),
            &model,
            &played,
        );
        let row = &rows[0];
        for column in [
            "success_rate",
            "loss/value",
            "loss/after_value",
            "loss/policy",
        ] {
            assert!(
                (number(row, column) - wins).abs() < 1e-6,
                "{column} is {}, {wins} were won",
                row[column]
            );
        }
        for column in ["value/mean", "log_ratio/p95", "kl/exact"] {
            assert!(
                number(row, column).abs() < 1e-12,
                "{column} is {}",
                row[column]
            );
        }
        assert!(
            number(row, "gradient_norm/policy") > 0.0 && number(row, "gradient_norm/value") > 0.0
        );
    }
}

/// Fact T12: where nothing was won, V = 0 and ρ = 0, nobody learns anything, and the weights keep every bit.
#[test]
fn failures_alone_teach_nothing_at_first() {
    let model = babbler(21);
    let lost = of(&rollouts(&model), |outcome| outcome != Outcome::Success);
    let (learned, _, rows) = learned(
        &recipe(oreo(Level::Turn, 0.0), one_update(&lost, 1e-2)),
        &model,
        &lost,
    );
    assert_eq!(
        (
            number(&rows[0], "gradient_norm/policy"),
            number(&rows[0], "gradient_norm/value")
        ),
        (0.0, 0.0)
    );
    assert_eq!(learned.policy, model.policy);
    assert_eq!(
        learned.value,
        Some(model.policy.with_zero_value_head(&model.config))
    );
}

/// While only the value network learns the policy keeps every bit; afterwards both move.
#[test]
fn the_value_network_learns_first() {
    let model = babbler(21);
    let played = rollouts(&model);
    let optimizer = OptimizerRecipe {
        updates: 4,
        ..one_update(&played, 1e-2)
    };
    let (learned_half, _, rows) = learned(
        &recipe(oreo(Level::Turn, 0.5), optimizer.clone()),
        &model,
        &played,
    );
    let policy_learned: Vec<bool> = rows
        .iter()
        .map(|row| !row["gradient_norm/policy"].is_empty())
        .collect();
    assert_eq!(policy_learned, [false, false, true, true]);
    assert!(
        rows.iter()
            .all(|row| number(row, "gradient_norm/value") > 0.0)
    );
    assert_ne!(learned_half.policy, model.policy);
    let (learned_none, _, _) = learned(&recipe(oreo(Level::Turn, 1.0), optimizer), &model, &played);
    assert_eq!(learned_none.policy, model.policy);
    assert_ne!(
        learned_none.value,
        Some(model.policy.with_zero_value_head(&model.config))
    );
}

/// Whoever needs episodes to compare learns from those that can be, and counts the others; without any it says so.
#[test]
fn comparing_needs_games_that_were_both_won_and_lost() {
    let model = babbler(21);
    let played = rollouts(&model);
    let lost = of(&played, |outcome| outcome != Outcome::Success);
    let won = of(&played, |outcome| outcome == Outcome::Success);
    let compared = |trajectory: &&Trajectory| {
        let same = played
            .iter()
            .filter(|other| other.game_hash == trajectory.game_hash);
        same.map(|episode| episode.outcome.reward())
            .any(|reward| reward != trajectory.outcome.reward())
    };
    let contrasted = played.iter().filter(compared).count();
    assert!(
        contrasted > 2,
        "the test needs a game that was both won and lost"
    );
    let grpo = Algorithm::Grpo {
        level: Level::Token,
        clip: 0.2,
        alpha: 0.0,
    };
    let dpo = Algorithm::Dpo {
        beta: 0.1,
        pairs: 100,
    };
    let kto = Algorithm::Kto {
        beta: 0.1,
        desirable: 1.0,
        undesirable: 1.0,
    };
    for algorithm in [grpo, dpo, kto] {
        let job = recipe(algorithm.clone(), one_update(&played, 1e-3));
        let (learned_all, read, _) = learned(&job, &model, &played);
        assert_ne!(learned_all.policy, model.policy, "{algorithm:?}");
        let is_pairless = matches!(algorithm, Algorithm::Kto { .. });
        let expected = if is_pairless {
            played.len()
        } else {
            contrasted
        };
        assert_eq!(read.trajectories, expected, "{algorithm:?}");
        assert_eq!(read.left_out.uncompared, played.len() - expected);
        for (one_sided, side) in [(&lost, "lost"), (&won, "won")] {
            let out = tempfile::tempdir().unwrap();
            let error = learn(&job, &model, one_sided, out.path())
                .unwrap_err()
                .to_string();
            let said = if is_pairless {
                side
            } else {
                "no game was both won and lost"
            };
            assert!(
                error.starts_with("nothing to learn from: job job: ") && error.contains(said),
                "{error}"
            );
        }
    }
    let (_, read, _) = learned(
        &recipe(oreo(Level::Turn, 0.0), one_update(&lost, 1e-3)),
        &model,
        &lost,
    );
    assert_eq!(
        read.remarks(),
        [format!(
            "all {} episodes were lost: there is nothing to reinforce",
            lost.len()
        )]
    );
}

/// GRPO needs the log-probabilities of who sampled, GiGPO the states, DQO with process scores the scores.
#[test]
fn what_an_algorithm_needs_and_the_log_lacks_is_counted() {
    let model = babbler(21);
    let mut played = rollouts(&model);
    played[0].turns[0].logprobs.clear();
    let grpo = Algorithm::Grpo {
        level: Level::Turn,
        clip: 0.2,
        alpha: 0.0,
    };
    let gigpo = Algorithm::Gigpo {
        level: Level::Turn,
        clip: 0.2,
        alpha: 0.0,
        discount: 0.9,
        omega: 1.0,
    };
    let scored = Algorithm::Dqo {
        level: Level::Turn,
        beta: 0.1,
        lambda: 0.9,
        process_scores: true,
        value_learning_rate: 1e-3,
        critic_only_share: 0.0,
    };
    let read = |algorithm: &Algorithm, played: &[Trajectory]| {
        learned(
            &recipe(algorithm.clone(), one_update(played, 1e-3)),
            &model,
            played,
        )
        .1
        .left_out
    };
    assert_eq!(read(&grpo, &played).unlogged, 1);
    played[1].turns[0].state = None;
    assert_eq!(
        (
            read(&gigpo, &played).unlogged,
            read(&gigpo, &played).stateless
        ),
        (1, 1)
    );
    let lost = played
        .iter()
        .filter(|trajectory| !trajectory.is_won())
        .count();
    assert_eq!(read(&scored, &played).unscored, lost);
    for trajectory in played.iter_mut().filter(|trajectory| !trajectory.is_won()) {
        trajectory
            .turns
            .iter_mut()
            .for_each(|turn| turn.process_score = Some(0.125));
    }
    assert_eq!(read(&scored, &played), LeftOut::default());
    // At V = 0 and π = π_ref, λ-returns are what is still to come: scores raise those of the lost above 0.
    let loss = |process_scores| {
        let Algorithm::Dqo {
            level,
            beta,
            lambda,
            value_learning_rate,
            critic_only_share,
            ..
        } = scored
        else {
            unreachable!()
        };
        let algorithm = Algorithm::Dqo {
            level,
            beta,
            lambda,
            process_scores,
            value_learning_rate,
            critic_only_share,
        };
        number(
            &learned(
                &recipe(algorithm, one_update(&played, 1e-3)),
                &model,
                &played,
            )
            .2[0],
            "loss/value",
        )
    };
    assert!(
        loss(true) > loss(false) + 1e-4,
        "{} with scores, {} without",
        loss(true),
        loss(false)
    );
}

/// What the reference said once is what it says in every update, to rounding; and without it the exact KL is not known.
#[test]
fn a_cached_reference_teaches_the_same() {
    let model = babbler(22);
    let played = rollouts(&model);
    let optimizer = OptimizerRecipe {
        batch: 5,
        epochs: 2,
        ..one_update(&played, 1e-3)
    };
    for algorithm in [
        oreo(Level::Turn, 0.0),
        Algorithm::Dpo {
            beta: 0.1,
            pairs: 5,
        },
    ] {
        let live = recipe(algorithm.clone(), optimizer.clone());
        let cached = TrainConfig {
            reference: ReferenceUse::Cached,
            ..live.clone()
        };
        let (_, _, live) = learned(&live, &model, &played);
        let (_, _, cached) = learned(&cached, &model, &played);
        assert_eq!(live.len(), cached.len());
        for (live, cached) in live.iter().zip(&cached) {
            for column in ["loss/policy", "kl/k3", "log_ratio/p50"] {
                let (live, cached) = (number(live, column), number(cached, column));
                assert!(
                    (live - cached).abs() < 1e-4 * (1.0 + live.abs()),
                    "{algorithm:?}, {column}: {live} and {cached}"
                );
            }
            assert!(!live["kl/exact"].is_empty() && cached["kl/exact"].is_empty());
        }
    }
}

/// Games that are held out are read by no update, decide when to stop, and the best weights are kept.
#[test]
fn a_lesson_stops_where_held_out_games_say_so() {
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
    assert!(read.held_out >= 4, "a game's four episodes");
    let looks: Vec<f64> = rows
        .iter()
        .filter(|row| !row["loss/held_out"].is_empty())
        .map(|row| number(row, "loss/held_out"))
        .collect();
    assert_eq!(looks.len(), rows.len() / 2);
    assert!(rows.len() < 60, "it went on to the end");
    let best = looks.iter().copied().fold(f64::INFINITY, f64::min);
    assert_eq!(
        looks[looks.len() - 3],
        best,
        "two looks after the best it stopped: {looks:?}"
    );
    let until_best = 2 * (looks.len() - 2);
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
        assert_eq!(whole.policy, stopped.policy, "both kept the best");
    }
}

/// A policy that leaves its reference further behind than allowed stops the job, and its batch can be read.
#[test]
fn a_policy_that_runs_away_is_stopped() {
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
    assert!(!metrics(out.path()).is_empty(), "rows before it stay");
    let events =
        std::fs::metadata(out.path().join("tensorboard/events.out.tfevents.hearth")).unwrap();
    assert!(events.len() > 1000, "TensorBoard has them too");
}

/// On one batch that is read again and again, a loss that is descended goes down.
#[test]
fn every_algorithm_lowers_its_loss() {
    let model = babbler(22);
    let played = of(&rollouts(&model), |outcome| outcome == Outcome::Success);
    let optimizer = OptimizerRecipe {
        updates: 6,
        ..one_update(&played, 1e-2)
    };
    let transcript = Algorithm::Sft {
        targets: Targets::Transcript,
    };
    for (algorithm, column) in [
        (SFT, "loss/policy"),
        (transcript, "loss/policy"),
        (oreo(Level::Turn, 0.0), "loss/value"),
        (oreo(Level::Token, 0.0), "loss/value"),
    ] {
        let (_, _, rows) = learned(
            &recipe(algorithm.clone(), optimizer.clone()),
            &model,
            &played,
        );
        let (first, last) = (number(&rows[0], column), number(&rows[5], column));
        assert!(
            last < 0.95 * first,
            "{algorithm:?}: {first} before, {last} after"
        );
    }
}

/// In bf16 the first losses are nearly those of f32, policy and reference are still the same to the bit, and what is
/// descended goes down.
#[test]
fn half_precision_learns_too() {
    let model = babbler(22);
    let played = of(&rollouts(&model), |outcome| outcome == Outcome::Success);
    let optimizer = OptimizerRecipe {
        updates: 6,
        ..one_update(&played, 1e-2)
    };
    for (algorithm, column) in [(SFT, "loss/policy"), (oreo(Level::Turn, 0.0), "loss/value")] {
        let wide = recipe(algorithm, optimizer.clone());
        let (_, _, wide_rows) = learned(&wide, &model, &played);
        let narrow = TrainConfig {
            precision: Precision::Bf16,
            ..wide
        };
        let (_, _, rows) = learned(&narrow, &model, &played);
        let (expected, first, last) = (
            number(&wide_rows[0], column),
            number(&rows[0], column),
            number(&rows[5], column),
        );
        assert!(
            (first - expected).abs() < 0.02 * expected,
            "{first} in bf16, {expected} in f32"
        );
        assert!(last < 0.95 * first, "{first} before, {last} after");
        let same = |column: &str| rows[0][column].is_empty() || number(&rows[0], column) == 0.0;
        assert!(same("log_ratio/p95") && same("kl/exact"));
        assert_ne!(
            rows[1][column], wide_rows[1][column],
            "the precision was used"
        );
    }
}

/// What lies below the last layer stays to the bit, the rest moves, and the first loss is the whole model's.
#[test]
fn only_the_last_layers_learn_where_that_is_asked() {
    let model = babbler(24);
    let last = model.config.num_hidden_layers - 1;
    let played = of(&rollouts(&model), |outcome| outcome == Outcome::Success);
    let optimizer = OptimizerRecipe {
        updates: 4,
        ..one_update(&played, 1e-2)
    };
    for algorithm in [SFT, oreo(Level::Turn, 0.0)] {
        let everything = recipe(algorithm, optimizer.clone());
        let last_layer = OptimizerRecipe {
            last_layers: 1,
            ..optimizer.clone()
        };
        let (learned_some, _, rows) = learned(
            &TrainConfig {
                optimizer: last_layer,
                ..everything.clone()
            },
            &model,
            &played,
        );
        let (_, _, all_rows) = learned(&everything, &model, &played);
        assert_eq!(rows[0]["loss/policy"], all_rows[0]["loss/policy"]);
        let value = learned_some
            .value
            .iter()
            .flat_map(|value| &value.0)
            .filter(|(name, _)| *name != VALUE_HEAD);
        for (name, tensor) in learned_some.policy.0.iter().chain(value) {
            let moves =
                name.starts_with(&format!("model.layers.{last}.")) || name == "model.norm.weight";
            assert_eq!(*tensor != model.policy.0[name], moves, "{name}");
        }
    }
}

/// At rate 0 the policy stays, so rows can be compared: a batch's loss is its singles' mean, each by its tokens.
#[test]
fn neither_padding_nor_order_nor_company_changes_a_loss() {
    let model = babbler(23);
    let played = rollouts(&model);
    for targets in [Targets::Actions, Targets::Transcript] {
        let count = |t: &Trajectory| match targets {
            Targets::Actions => t
                .turns
                .iter()
                .map(|turn| turn.completion_tokens.len())
                .sum(),
            Targets::Transcript => t.tokens() - 1,
        };
        let algorithm = Algorithm::Sft { targets };
        let loss_of = |trajectories: &[Trajectory]| {
            let (_, _, rows) = learned(
                &recipe(algorithm.clone(), one_update(trajectories, 0.0)),
                &model,
                trajectories,
            );
            assert_eq!(rows.len(), 1);
            number(&rows[0], "loss/policy")
        };
        let total: usize = played.iter().map(count).sum();
        let singles: f64 = played
            .iter()
            .map(|t| loss_of(std::slice::from_ref(t)) * count(t) as f64)
            .sum();
        let backwards: Vec<Trajectory> = played.iter().rev().cloned().collect();
        let (forwards, backwards) = (loss_of(&played), loss_of(&backwards));
        assert!(
            (forwards - singles / total as f64).abs() < 1e-5,
            "{forwards} together, {} alone",
            singles / total as f64
        );
        assert!(
            (forwards - backwards).abs() < 1e-5,
            "{forwards} and backwards {backwards}"
        );
    }
}

/// Rejection sampling on everything and imitation of the wins alone are the same job, to the bit.
#[test]
fn rejection_sampling_reads_only_successes() {
    let model = babbler(24);
    let played = rollouts(&model);
    let won = of(&played, |outcome| outcome == Outcome::Success);
    let optimizer = OptimizerRecipe {
        batch: 3,
        updates: 4,
        ..OptimizerRecipe::default()
    };
    let (chosen, read, rows) = learned(
        &recipe(REJECTION_SAMPLING, optimizer.clone()),
        &model,
        &played,
    );
    let (imitated, nothing, _) = learned(&recipe(SFT, optimizer), &model, &won);
    assert_eq!(chosen.policy, imitated.policy);
    assert_ne!(chosen.policy, model.policy);
    assert_eq!(
        read.left_out,
        LeftOut {
            failures: played.len() - won.len(),
            ..LeftOut::default()
        }
    );
    assert_eq!((read.trajectories, read.successes), (won.len(), won.len()));
    assert_eq!(nothing.left_out, LeftOut::default());
    assert!(rows.iter().all(|row| number(row, "success_rate") == 1.0));
}

#[test]
fn what_is_left_out_is_counted_by_its_reason() {
    let mut model = babbler(25);
    let good = scripted(&model, "plain/2", &["east", "east"]);
    let failed = scripted(&model, "plain/9", &["east", "look"]);
    let lost = scripted(&model, "rotten/9", &["east", "east"]);
    let turnless = scripted(&model, "plain/0", &[]);
    let long = scripted(
        &model,
        "plain/9",
        &["look", "west", "look", "west", "look", "west"],
    );
    let mut blank = good.clone();
    blank.turns[1].completion_tokens.clear();
    model.config.max_position_embeddings = long.tokens() - 1;
    let all = [
        good.clone(),
        lost.clone(),
        lost,
        failed,
        turnless,
        blank,
        long,
    ];
    let counted = |algorithm| {
        let (_, read, rows) = learned(&recipe(algorithm, one_update(&all, 1e-3)), &model, &all);
        (read.left_out, rows[0]["trajectories"].clone())
    };
    let left_out = LeftOut {
        env_failed: 2,
        too_long: 1,
        empty: 2,
        ..LeftOut::default()
    };
    assert_eq!(counted(SFT), (left_out, "2".into()));
    assert_eq!(
        counted(REJECTION_SAMPLING),
        (
            LeftOut {
                failures: 1,
                ..left_out
            },
            "1".into()
        )
    );

    let out = tempfile::tempdir().unwrap();
    let error = learn(
        &recipe(REJECTION_SAMPLING, one_update(&all, 1e-3)),
        &model,
        &all[1..],
        out.path(),
    )
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "nothing to learn from: job job: no trajectory remains of 6 (left out: 1 failures, 2 lost to the world, 1 longer than the context, 2 without tokens)"
    );
}

/// The versions of the start and of what the updates read; nothing of what was left out or not reached.
#[test]
fn a_model_keeps_the_text_versions_that_it_learned_from() {
    let model = babbler(25);
    let silent = scripted(&model, "plain/2", &["east", "east"]);
    let arriving = |trajectory: &Trajectory, place: &str| {
        let mut speaking = trajectory.clone();
        speaking.turns[0].action = Some("go to desk 1".into());
        speaking.turns[1].observation =
            format!("You arrive at {place}. On the desk 1, you see nothing.");
        speaking
    };
    let (older, newer) = (arriving(&silent, "loc 14"), arriving(&silent, "desk 1"));
    let failed = arriving(&scripted(&model, "plain/9", &["east", "look"]), "loc 14");
    let versions = |algorithm: Algorithm, start: &Model, data: &[&Trajectory], updates: usize| {
        let optimizer = OptimizerRecipe {
            batch: 1,
            updates,
            ..OptimizerRecipe::default()
        };
        let data: Vec<Trajectory> = data.iter().copied().cloned().collect();
        learned(&recipe(algorithm, optimizer), start, &data)
            .0
            .text_versions
            .into_iter()
            .collect::<Vec<_>>()
    };
    let (v1, v3) = (TextVersion::V2_1_1, TextVersion::V2_1_3);
    assert_eq!(versions(SFT, &model, &[&silent, &silent], 2), []);
    assert_eq!(versions(SFT, &model, &[&newer, &silent], 2), [v3]);
    assert_eq!(versions(SFT, &model, &[&newer, &older], 2), [v1, v3]);
    assert_eq!(
        versions(SFT, &model, &[&newer, &older], 1).len(),
        1,
        "one update reads one of them"
    );
    assert_eq!(versions(SFT, &model, &[&newer, &failed], 2), [v1, v3]);
    assert_eq!(
        versions(REJECTION_SAMPLING, &model, &[&newer, &failed], 2),
        [v3],
        "the failure is left out"
    );
    let start = Model {
        text_versions: [v1].into(),
        ..model
    };
    assert_eq!(versions(SFT, &start, &[&silent], 1), [v1]);
    assert_eq!(
        versions(oreo(Level::Turn, 0.0), &start, &[&newer], 1),
        [v1, v3]
    );
}

/// An epoch reads everything once; every epoch in another order; the same seed in the same order.
#[test]
fn every_epoch_reads_everything_once_and_has_its_rows() {
    let model = babbler(26);
    let played = rollouts(&model);
    let optimizer = OptimizerRecipe {
        batch: 5,
        epochs: 2,
        ..OptimizerRecipe::default()
    };
    let job = recipe(SFT, optimizer);
    let (_, _, rows) = learned(&job, &model, &played);
    let column = |name: &str| rows.iter().map(|row| row[name].clone()).collect::<Vec<_>>();
    assert_eq!(column("update"), ["0", "1", "2", "3", "4", "5"]);
    assert_eq!(column("epoch"), ["0", "0", "0", "1", "1", "1"]);
    let tokens: usize = played.iter().map(Trajectory::tokens).sum();
    for epoch in rows.chunks(3) {
        assert!(
            (epoch
                .iter()
                .map(|row| number(row, "trajectories"))
                .sum::<f64>()
                - played.len() as f64)
                .abs()
                < 1e-9
        );
        assert!(
            (epoch.iter().map(|row| number(row, "tokens")).sum::<f64>() - tokens as f64).abs()
                < 1e-9
        );
    }
    let (again, _, _) = learned(&job, &model, &played);
    assert_eq!(again.policy, learned(&job, &model, &played).0.policy);
}

#[test]
fn a_number_that_is_none_stops_the_lesson_and_is_named() {
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
        "update 0: the policy loss is NaN; the episodes of its batch stand in {}\nhint: a smaller learning rate, or a look at the last rows of metrics.csv",
        batch.display()
    );
    assert_eq!(error.to_string(), expected);
    let saved = scenarios::store::Store::read(&batch).unwrap();
    assert_eq!(saved.len(), played.len(), "the batch was saved");
    assert_eq!(metrics(out.path()).len(), 0, "only finite rows are written");
}

/// A job that ends a few updates after its checkpoint leaves that checkpoint behind, just as a killed one would. The
/// second call then begins there, and must end in the same bits. `after` is what the kill left in metrics.csv.
#[track_caller]
fn resuming_equals_not_stopping(algorithm: Algorithm, after: impl Fn(&mut String)) {
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
    let job = recipe(algorithm, optimizer);
    let out = tempfile::tempdir().unwrap();
    let (whole, left_out) = learn(&job, &model, &played, out.path()).unwrap();
    let whole_rows = metrics(out.path());
    assert_eq!(whole_rows.len(), updates);
    assert!(out.path().join("checkpoint/position.json").exists());

    let path = out.path().join("metrics.csv");
    let mut text = std::fs::read_to_string(&path).unwrap();
    after(&mut text);
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
        "the others were learned again"
    );
    let timeless = |rows: &[MetricsRow]| {
        let timed =
            |name: &str| name == "seconds" || name == "tokens_per_s" || name.starts_with("time/");
        let without = |row: &MetricsRow| {
            row.iter()
                .filter(|(name, _)| !timed(name))
                .map(|(n, v)| (n.clone(), v.clone()))
                .collect()
        };
        rows.iter().map(without).collect::<Vec<MetricsRow>>()
    };
    assert_eq!(rows.len(), updates, "one row an update");
    assert_eq!(
        timeless(&rows)[CHECKPOINT..],
        timeless(&whole_rows)[CHECKPOINT..],
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

/// Killed in the middle of a row of metrics.csv.
#[test]
fn resuming_an_imitation_equals_not_stopping() {
    resuming_equals_not_stopping(SFT, |text| text.truncate(text.len() - 40));
}

/// The policy has had fewer updates than the value network when the checkpoint is written.
#[test]
fn resuming_oreo_with_a_value_warmup_equals_not_stopping() {
    resuming_equals_not_stopping(oreo(Level::Token, 0.9), |_| {});
}

/// Early stopping, a cached reference and a batch of pairs; the best look lies before the checkpoint.
#[test]
fn resuming_with_everything_else_equals_not_stopping() {
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

/// The policy has had no update at all when the checkpoint is written.
#[test]
fn resuming_within_the_value_warmup_equals_not_stopping() {
    resuming_equals_not_stopping(oreo(Level::Turn, 0.97), |_| {});
}
