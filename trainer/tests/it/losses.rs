//! The losses of training jobs: at the first update, and over several updates.

use crate::training_jobs::{SFT, learned, number, of, one_update, oreo, recipe, rollouts};
use agent::model::decoder::Precision;
use agent::model::weights::{ADVANTAGE_HEAD, VALUE_HEAD, Weights};
use scenarios::{Outcome, Trajectory};
use support::corridor::babbler;
use trainer::learn::optimizer::{Activations, OptimizerRecipe};
use trainer::pipeline::recipe::{
    Algorithm, CriticConfig, CriticInit, Level, Normalisation, ReferenceUse, Targets, TrainConfig,
    ValueLoss,
};

/// Fact T11: at update 0 the zero head gives V ≡ 0, and ρ = 0. So the residual of every action is
/// −R, and its mean square is the success rate, at both levels.
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

/// Fact T12: if no episode was won, and V = 0 and ρ = 0, all gradients are 0 and the weights keep
/// every bit.
#[test]
fn failures_alone_have_no_gradient_at_first() {
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

/// With a tiny β the policy's first gradient is that of the imitation of won episodes alone, in proportion to its
/// weight. Lost episodes add nothing to it.
#[test]
fn won_episodes_are_imitated_beside_oreo() {
    let model = babbler(21);
    let played = rollouts(&model);
    let lost = of(&played, |outcome| outcome != Outcome::Success);
    let norm = |weight: f64, episodes: &[Trajectory]| {
        let mut algorithm = oreo(Level::Turn, 0.0);
        if let Algorithm::Oreo {
            beta,
            imitation_coef,
            ..
        } = &mut algorithm
        {
            (*beta, *imitation_coef) = (1e-9, weight);
        }
        let job = recipe(algorithm, one_update(episodes, 1e-2));
        let (_, _, rows) = learned(&job, &model, episodes);
        number(&rows[0], "gradient_norm/policy")
    };
    let one = norm(1.0, &played);
    assert!(one > 1e-3 && norm(0.0, &played) < 1e-6 * one);
    assert!((norm(3.0, &played) / one - 3.0).abs() < 1e-4);
    assert_eq!(norm(1.0, &lost), 0.0);
}

/// If only the value network learns, the policy keeps every bit; afterwards both move.
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

/// If the reference is cached, the losses are the same up to rounding, and the exact KL is absent.
#[test]
fn a_cached_reference_gives_the_same_losses() {
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
                let live = number(live, column);
                let cached = number(cached, column);
                assert!(
                    (live - cached).abs() < 1e-4 * (1.0 + live.abs()),
                    "{algorithm:?}, {column}: {live} and {cached}"
                );
            }
            assert!(!live["kl/exact"].is_empty() && cached["kl/exact"].is_empty());
        }
    }
}

/// If one batch is read repeatedly, the loss that is minimised decreases.
#[test]
fn the_minimised_loss_decreases() {
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
        let first = number(&rows[0], column);
        let last = number(&rows[5], column);
        assert!(
            last < 0.95 * first,
            "{algorithm:?}: {first} before, {last} after"
        );
    }
}

