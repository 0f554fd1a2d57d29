//! What a job minimises: from what networks say about a batch to the losses of [`crate::loss`].
//!
//! The networks stand behind [`Networks`]: the decoders of a job, or the tables of [`crate::selftest`], whose optima are
//! known. Both are learned through the functions of this file. It knows nothing of optimizers, devices or files.

use crate::learn::batch::BatchTensors;
use crate::loss::dpo::{DpoInputs, dpo_loss};
use crate::loss::dqo::{self, DqoInputs};
use crate::loss::dro::{self, DroInputs};
use crate::loss::grpo::{SurrogateInputs, clipped_surrogate_loss};
use crate::loss::kto::{KtoInputs, KtoWeights, kto_loss};
use crate::loss::oreo::{self, OreoInputs, after_value_loss, exact_kl, turn_sums};
use crate::loss::{k3_kl, sft, suffix_sum, target_logprobs};
use crate::pipeline::recipe::{Algorithm, Level, Targets};
use burn::tensor::{Tensor, activation};
use kernels::fused;

/// What a job asks its networks.
pub trait Networks {
    /// The policy's logits before every token that it wrote, `[batch, written, vocab]`.
    fn policy_logits(&self, batch: &BatchTensors) -> Tensor<3>;
    /// The reference's, without a gradient, `[batch, written, vocab]`.
    fn reference_logits(&self, batch: &BatchTensors) -> Tensor<3>;
    /// The policy's logits at every position, `[batch, time, vocab]`.
    fn transcript_logits(&self, batch: &BatchTensors) -> Tensor<3>;
    /// The value of the state that ends at each position, reward units, `[batch, time]`.
    fn values(&self, batch: &BatchTensors) -> Tensor<2>;
}

/// What a batch alone does not say.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// False while only the value network learns.
    pub policy_learns: bool,
    /// KTO's z₀ of the whole batch, nats; no other algorithm reads it.
    pub reference_point: f64,
}

/// Losses to descend, `[1]` each, and what is worth knowing about them.
pub struct Losses {
    /// The policy's, where it learns.
    pub policy: Option<Tensor<1>>,
    /// The value network's, where there is one.
    pub value: Option<Tensor<1>>,
    /// Numbers of this batch.
    pub watched: Watched,
}

/// Numbers of a batch, or of its parts together.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Watched {
    /// Of the policy, without `α L_reg`.
    pub loss_policy: Option<f64>,
    /// Of V.
    pub loss_value: Option<f64>,
    /// Of U.
    pub loss_after_value: Option<f64>,
    /// D_KL(π_θ ‖ π_ref) over the whole vocabulary, nats a token.
    pub kl_exact: Option<f64>,
    /// Its estimate from the written tokens alone, nats a token.
    pub kl_k3: Option<f64>,
    /// ρ of each trajectory, summed over its tokens, nats.
    pub log_ratios: Vec<f64>,
    /// V before each action, and whether its trajectory was won.
    pub values: Vec<(f64, bool)>,
}

impl Watched {
    /// Adds a part's numbers: means by the part's share, lists whole.
    pub fn add(&mut self, part: Self, share: f64) {
        let add = |whole: &mut Option<f64>, part: Option<f64>| {
            if let Some(part) = part {
                *whole = Some(whole.unwrap_or(0.0) + share * part);
            }
        };
        add(&mut self.loss_policy, part.loss_policy);
        add(&mut self.loss_value, part.loss_value);
        add(&mut self.loss_after_value, part.loss_after_value);
        add(&mut self.kl_exact, part.kl_exact);
        add(&mut self.kl_k3, part.kl_k3);
        self.log_ratios.extend(part.log_ratios);
        self.values.extend(part.values);
    }
}

