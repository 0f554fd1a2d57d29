//! Which episodes a training job reads, and how it counts the others.

use crate::training_jobs::{
    REJECTION_SAMPLING, SFT, learn, learned, number, of, one_update, oreo, recipe, rollouts,
    scripted,
};
use agent::model::folder::Model;
use scenarios::{Outcome, TextVersion, Trajectory};
use support::corridor::babbler;
use trainer::learn::episodes::ExcludedEpisodes;
use trainer::learn::optimizer::OptimizerRecipe;
use trainer::pipeline::recipe::{Algorithm, Level};

/// If an algorithm compares episodes, it reads those that have a counterpart and counts the others.
/// If none has one, the job fails.
#[test]
fn comparing_needs_games_that_were_both_won_and_lost() {
    let model = babbler(21);
    let played = rollouts(&model);
    let lost = of(&played, |outcome| outcome != Outcome::Success);
    let won = of(&played, |outcome| outcome == Outcome::Success);
    let has_counterpart = |trajectory: &&Trajectory| {
        let same_game = played
            .iter()
            .filter(|other| other.game_hash == trajectory.game_hash);
        same_game
            .map(|episode| episode.outcome.reward())
            .any(|reward| reward != trajectory.outcome.reward())
    };
    let contrasted = played.iter().filter(has_counterpart).count();
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
            let reason = if is_pairless {
                side
            } else {
                "no game was both won and lost"
            };
            assert!(
                error.starts_with("nothing to learn from: job job: ") && error.contains(reason),
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

/// GRPO needs the log-probabilities of the sampling policy, GiGPO the states, DQO with process
/// scores the scores. If the log lacks them, the episode is counted.
#[test]
fn episodes_without_required_records_are_counted() {
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
    assert_eq!(read(&scored, &played), ExcludedEpisodes::default());
    // If V = 0 and π = π_ref, λ-returns are sums of rewards. Scores raise those of lost episodes
    // above 0.
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

/// Rejection sampling on all episodes and SFT on the won ones give the same weights, to the bit.
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
    let (selected, read, rows) = learned(
        &recipe(REJECTION_SAMPLING, optimizer.clone()),
        &model,
        &played,
    );
    let (imitated, nothing, _) = learned(&recipe(SFT, optimizer), &model, &won);
    assert_eq!(selected.policy, imitated.policy);
    assert_ne!(selected.policy, model.policy);
    assert_eq!(
        read.left_out,
        ExcludedEpisodes {
            failures: played.len() - won.len(),
            ..ExcludedEpisodes::default()
        }
    );
    assert_eq!((read.trajectories, read.successes), (won.len(), won.len()));
    assert_eq!(nothing.left_out, ExcludedEpisodes::default());
    assert!(rows.iter().all(|row| number(row, "success_rate") == 1.0));
}

#[test]
fn excluded_episodes_are_counted_by_reason() {
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
    let left_out = ExcludedEpisodes {
        env_failed: 2,
        too_long: 1,
        empty: 2,
        ..ExcludedEpisodes::default()
    };
    assert_eq!(counted(SFT), (left_out, "2".into()));
    assert_eq!(
        counted(REJECTION_SAMPLING),
        (
            ExcludedEpisodes {
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
        "nothing to learn from: job job: no trajectory remains of 6 (left out: 1 failures, 2 whose environment failed, 1 longer than the context, 2 without tokens)"
    );
}

/// The versions of the starting model and of the episodes that the updates read. Excluded episodes,
/// and those that no update reached, do not count.
#[test]
fn a_model_keeps_the_text_versions_that_it_learned_from() {
    let model = babbler(25);
    let silent = scripted(&model, "plain/2", &["east", "east"]);
    let arriving = |trajectory: &Trajectory, place: &str| {
        let mut arrived = trajectory.clone();
        arrived.turns[0].action = Some("go to desk 1".into());
        arrived.turns[1].observation =
            format!("You arrive at {place}. On the desk 1, you see nothing.");
        arrived
    };
    let older = arriving(&silent, "loc 14");
    let newer = arriving(&silent, "desk 1");
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
    let v1 = TextVersion::V2_1_1;
    let v3 = TextVersion::V2_1_3;
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
        "the failure is excluded"
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

/// An epoch reads every episode once, in an order of its own. If the seed is the same, the order is
/// the same.
#[test]
fn every_epoch_reads_every_episode_once() {
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