/// In bf16 the first losses are nearly those of f32. At first, policy and reference are the same to
/// the bit. The minimised loss decreases.
#[test]
fn the_loss_decreases_in_bf16_too() {
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
        let expected = number(&wide_rows[0], column);
        let first = number(&rows[0], column);
        let last = number(&rows[5], column);
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

/// If only the last layer learns, all tensors below it keep every bit, the others move, and the
/// first loss is that of the whole model.
#[test]
fn only_the_last_layers_move_if_the_recipe_says_so() {
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

/// If the learning rate is 0, the policy stays and rows can be compared. The loss of a batch is the
/// mean of its singles, weighted by their tokens.
#[test]
fn padding_order_and_other_rows_change_no_loss() {
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
        let forwards = loss_of(&played);
        let backwards = loss_of(&backwards);
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

/// OREO over turns with other settings than the published ones.
fn extended(discount: f64, normalise: Normalisation, log_ratio_clip: Option<f64>) -> Algorithm {
    let mut algorithm = oreo(Level::Turn, 0.0);
    if let Algorithm::Oreo {
        discount: gamma,
        normalise: over,
        log_ratio_clip: clip,
        ..
    } = &mut algorithm
    {
        (*gamma, *over, *clip) = (discount, normalise, log_ratio_clip);
    }
    algorithm
}

/// On real episodes, if V ≡ 0 and π = π_ref, every first loss is the mean of γ^{2(T−1−t)} R²: by
/// trajectory, or over all turns of the batch.
#[test]
fn the_first_discounted_losses_depend_on_the_lengths_alone() {
    let model = babbler(22);
    let played = rollouts(&model);
    let discounted = |trajectory: &Trajectory| -> f64 {
        let left = 0..trajectory.turns.len();
        let sum: f64 = left.map(|left| 0.9_f64.powi(2 * left as i32)).sum();
        sum * trajectory.outcome.reward()
    };
    let sums: Vec<f64> = played.iter().map(discounted).collect();
    let turns: Vec<f64> = played.iter().map(|t| t.turns.len() as f64).collect();
    let means = sums.iter().zip(&turns).map(|(sum, turns)| sum / turns);
    let by_trajectory = means.sum::<f64>() / played.len() as f64;
    let by_batch = sums.iter().sum::<f64>() / turns.iter().sum::<f64>();
    assert!((by_trajectory - by_batch).abs() > 1e-2);
    for (normalise, expected) in [
        (Normalisation::Trajectory, by_trajectory),
        (Normalisation::Batch, by_batch),
    ] {
        let job = recipe(extended(0.9, normalise, None), one_update(&played, 0.0));
        let (_, _, rows) = learned(&job, &model, &played);
        for column in ["loss/policy", "loss/value", "loss/after_value"] {
            let found = number(&rows[0], column);
            assert!(
                (found - expected).abs() < 1e-5,
                "{normalise:?}, {column}: {found}, not {expected}"
            );
        }
    }
}

/// A clip of the log-ratios leaves the first update as it is, to the bit, and changes later ones.
#[test]
fn the_clip_of_log_ratios_acts_after_the_policy_moved() {
    let model = babbler(22);
    let played = &rollouts(&model)[..4];
    let optimizer = OptimizerRecipe {
        updates: 3,
        ..one_update(played, 1e-2)
    };
    let [plain, clipped] = [None, Some(1e-4)].map(|clip| {
        let algorithm = extended(1.0, Normalisation::Trajectory, clip);
        learned(&recipe(algorithm, optimizer.clone()), &model, played).2
    });
    for column in ["loss/policy", "loss/value", "loss/after_value"] {
        assert_eq!(plain[0][column], clipped[0][column]);
    }
    assert_ne!(plain[2]["loss/value"], clipped[2]["loss/value"]);
}

/// The value network's own clip and the policy's own warm-up change what they name and nothing else.
#[test]
fn the_optimizer_of_each_network_has_its_own_settings() {
    let model = babbler(22);
    let played = &rollouts(&model)[..4];
    let optimizer = OptimizerRecipe {
        updates: 4,
        weight_decay: 0.1,
        ..one_update(played, 1e-3)
    };
    let run = |optimizer: OptimizerRecipe| {
        learned(&recipe(oreo(Level::Turn, 0.5), optimizer), &model, played)
    };
    let (plain, _, plain_rows) = run(optimizer.clone());
    let (same, _, _) = run(OptimizerRecipe {
        value_gradient_clip: Some(optimizer.clip),
        ..optimizer.clone()
    });
    assert_eq!(
        (&same.policy, &same.value),
        (&plain.policy, &plain.value),
        "the common clip, named"
    );
    let (clipped, _, clipped_rows) = run(OptimizerRecipe {
        value_gradient_clip: Some(1e-9),
        ..optimizer.clone()
    });
    assert_ne!(clipped.value, plain.value);
    let norm = "gradient_norm/value";
    assert_eq!(
        clipped_rows[0][norm], plain_rows[0][norm],
        "before clipping"
    );
    let (_, _, warmed_rows) = run(OptimizerRecipe {
        policy_warmup: 4,
        ..optimizer
    });
    // Two updates of the value network alone, then the first two of the policy.
    assert!(warmed_rows[1]["gradient_norm/policy"].is_empty());
    for (row, share) in [(2, 0.25), (3, 0.5)] {
        let [warmed, plain] =
            [&warmed_rows, &plain_rows].map(|rows| number(&rows[row], "learning_rate"));
        assert!((warmed - share * plain).abs() < 1e-9, "{warmed}, {plain}");
    }
}

/// A turn-level OREO job with a form of the value network.
fn with_critic(critic: CriticConfig, optimizer: OptimizerRecipe) -> TrainConfig {
    TrainConfig {
        critic,
        ..recipe(oreo(Level::Turn, 0.0), optimizer)
    }
}

/// The names of the tensors that differ.
fn moved<'a>(before: &'a Weights, after: &Weights) -> Vec<&'a str> {
    let names = before.0.keys().map(String::as_str);
    names
        .filter(|name| before.0[*name] != after.0[*name])
        .collect()
}

/// In head-only updates the trunk of the value network keeps every bit, and the heads move. In the
/// updates after them everything moves. If activations are checkpointed, the weights are the same.
#[test]
fn the_heads_learn_alone_at_first() {
    let model = babbler(21);
    let played = rollouts(&model);
    for activations in [Activations::Kept, Activations::Checkpointed] {
        let optimizer = OptimizerRecipe {
            updates: 4,
            activations,
            ..one_update(&played, 1e-2)
        };
        let critic = CriticConfig {
            init: CriticInit::Critic,
            head_only: 1.0,
            advantage_head: true,
            next_observation_coef: 0.5,
            ..CriticConfig::default()
        };
        let (alone, _, rows) = learned(&with_critic(critic, optimizer.clone()), &model, &played);
        let start = model.value.as_ref().unwrap();
        let value = alone.value.unwrap();
        assert_eq!(moved(start, &value), [VALUE_HEAD]);
        assert!(value.0[ADVANTAGE_HEAD].data.iter().all(|w| *w != 0.0));
        assert!(
            rows.iter()
                .all(|row| number(row, "gradient_norm/value") > 0.0)
        );
        assert_ne!(alone.policy, model.policy, "the policy learns meanwhile");

        let half = CriticConfig {
            head_only: 0.5,
            ..critic
        };
        let (both, _, _) = learned(&with_critic(half, optimizer), &model, &played);
        assert_eq!(moved(start, &both.value.unwrap()).len(), start.0.len());
    }
}

/// With heads of zeros, V = U = 0 as without an advantage head, and the losses are the success rate.
/// The gradient reaches both heads.
#[test]
fn a_job_with_an_advantage_head_trains_and_keeps_it() {
    let model = babbler(21);
    let played = rollouts(&model);
    let critic = CriticConfig {
        advantage_head: true,
        ..CriticConfig::default()
    };
    let optimizer = OptimizerRecipe {
        updates: 6,
        ..one_update(&played, 1e-2)
    };
    let (trained, _, rows) = learned(&with_critic(critic, optimizer), &model, &played);
    for column in ["loss/value", "loss/after_value"] {
        assert!((number(&rows[0], column) - number(&rows[0], "success_rate")).abs() < 1e-6);
        assert!(number(&rows[5], column) < 0.95 * number(&rows[0], column));
    }
    let folder = tempfile::tempdir().unwrap();
    trained.save(folder.path()).unwrap();
    let opened = agent::model::folder::Model::open(folder.path()).unwrap();
    assert_eq!(opened.value, trained.value);
    let value = opened.value.unwrap();
    assert!(value.0[ADVANTAGE_HEAD].data.iter().all(|w| *w != 0.0));
}

/// With a head of zeros every bin has the same probability: V is the middle of the range, 0.5, and
/// the cross-entropy to any histogram is ln 51.
#[test]
fn the_first_loss_with_bins_is_the_logarithm_of_their_number() {
    let model = babbler(21);
    let played = rollouts(&model);
    let critic = CriticConfig {
        value_loss: ValueLoss::HlGauss,
        ..CriticConfig::default()
    };
    let optimizer = OptimizerRecipe {
        updates: 6,
        ..one_update(&played, 1e-2)
    };
    for level in [Level::Turn, Level::Token] {
        let job = TrainConfig {
            critic,
            ..recipe(oreo(level, 0.0), optimizer.clone())
        };
        let (trained, _, rows) = learned(&job, &model, &played);
        for column in ["loss/value", "loss/after_value"] {
            assert!((number(&rows[0], column) - 51_f64.ln()).abs() < 1e-4);
            let last = number(&rows[5], column);
            assert!(last < 51_f64.ln() - 0.05, "{column} is {last} at the end");
        }
        assert!((number(&rows[0], "value/mean") - 0.5).abs() < 1e-5);
        let shape = &trained.value.unwrap().0[VALUE_HEAD].shape;
        assert_eq!(*shape, [51, model.config.hidden_size]);
    }
}

/// If no episode was won, V = 0 and ρ = 0, only the loss on observations has a gradient. It reaches
/// the trunk of the value network, and neither its head nor the policy.
#[test]
fn the_loss_on_observations_moves_the_trunk_alone() {
    let model = babbler(21);
    let lost = of(&rollouts(&model), |outcome| outcome != Outcome::Success);
    let critic = CriticConfig {
        next_observation_coef: 0.1,
        ..CriticConfig::default()
    };
    let job = with_critic(critic, one_update(&lost, 1e-2));
    let (trained, _, rows) = learned(&job, &model, &lost);
    assert_eq!(number(&rows[0], "loss/value"), 0.0, "it is logged apart");
    assert_eq!(trained.policy, model.policy);
    let start = model.policy.with_zero_value_head(&model.config);
    let moved = moved(&start, trained.value.as_ref().unwrap());
    assert_eq!(moved.len(), start.0.len() - 1);
    assert!(!moved.contains(&VALUE_HEAD));
}
