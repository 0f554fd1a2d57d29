use super::*;
use crate::learn::config::{CriticConfig, CriticInit, Level, Normalisation, Ranking, Targets};
use crate::learn::critic;
use crate::learn::episodes::{Episodes, Readable};
use crate::learn::micro_batch::MicroBatchShape;
use crate::learn::objective::BatchStatistics;
use crate::learn::optimizer::Activations;
use crate::learn::parameters::NetworkGradients;
use crate::learn::ranks::Alone;
use agent::inference::device::{DeviceChoice, GpuApi};
use agent::model::decoder::Decoder;
use agent::model::folder::Model;
use agent::policy::lm::{LmPolicy, ValueUse};
use agent::rollout::Concurrency;
use agent::text::chat;
use burn::tensor::Device;
use scenarios::Candidate;
use support::corridor::{babbler, jobs, play, protocol, task};
use support::device::{choice, device};

/// Asserts that the vectors differ by little, relative to the length of `a`.
#[track_caller]
fn assert_near(a: &[f32], b: &[f32], what: &str) {
    let size = norm(a.iter().copied());
    let off = norm(a.iter().zip(b).map(|(a, b)| a - b));
    assert!(
        a.len() == b.len() && off <= f64::from(support::device::tolerance(1e-4)) * size + 1e-7,
        "{what}: off by {off}, of {size}"
    );
}

fn norm(values: impl Iterator<Item = f32>) -> f64 {
    values
        .map(|value| f64::from(value) * f64::from(value))
        .sum::<f64>()
        .sqrt()
}

/// A job of every algorithm, and of OREO with an advantage head and a loss on observations.
fn recipes() -> Vec<TrainConfig> {
    let mut found = algorithms().into_iter();
    let oreo = found.find(|algorithm| {
        matches!(
            algorithm,
            Algorithm::Oreo {
                level: Level::Turn,
                ..
            }
        )
    });
    let with_advantage = CriticConfig {
        init: CriticInit::Critic,
        advantage_head: true,
        next_observation_coef: 0.1,
        ..CriticConfig::default()
    };
    let with_advantage = TrainConfig {
        critic: with_advantage,
        ..TrainConfig::of(oreo.unwrap())
    };
    let all = algorithms().into_iter().map(TrainConfig::of);
    all.chain([with_advantage]).collect()
}

/// Every algorithm at every level that it has.
fn algorithms() -> Vec<Algorithm> {
    let beta = 0.1;
    let alpha = 0.1;
    let value_learning_rate = 1e-3;
    let critic_only_share = 0.0;
    let mut all = vec![
        Algorithm::Sft {
            targets: Targets::Actions,
        },
        Algorithm::Sft {
            targets: Targets::Transcript,
        },
        Algorithm::RejectionSampling {
            targets: Targets::Actions,
        },
        Algorithm::Oreo {
            level: Level::Response,
            beta,
            alpha,
            value_learning_rate,
            critic_only_share,
            discount: 1.0,
            normalise: Normalisation::Trajectory,
            log_ratio_clip: None,
            path_length: None,
            imitation_coef: 0.0,
        },
        Algorithm::Oreo {
            level: Level::Turn,
            beta,
            alpha,
            value_learning_rate,
            critic_only_share,
            discount: 0.9,
            normalise: Normalisation::Batch,
            log_ratio_clip: Some(0.01),
            path_length: Some(2),
            imitation_coef: 0.0,
        },
        Algorithm::Dro {
            beta,
            value_learning_rate,
            critic_only_share,
        },
        Algorithm::Dpo { beta, pairs: 5 },
        Algorithm::Kto {
            beta,
            desirable: 1.0,
            undesirable: 1.5,
        },
    ];
    for level in [Level::Turn, Level::Token] {
        all.extend([
            Algorithm::Oreo {
                level,
                beta,
                alpha,
                value_learning_rate,
                critic_only_share,
                discount: 1.0,
                normalise: Normalisation::Trajectory,
                log_ratio_clip: None,
                path_length: None,
                imitation_coef: 0.0,
            },
            Algorithm::Dqo {
                level,
                beta,
                lambda: 0.9,
                process_scores: false,
                value_learning_rate,
                critic_only_share,
            },
            Algorithm::Grpo {
                level,
                clip: 0.2,
                alpha,
            },
            Algorithm::Gigpo {
                level,
                clip: 0.2,
                alpha,
                discount: 0.9,
                omega: 1.0,
            },
        ]);
    }
    all
}