/// The losses of one batch, or of one part of it.
///
/// DPO reads its rows in pairs: won, lost, won, lost.
#[must_use]
pub fn losses(
    algorithm: &Algorithm,
    networks: &impl Networks,
    batch: &BatchTensors,
    moment: Moment,
) -> Losses {
    let losses = match *algorithm {
        Algorithm::Sft { targets } | Algorithm::RejectionSampling { targets } => {
            imitation(targets, networks, batch)
        }
        Algorithm::Oreo {
            level, beta, alpha, ..
        } => {
            let spoken = Spoken::new(networks, batch, alpha);
            let values = networks.values(batch);
            let inputs = actions(level, batch, spoken.log_ratios.clone(), values.clone());
            let (value, policy) = match level {
                Level::Response => (
                    oreo::response_value_loss(&inputs, beta),
                    oreo::response_policy_loss(&inputs, beta),
                ),
                Level::Turn | Level::Token => (
                    oreo::value_loss(&inputs, beta),
                    oreo::policy_loss(&inputs, beta),
                ),
            };
            let after = after_value_loss(after_values(level, batch, values), &inputs, beta);
            spoken.with_critic(policy, value, after, &inputs, batch)
        }
        Algorithm::Dqo {
            level,
            beta,
            lambda,
            ..
        } => {
            let spoken = Spoken::new(networks, batch, 0.0);
            let values = networks.values(batch);
            let mut inputs = actions(level, batch, spoken.log_ratios.clone(), values.clone());
            let rewards = match level {
                Level::Token => batch.written.rewards.clone(),
                Level::Turn | Level::Response => batch.rewards.clone(),
            };
            let rewards = rewards.cast(inputs.values.dtype());
            inputs.returns = suffix_sum(rewards.clone());
            let OreoInputs {
                log_ratios,
                values: before,
                action_mask,
                ..
            } = inputs.clone();
            let terms = DqoInputs {
                log_ratios,
                values: before,
                rewards,
                action_mask,
            };
            let weights = dqo::trajectory_weights(&terms);
            let value = dqo::value_loss(&terms, &weights, beta, lambda);
            let policy = dqo::policy_loss(&terms, &weights, beta, lambda);
            let after = after_value_loss(after_values(level, batch, values), &inputs, beta);
            spoken.with_critic(policy, value, after, &inputs, batch)
        }
        Algorithm::Dro { beta, .. } => {
            let spoken = Spoken::new(networks, batch, 0.0);
            let values = networks.values(batch);
            let inputs = actions(
                Level::Response,
                batch,
                spoken.log_ratios.clone(),
                values.clone(),
            );
            let terms = DroInputs {
                log_ratios: spoken.sums(batch),
                values: inputs.values.clone().narrow(1, 0, 1).squeeze_dim(1),
                returns: inputs.returns.clone().squeeze_dim(1),
            };
            let (value, policy) = (
                dro::value_loss(&terms, beta),
                dro::policy_loss(&terms, beta),
            );
            let after =
                after_value_loss(after_values(Level::Response, batch, values), &inputs, beta);
            spoken.with_critic(policy, value, after, &inputs, batch)
        }
        Algorithm::Dpo { beta, .. } => {
            let spoken = Spoken::new(networks, batch, 0.0);
            let sums = spoken.sums(batch);
            let pairs: Tensor<2> = sums.clone().reshape([-1, 2]);
            let of = |place: usize| pairs.clone().narrow(1, place, 1).squeeze_dim(1);
            let inputs = DpoInputs {
                chosen_log_ratios: of(0),
                rejected_log_ratios: of(1),
            };
            spoken.alone(dpo_loss(&inputs, beta), batch)
        }
        Algorithm::Kto {
            beta,
            desirable,
            undesirable,
        } => {
            let spoken = Spoken::new(networks, batch, 0.0);
            let won = batch.returns.clone().squeeze_dim::<1>(1).greater_elem(0.5);
            let inputs = KtoInputs {
                log_ratios: spoken.sums(batch),
                desirable: won,
            };
            let weights = KtoWeights {
                desirable,
                undesirable,
            };
            spoken.alone(
                kto_loss(&inputs, moment.reference_point, beta, weights),
                batch,
            )
        }
        Algorithm::Grpo { level, clip, alpha }
        | Algorithm::Gigpo {
            level, clip, alpha, ..
        } => {
            let spoken = Spoken::new(networks, batch, alpha);
            let inputs = spoken.surrogate(level, batch);
            spoken.alone(clipped_surrogate_loss(&inputs, clip), batch)
        }
    };
    Losses {
        policy: losses.policy.filter(|_| moment.policy_learns),
        ..losses
    }
}

/// ρ of each trajectory, nats, without a gradient.
#[must_use]
pub fn trajectory_log_ratios(networks: &impl Networks, batch: &BatchTensors) -> Vec<f64> {
    numbers(Spoken::new(networks, batch, 0.0).sums(batch))
}

/// What OREO's losses look at, at a level.
#[must_use]
pub fn oreo_inputs(level: Level, networks: &impl Networks, batch: &BatchTensors) -> OreoInputs {
    actions(
        level,
        batch,
        Spoken::new(networks, batch, 0.0).log_ratios,
        networks.values(batch),
    )
}