/// The losses of a batch, and its gradients as vectors.
fn losses_and_gradients(result: MicroBatchResult) -> Vec<Vec<f32>> {
    let BatchStatistics {
        loss_policy,
        loss_value,
        loss_after_value,
        kl_exact,
        kl_k3,
        ..
    } = result.statistics;
    let losses = [loss_policy, loss_value, loss_after_value, kl_exact, kl_k3]
        .into_iter()
        .flatten()
        .map(|loss| loss as f32)
        .collect();
    std::iter::once(losses)
        .chain(result.policy.map(flat))
        .chain(result.value.map(flat))
        .collect()
}

fn flat(gradients: NetworkGradients) -> Vec<f32> {
    gradients
        .iter()
        .flatten()
        .flat_map(|gradient| gradient.to_vec())
        .collect()
}

/// A job whose policy has moved away from its reference.
struct MovedPolicy<'a> {
    start: &'a Model,
    moved: &'a Model,
    plan: &'a Plan<'a>,
}

impl MovedPolicy<'_> {
    /// Losses and gradients of the groups as one batch, in micro-batches of a shape.
    fn run(
        &self,
        recipe: &TrainConfig,
        shape: MicroBatchShape,
        groups: &[TrajectoryGroup],
        device: Device,
    ) -> Vec<Vec<f32>> {
        let device = device.autodiff();
        let value = critic::initial_weights(recipe, self.start).unwrap();
        let source = NetworkSource {
            recipe,
            start: self.start,
            seed: 1,
            policy: &self.start.policy,
            value: value.as_ref(),
        };
        let placement = Placement {
            device: device.clone(),
            shape,
        };
        let mut replicas = Replicas::new(&source, placement, &Alone).unwrap();
        for networks in &mut replicas.replicas {
            networks.policy =
                Decoder::from_weights(&self.start.config, &self.moved.policy, &device).unwrap();
        }
        let pass = PassKind::Train {
            policy: true,
            critic: CriticPart::Whole,
        };
        let batch = self.plan.load(groups).unwrap();
        losses_and_gradients(replicas.run(recipe, &batch, pass).unwrap())
    }
}

/// If a batch is split for a GPU (other padding, one replica) or into single groups, if
/// activations are checkpointed, or if the order is reversed, losses and gradients of every
/// algorithm differ in rounding alone.
#[test]
fn losses_and_gradients_do_not_depend_on_padding_packing_order_or_accumulation() {
    let model = babbler(31);
    let player = LmPolicy::new(model.clone(), ValueUse::Skip).unwrap();
    let tasks = ["plain/1", "plain/2", "plain/9"].map(task);
    let mut played = play(
        &player,
        &jobs(&tasks, 4),
        &protocol(),
        Concurrency {
            workers: 2,
            episodes: 8,
        },
    );
    for (index, turn) in played
        .iter_mut()
        .flat_map(|trajectory| &mut trajectory.turns)
        .enumerate()
    {
        turn.state = Some(index as u64 % 4);
    }
    let mut moved = model.clone();
    let norm = moved.policy.0.get_mut("model.norm.weight").unwrap();
    for (index, x) in norm.data.iter_mut().enumerate() {
        *x *= 1.0 + 0.1 * (index as f32).sin();
    }
    for recipe in recipes() {
        let episodes = Episodes::in_memory(Readable::new(&recipe, 10_000), &played).unwrap();
        let plan = Plan::new(&recipe, &episodes, 1).unwrap();
        let mut groups: Vec<TrajectoryGroup> = plan
            .updates
            .iter()
            .flat_map(|(_, groups)| groups.clone())
            .collect();
        let job = MovedPolicy {
            start: &model,
            moved: &moved,
            plan: &plan,
        };
        let mut checkpointing = recipe.clone();
        checkpointing.optimizer.activations = Activations::Checkpointed;
        let cpu = MicroBatchShape::of_device(DeviceChoice::Cpu);
        let gpu = MicroBatchShape::of_device(DeviceChoice::Gpu(GpuApi::Cuda, 0));
        let single = MicroBatchShape { tokens: 1, ..cpu };
        let expected = job.run(&recipe, cpu, &groups, Device::flex());
        assert!(
            expected[1].iter().any(|gradient| *gradient != 0.0),
            "{:?}",
            recipe.algorithm
        );
        let mut others = vec![("on a GPU", job.run(&recipe, gpu, &groups, device()))];
        // A software GPU needs seconds for each.
        let is_cpu = choice() == DeviceChoice::Cpu;
        if is_cpu || matches!(recipe.algorithm, Algorithm::Sft { .. }) {
            let found = job.run(&checkpointing, cpu, &groups, device());
            others.push(("checkpointed", found));
        }
        if is_cpu {
            let found = job.run(&recipe, single, &groups, device());
            others.push(("in single groups", found));
            // KTO's reference point depends on the order of the trajectories.
            if !matches!(recipe.algorithm, Algorithm::Kto { .. }) {
                groups.reverse();
                others.push(("reversed", job.run(&recipe, cpu, &groups, device())));
            }
        }
        for (how, other) in others {
            let what = format!("{:?}, {:?}, {how}", recipe.algorithm, recipe.critic);
            assert_eq!(expected.len(), other.len(), "{what}");
            for (expected, other) in expected.iter().zip(&other) {
                assert_near(expected, other, &what);
            }
        }
    }
}