/// ln π_ref of every written token of every trajectory, nats.
#[must_use]
pub fn reference_logprobs(networks: &impl Networks, batch: &BatchTensors) -> Vec<Vec<f32>> {
    let written = &batch.written;
    let [_, width] = written.targets.dims();
    let logprobs: Vec<f32> =
        target_logprobs(networks.reference_logits(batch), written.targets.clone())
            .into_data()
            .iter::<f32>()
            .collect();
    let mask: Vec<bool> = written.mask.clone().into_data().iter::<bool>().collect();
    let row = |(logprobs, mask): (&[f32], &[bool])| {
        logprobs
            .iter()
            .zip(mask)
            .filter(|(_, written)| **written)
            .map(|(logprob, _)| *logprob)
            .collect()
    };
    logprobs
        .chunks(width)
        .zip(mask.chunks(width))
        .map(row)
        .collect()
}

/// SFT, and rejection sampling, which is SFT on successes.
fn imitation(targets: Targets, networks: &impl Networks, batch: &BatchTensors) -> Losses {
    let loss = match targets {
        Targets::Actions => {
            let logprobs =
                target_logprobs(networks.policy_logits(batch), batch.written.targets.clone());
            sft::sft_loss(logprobs, &batch.written.imitated_mask)
        }
        Targets::Transcript => {
            let logprobs =
                target_logprobs(networks.transcript_logits(batch), batch.targets.clone());
            sft::transcript_loss(logprobs, &batch.imitated_mask)
        }
    };
    let watched = Watched {
        loss_policy: Some(number(&loss)),
        ..Watched::default()
    };
    Losses {
        policy: Some(loss),
        value: None,
        watched,
    }
}

/// What policy and reference say of the written tokens.
struct Spoken {
    /// ln π_θ, nats, `[batch, written]`.
    logprobs: Tensor<2>,
    /// ρ, nats, `[batch, written]`.
    log_ratios: Tensor<2>,
    /// The exact KL, where the reference is live.
    kl: Option<Tensor<1>>,
    /// Its weight.
    alpha: f64,
}

impl Spoken {
    fn new(networks: &impl Networks, batch: &BatchTensors, alpha: f64) -> Self {
        let written = &batch.written;
        let logits = networks.policy_logits(batch);
        if let Some(reference) = &written.reference_logprobs {
            let logprobs = target_logprobs(logits, written.targets.clone());
            let log_ratios = logprobs.clone() - reference.clone().cast(logprobs.dtype());
            return Self {
                logprobs,
                log_ratios,
                kl: None,
                alpha,
            };
        }
        let policy = log_softmax(logits);
        let reference = log_softmax(networks.reference_logits(batch)).detach();
        let logprobs = written.of_targets(policy.clone());
        let log_ratios = logprobs.clone() - written.of_targets(reference.clone());
        let policy = if alpha > 0.0 { policy } else { policy.detach() };
        Self {
            logprobs,
            log_ratios,
            kl: Some(exact_kl(policy, reference, &written.mask)),
            alpha,
        }
    }

    /// ρ of each trajectory, `[batch]`.
    fn sums(&self, batch: &BatchTensors) -> Tensor<1> {
        let elsewhere = batch.written.mask.clone().bool_not();
        self.log_ratios
            .clone()
            .mask_fill(elsewhere, 0.0)
            .sum_dim(1)
            .squeeze_dim(1)
    }

    /// Against the policy that sampled, action by action.
    fn surrogate(&self, level: Level, batch: &BatchTensors) -> SurrogateInputs {
        let written = &batch.written;
        let dtype = self.logprobs.dtype();
        let log_ratios = self.logprobs.clone() - written.behaviour_logprobs.clone().cast(dtype);
        let advantages = batch.advantages.clone().cast(dtype);
        match level {
            Level::Token => SurrogateInputs {
                log_ratios,
                advantages: advantages.gather(1, written.turns.clone()),
                action_mask: written.mask.clone(),
            },
            Level::Turn | Level::Response => SurrogateInputs {
                log_ratios: by_turn(log_ratios, batch),
                advantages,
                action_mask: batch.turn_mask.clone(),
            },
        }
    }

    /// The losses of an algorithm without a value network.
    fn alone(self, loss: Tensor<1>, batch: &BatchTensors) -> Losses {
        let watched = Watched {
            loss_policy: Some(number(&loss)),
            ..self.watched(batch)
        };
        Losses {
            policy: Some(self.regularised(loss)),
            value: None,
            watched,
        }
    }

    /// The losses of an algorithm with one: V's and U's go back through one trunk, so they are added first.
    fn with_critic(
        self,
        policy: Tensor<1>,
        value: Tensor<1>,
        after: Tensor<1>,
        inputs: &OreoInputs,
        batch: &BatchTensors,
    ) -> Losses {
        let watched = Watched {
            loss_policy: Some(number(&policy)),
            loss_value: Some(number(&value)),
            loss_after_value: Some(number(&after)),
            values: values_and_outcomes(inputs, batch),
            ..self.watched(batch)
        };
        Losses {
            policy: Some(self.regularised(policy)),
            value: Some(value + after),
            watched,
        }
    }

    /// The loss and `α L_reg`.
    fn regularised(self, loss: Tensor<1>) -> Tensor<1> {
        match self.kl {
            Some(kl) if self.alpha > 0.0 => loss + kl * self.alpha,
            _ => loss,
        }
    }

    fn watched(&self, batch: &BatchTensors) -> Watched {
        let log_ratios = self.log_ratios.clone().detach();
        Watched {
            kl_exact: self.kl.as_ref().map(number),
            kl_k3: Some(number(&k3_kl(log_ratios, &batch.written.mask))),
            log_ratios: numbers(self.sums(batch)),
            ..Watched::default()
        }
    }
}

/// Actions of a level: token log-ratios `[batch, written]` and values `[batch, time]` become `[batch, actions]`. At the
/// response level they are turns too, of whose values only the first counts.
fn actions(
    level: Level,
    batch: &BatchTensors,
    log_ratios: Tensor<2>,
    values: Tensor<2>,
) -> OreoInputs {
    let returns = batch.returns.clone().cast(values.dtype());
    match level {
        Level::Turn | Level::Response => OreoInputs {
            log_ratios: by_turn(log_ratios, batch),
            values: values.gather(1, batch.before_positions.clone()),
            returns,
            action_mask: batch.turn_mask.clone(),
        },
        Level::Token => OreoInputs {
            log_ratios,
            values: values.gather(1, batch.written.positions.clone()),
            returns,
            action_mask: batch.written.mask.clone(),
        },
    }
}

/// U just after each action; `values` `[batch, time]`.
fn after_values(level: Level, batch: &BatchTensors, values: Tensor<2>) -> Tensor<2> {
    match level {
        Level::Turn | Level::Response => values.gather(1, batch.after_positions.clone()),
        Level::Token => {
            let after = batch.written.positions.clone() + batch.written.mask.clone().int();
            values.gather(1, after)
        }
    }
}

/// Sums over each turn.
fn by_turn(terms: Tensor<2>, batch: &BatchTensors) -> Tensor<2> {
    let [_, turns] = batch.turn_mask.dims();
    turn_sums(
        terms,
        batch.written.turns.clone(),
        &batch.written.mask,
        turns,
    )
}

fn values_and_outcomes(inputs: &OreoInputs, batch: &BatchTensors) -> Vec<(f64, bool)> {
    let [_, actions] = inputs.action_mask.dims();
    let values = numbers(inputs.values.clone());
    let mask: Vec<bool> = inputs
        .action_mask
        .clone()
        .into_data()
        .iter::<bool>()
        .collect();
    let won: Vec<bool> = numbers(batch.returns.clone())
        .into_iter()
        .map(|reward| reward > 0.5)
        .collect();
    let counted = values
        .into_iter()
        .zip(mask)
        .enumerate()
        .filter(|(_, (_, mask))| *mask);
    counted
        .map(|(index, (value, _))| (value, won[index / actions]))
        .collect()
}

/// ln π of the whole vocabulary, nats, `[batch, written, vocab]`.
fn log_softmax(logits: Tensor<3>) -> Tensor<3> {
    let [batch, written, vocab] = logits.dims();
    match fused::work_on(&logits.device(), logits.dtype()) {
        true => fused::log_softmax(logits.reshape([batch * written, vocab]))
            .reshape([batch, written, vocab]),
        false => activation::log_softmax(logits, 2),
    }
}

fn number(tensor: &Tensor<1>) -> f64 {
    numbers(tensor.clone())[0]
}

fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.into_data().iter::<f64>().collect()
}