/// The losses of branch states, and their gradients, differ in rounding alone too. States have
/// different numbers of candidates, and rows of different lengths.
#[test]
fn ranking_does_not_depend_on_padding_packing_or_order() {
    let model = babbler(31);
    let player = LmPolicy::new(model.clone(), ValueUse::Skip).unwrap();
    let tasks = ["plain/2"].map(task);
    let pool = Concurrency {
        workers: 2,
        episodes: 8,
    };
    let played = play(&player, &jobs(&tasks, 4), &protocol(), pool);
    let mut branches = played.clone();
    for (index, branch) in branches.iter_mut().enumerate() {
        branch.turns.truncate(1 + index % 2);
        let texts = &["east", "west", "look"][..2 + index % 2];
        let of = texts.iter().enumerate().map(|(at, text)| Candidate {
            completion: (*text).into(),
            score: 0.0,
            count: 1,
            logprob: None,
            log_ratio: None,
            after_value: None,
            tokens: chat::completion_tokens(&model.tokenizer, text),
            returns: vec![(at * (index + 1)) as f64 % 0.7],
        });
        branch.turns.last_mut().unwrap().candidates = of.collect();
    }
    for ranking in [Ranking::Advantage, Ranking::Listwise, Ranking::BradleyTerry] {
        let mut recipe = TrainConfig::of(Algorithm::Oreo {
            level: Level::Turn,
            beta: 0.1,
            alpha: 0.0,
            value_learning_rate: 1e-3,
            critic_only_share: 0.0,
            discount: 1.0,
            normalise: Normalisation::Trajectory,
            log_ratio_clip: None,
            path_length: None,
            imitation_coef: 0.0,
        });
        recipe.critic.ranking = Some(ranking);
        recipe.critic.policy_branch_coef = 0.5;
        let episodes = Episodes::in_memory(Readable::new(&recipe, 10_000), &played).unwrap();
        let plan = Plan::new(&recipe, &episodes, 1)
            .unwrap()
            .with_branches(&recipe, &branches, 10_000, 1)
            .unwrap();
        let cpu = MicroBatchShape::of_device(DeviceChoice::Cpu);
        let gpu = MicroBatchShape::of_device(DeviceChoice::Gpu(GpuApi::Cuda, 0));
        let single = MicroBatchShape { tokens: 1, ..cpu };
        let run =
            |recipe: &TrainConfig, shape: MicroBatchShape, states: &[usize], device: Device| {
                let source = NetworkSource {
                    recipe,
                    start: &model,
                    seed: 1,
                    policy: &model.policy,
                    value: model.value.as_ref(),
                };
                let device = device.autodiff();
                let replicas = Replicas::new(&source, Placement { device, shape }, &Alone).unwrap();
                let part = CriticPart::Whole;
                let result = replicas
                    .run_ranking(recipe, &plan, states, true, part)
                    .unwrap();
                let losses = [
                    result.statistics.loss_ranking.unwrap(),
                    result.statistics.loss_policy_branch.unwrap(),
                ];
                [
                    losses.map(|loss| loss as f32).into(),
                    flat(result.policy.unwrap()),
                    flat(result.value.unwrap()),
                ]
            };
        let mut checkpointing = recipe.clone();
        checkpointing.optimizer.activations = Activations::Checkpointed;
        let expected = run(&recipe, cpu, &[0, 1, 2, 3], Device::flex());
        assert!(expected.iter().all(|part| part.iter().any(|x| *x != 0.0)));
        for (how, other) in [
            ("on a GPU", run(&recipe, gpu, &[0, 1, 2, 3], device())),
            (
                "in single states",
                run(&recipe, single, &[0, 1, 2, 3], device()),
            ),
            (
                "checkpointed",
                run(&checkpointing, cpu, &[0, 1, 2, 3], device()),
            ),
            ("reversed", run(&recipe, cpu, &[3, 2, 1, 0], device())),
        ] {
            for (expected, other) in expected.iter().zip(&other) {
                assert_near(expected, other, &format!("{ranking:?} {how}"));
            }
        }
    }
}
