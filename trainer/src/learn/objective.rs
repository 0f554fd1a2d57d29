//! The objective of a training job: from the outputs of the networks on a batch to the losses of
//! [`crate::loss`].
//!
//! The networks implement [`NetworkOutputs`]. They are the decoders of a job, or the tables of
//! [`crate::selftest`], whose optima are known. Both learn through the functions of this file,
//! which has no optimizers, devices or files.

use crate::learn::config::{Algorithm, Level, Normalisation, Targets};
use crate::learn::critic::{CriticOutputs, CriticPass};
use crate::learn::data::batch::MeanLengths;
use crate::learn::data::tensors::BatchTensors;
use crate::learn::transfer::counted;
use crate::loss::dpo::{DpoInputs, dpo_loss};
use crate::loss::dqo::{self, DqoInputs};
use crate::loss::dro::{self, DroInputs};
use crate::loss::grpo::{SurrogateInputs, clipped_surrogate_loss};
use crate::loss::kto::{KtoInputs, KtoWeights, kto_loss};
use crate::loss::oreo::{self, OreoInputs, OreoSettings, after_value_loss, exact_kl, turn_sums};
use crate::loss::rejection_sampling::won_loss;
use crate::loss::{ActionDivisor, discounted_suffix_sum, k3_kl, sft, suffix_sum, target_logprobs};
use burn::tensor::{Bool, Int, Tensor};
use kernels::ops;
use serde::{Deserialize, Serialize};

/// The forward passes of a job's networks.
pub trait NetworkOutputs {
    /// Returns the policy's logits before every token that it wrote, `[batch, written, vocab]`.
    fn policy_logits(&self, batch: &BatchTensors) -> Tensor<3>;
    /// Returns the reference's logits, without a gradient, `[batch, written, vocab]`.
    fn reference_logits(&self, batch: &BatchTensors) -> Tensor<3>;
    /// Returns the policy's logits at every position, `[batch, time, vocab]`.
    fn transcript_logits(&self, batch: &BatchTensors) -> Tensor<3>;
    /// Returns the value of the state that ends at each position, reward units, `[batch, time]`.
    fn values(&self, batch: &BatchTensors) -> Tensor<2>;
    /// Returns all outputs of the value network. By default it has V alone.
    fn critic(&self, batch: &BatchTensors, _pass: CriticPass) -> CriticOutputs {
        self.values(batch).into()
    }
}

/// Inputs of the losses that depend on the whole update, not on one micro-batch.
#[derive(Debug, Clone, Copy)]
pub struct UpdateContext {
    /// False if only the value network learns.
    pub policy_learns: bool,
    /// KTO's z₀ of the whole batch, nats; no other algorithm reads it.
    pub reference_point: f64,
    /// Means over the whole batch; only OREO with `normalise = "batch"` reads them.
    pub mean_lengths: MeanLengths,
    /// What is computed of the value network; only OREO reads it.
    pub critic: CriticPass,
}

/// Losses to minimise, `[1]` each, and statistics of the batch.
pub struct TrainingLosses {
    /// The loss of the policy, if it learns.
    pub policy: Option<Tensor<1>>,
    /// The loss of the value network, if there is one.
    pub value: Option<Tensor<1>>,
    /// Numbers of this batch.
    pub statistics: BatchStatistics,
}

/// Numbers of a batch, or of a micro-batch.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct BatchStatistics {
    /// Loss of the policy, without `α L_reg` and without the imitation of won episodes.
    pub loss_policy: Option<f64>,
    /// Loss of V.
    pub loss_value: Option<f64>,
    /// Loss of U.
    pub loss_after_value: Option<f64>,
    /// Loss of U within branch states, without its coefficient.
    pub loss_ranking: Option<f64>,
    /// Loss of the policy within branch states, without its coefficient.
    pub loss_policy_branch: Option<f64>,
    /// D_KL(π_θ ‖ π_ref) over the whole vocabulary, nats a token.
    pub kl_exact: Option<f64>,
    /// Its estimate from the written tokens alone, nats a token.
    pub kl_k3: Option<f64>,
    /// ρ of each trajectory, summed over its tokens, nats.
    pub log_ratios: Vec<f64>,
    /// V before each action, and whether its trajectory was won.
    pub values: Vec<(f64, bool)>,
    /// The turn of each of `values`, from 0.
    pub value_turns: Vec<usize>,
}

impl BatchStatistics {
    /// Adds the numbers of a micro-batch: means are weighted by its share, lists are appended.
    pub fn add(&mut self, part: Self, share: f64) {
        add_share(&mut self.loss_policy, part.loss_policy, share);
        add_share(&mut self.loss_value, part.loss_value, share);
        add_share(&mut self.loss_after_value, part.loss_after_value, share);
        add_share(&mut self.loss_ranking, part.loss_ranking, share);
        add_share(&mut self.loss_policy_branch, part.loss_policy_branch, share);
        add_share(&mut self.kl_exact, part.kl_exact, share);
        add_share(&mut self.kl_k3, part.kl_k3, share);
        self.log_ratios.extend(part.log_ratios);
        self.values.extend(part.values);
        self.value_turns.extend(part.value_turns);
    }
}

fn add_share(whole: &mut Option<f64>, part: Option<f64>, share: f64) {
    if let Some(part) = part {
        *whole = Some(whole.unwrap_or(0.0) + share * part);
    }
}

/// Returns the losses of one batch or micro-batch.
///
/// If the algorithm is DPO, the rows must be pairs: won, lost, won, lost.
#[must_use]
pub fn losses(
    algorithm: &Algorithm,
    networks: &impl NetworkOutputs,
    batch: &BatchTensors,
    context: UpdateContext,
) -> TrainingLosses {
    let losses = match *algorithm {
        Algorithm::Sft { targets } | Algorithm::RejectionSampling { targets } => {
            imitation(targets, networks, batch)
        }
        Algorithm::Oreo { .. } => oreo_losses(algorithm, networks, batch, context),
        Algorithm::Dqo {
            level,
            beta,
            lambda,
            ..
        } => dqo_losses(level, beta, lambda, networks, batch),
        Algorithm::Dro { beta, .. } => dro_losses(beta, networks, batch),
        Algorithm::Dpo { beta, .. } => dpo_losses(beta, networks, batch),
        Algorithm::Kto {
            beta,
            desirable,
            undesirable,
        } => {
            let weights = KtoWeights {
                desirable,
                undesirable,
            };
            kto_losses(beta, weights, networks, batch, context.reference_point)
        }
        Algorithm::Grpo { level, clip, alpha }
        | Algorithm::Gigpo {
            level, clip, alpha, ..
        } => {
            let terms = PolicyTerms::new(networks, batch, alpha);
            let inputs = terms.surrogate(level, batch);
            terms.policy_only(clipped_surrogate_loss(&inputs, clip), batch)
        }
    };
    TrainingLosses {
        policy: losses.policy.filter(|_| context.policy_learns),
        ..losses
    }
}

/// Returns ρ of each trajectory, nats, without a gradient.
#[must_use]
pub fn trajectory_log_ratios(networks: &impl NetworkOutputs, batch: &BatchTensors) -> Vec<f64> {
    numbers(log_ratio_sums(networks, batch))
}

/// Returns ρ of each trajectory, nats, `[batch]`.
pub(crate) fn log_ratio_sums(networks: &impl NetworkOutputs, batch: &BatchTensors) -> Tensor<1> {
    PolicyTerms::new(networks, batch, 0.0).trajectory_sums(batch)
}

/// Returns the inputs of OREO's losses at a level.
#[must_use]
pub fn oreo_inputs(
    level: Level,
    networks: &impl NetworkOutputs,
    batch: &BatchTensors,
) -> OreoInputs {
    actions(
        level,
        batch,
        PolicyTerms::new(networks, batch, 0.0).log_ratios,
        networks.values(batch),
    )
}

/// Returns ln π_ref of every written token of every trajectory, nats.
#[must_use]
pub fn reference_logprobs(networks: &impl NetworkOutputs, batch: &BatchTensors) -> Vec<Vec<f32>> {
    let written = &batch.written;
    let [_, width] = written.targets.dims();
    let logprobs = target_logprobs(networks.reference_logits(batch), written.targets.clone());
    let logprobs: Vec<f32> = counted(logprobs.into_data()).iter::<f32>().collect();
    let mask = flags(&written.mask);
    let mut rows = Vec::new();
    for (logprobs, mask) in logprobs.chunks(width).zip(mask.chunks(width)) {
        let row = logprobs.iter().zip(mask).filter(|(_, written)| **written);
        rows.push(row.map(|(logprob, _)| *logprob).collect());
    }
    rows
}

/// SFT, and rejection sampling, which is SFT on successes.
fn imitation(
    targets: Targets,
    networks: &impl NetworkOutputs,
    batch: &BatchTensors,
) -> TrainingLosses {
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
    let statistics = BatchStatistics {
        loss_policy: Some(number(&loss)),
        ..BatchStatistics::default()
    };
    TrainingLosses {
        policy: Some(loss),
        value: None,
        statistics,
    }
}

fn oreo_losses(
    algorithm: &Algorithm,
    networks: &impl NetworkOutputs,
    batch: &BatchTensors,
    context: UpdateContext,
) -> TrainingLosses {
    let &Algorithm::Oreo {
        level,
        beta,
        alpha,
        discount,
        normalise,
        log_ratio_clip,
        path_length,
        imitation_coef,
        ..
    } = algorithm
    else {
        unreachable!("the caller matched OREO")
    };
    let [divisor, of_tokens] = match (normalise, level) {
        (Normalisation::Trajectory, _) => [ActionDivisor::Own; 2],
        (Normalisation::Batch, Level::Token) => {
            [ActionDivisor::BatchMean(context.mean_lengths.tokens); 2]
        }
        (Normalisation::Batch, Level::Turn | Level::Response) => {
            [context.mean_lengths.turns, context.mean_lengths.tokens].map(ActionDivisor::BatchMean)
        }
    };
    let settings = OreoSettings {
        beta,
        discount,
        log_ratio_clip,
        path_length,
        divisor,
    };
    let terms = PolicyTerms::with_divisor(networks, batch, alpha, of_tokens);
    let critic = networks.critic(batch, context.critic);
    let values = critic.heads.values.clone();
    let mut inputs = actions(level, batch, terms.log_ratios.clone(), values.clone());
    if discount < 1.0 {
        let rewards = batch.rewards.clone().cast(values.dtype());
        inputs.returns = discounted_suffix_sum(rewards, discount);
    }
    let (mut value, policy) = match level {
        Level::Response => (
            oreo::response_value_loss(&inputs, settings),
            oreo::response_policy_loss(&inputs, settings),
        ),
        Level::Turn | Level::Token => (
            oreo::value_loss(&inputs, settings),
            oreo::policy_loss(&inputs, settings),
        ),
    };
    let after_values = critic.after_values(inputs.values.clone(), after_positions(level, batch));
    let mut after = after_value_loss(after_values.clone(), &inputs, settings);
    let of_values = critic.distribution_loss(
        before_positions(level, batch),
        inputs.values.clone(),
        oreo::value_residuals(&inputs, settings),
        &inputs.action_mask,
        divisor,
    );
    let of_after_values = critic.distribution_loss(
        after_positions(level, batch),
        after_values.clone(),
        oreo::after_value_residuals(after_values, &inputs, settings),
        &inputs.action_mask,
        divisor,
    );
    if let (Some(of_values), Some(of_after_values)) = (of_values, of_after_values) {
        (value, after) = (of_values, of_after_values);
    }
    let critic_losses = CriticLosses {
        policy,
        value,
        after,
    };
    let imitation = (imitation_coef > 0.0).then(|| {
        let written = &batch.written;
        won_loss(
            terms.logprobs.clone(),
            &written.imitated_mask,
            &batch.returns,
        ) * imitation_coef
    });
    let mut losses = terms.with_critic(level, critic_losses, &inputs, batch);
    if let Some(imitation) = imitation {
        losses.policy = losses.policy.map(|loss| loss + imitation);
    }
    if let Some(observation) = critic.observation_loss(context.critic, batch) {
        losses.value = losses.value.map(|loss| loss + observation);
    }
    losses
}

fn dqo_losses(
    level: Level,
    beta: f64,
    lambda: f64,
    networks: &impl NetworkOutputs,
    batch: &BatchTensors,
) -> TrainingLosses {
    let terms = PolicyTerms::new(networks, batch, 0.0);
    let values = networks.values(batch);
    let mut inputs = actions(level, batch, terms.log_ratios.clone(), values.clone());
    let rewards = match level {
        Level::Token => batch.written.rewards.clone(),
        Level::Turn | Level::Response => batch.rewards.clone(),
    };
    let rewards = rewards.cast(inputs.values.dtype());
    inputs.returns = suffix_sum(rewards.clone());
    let dqo_inputs = DqoInputs {
        log_ratios: inputs.log_ratios.clone(),
        values: inputs.values.clone(),
        rewards,
        action_mask: inputs.action_mask.clone(),
    };
    let weights = dqo::trajectory_weights(&dqo_inputs);
    let value = dqo::value_loss(&dqo_inputs, &weights, beta, lambda);
    let policy = dqo::policy_loss(&dqo_inputs, &weights, beta, lambda);
    let after = after_value_loss(
        after_values(level, batch, values),
        &inputs,
        OreoSettings::published(beta),
    );
    terms.with_critic(
        level,
        CriticLosses {
            policy,
            value,
            after,
        },
        &inputs,
        batch,
    )
}

fn dro_losses(beta: f64, networks: &impl NetworkOutputs, batch: &BatchTensors) -> TrainingLosses {
    let level = Level::Response;
    let terms = PolicyTerms::new(networks, batch, 0.0);
    let values = networks.values(batch);
    let inputs = actions(level, batch, terms.log_ratios.clone(), values.clone());
    let dro_inputs = DroInputs {
        log_ratios: terms.trajectory_sums(batch),
        values: inputs.values.clone().narrow(1, 0, 1).squeeze_dim(1),
        returns: inputs.returns.clone().squeeze_dim(1),
    };
    let value = dro::value_loss(&dro_inputs, beta);
    let policy = dro::policy_loss(&dro_inputs, beta);
    let after = after_value_loss(
        after_values(level, batch, values),
        &inputs,
        OreoSettings::published(beta),
    );
    terms.with_critic(
        level,
        CriticLosses {
            policy,
            value,
            after,
        },
        &inputs,
        batch,
    )
}

fn dpo_losses(beta: f64, networks: &impl NetworkOutputs, batch: &BatchTensors) -> TrainingLosses {
    let terms = PolicyTerms::new(networks, batch, 0.0);
    let pairs: Tensor<2> = terms.trajectory_sums(batch).reshape([-1, 2]);
    let inputs = DpoInputs {
        chosen_log_ratios: pairs.clone().narrow(1, 0, 1).squeeze_dim(1),
        rejected_log_ratios: pairs.narrow(1, 1, 1).squeeze_dim(1),
    };
    terms.policy_only(dpo_loss(&inputs, beta), batch)
}

fn kto_losses(
    beta: f64,
    weights: KtoWeights,
    networks: &impl NetworkOutputs,
    batch: &BatchTensors,
    reference_point: f64,
) -> TrainingLosses {
    let terms = PolicyTerms::new(networks, batch, 0.0);
    let won = batch.returns.clone().squeeze_dim::<1>(1).greater_elem(0.5);
    let inputs = KtoInputs {
        log_ratios: terms.trajectory_sums(batch),
        desirable: won,
    };
    terms.policy_only(kto_loss(&inputs, reference_point, beta, weights), batch)
}

/// The log-probabilities of the written tokens under policy and reference.
struct PolicyTerms {
    /// ln π_θ, nats, `[batch, written]`.
    logprobs: Tensor<2>,
    /// ρ, nats, `[batch, written]`.
    log_ratios: Tensor<2>,
    /// The exact KL, if the reference is not cached.
    kl: Option<Tensor<1>>,
    /// The weight of the exact KL.
    alpha: f64,
}

/// The losses of an algorithm with a value network, `[1]` each.
struct CriticLosses {
    policy: Tensor<1>,
    /// The loss of V.
    value: Tensor<1>,
    /// The loss of U.
    after: Tensor<1>,
}

impl PolicyTerms {
    fn new(networks: &impl NetworkOutputs, batch: &BatchTensors, alpha: f64) -> Self {
        Self::with_divisor(networks, batch, alpha, ActionDivisor::Own)
    }

    /// Returns the terms; the exact KL, summed over the tokens of a trajectory, is divided by
    /// `divisor`.
    fn with_divisor(
        networks: &impl NetworkOutputs,
        batch: &BatchTensors,
        alpha: f64,
        divisor: ActionDivisor,
    ) -> Self {
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
        let policy = ops::log_softmax(logits);
        let reference = ops::log_softmax(networks.reference_logits(batch)).detach();
        let logprobs = written.of_targets(policy.clone());
        let log_ratios = logprobs.clone() - written.of_targets(reference.clone());
        let policy = if alpha > 0.0 { policy } else { policy.detach() };
        Self {
            logprobs,
            log_ratios,
            kl: Some(exact_kl(policy, reference, &written.mask, divisor)),
            alpha,
        }
    }

    /// Returns ρ of each trajectory, `[batch]`.
    fn trajectory_sums(&self, batch: &BatchTensors) -> Tensor<1> {
        let elsewhere = batch.written.mask.clone().bool_not();
        self.log_ratios
            .clone()
            .mask_fill(elsewhere, 0.0)
            .sum_dim(1)
            .squeeze_dim(1)
    }

    /// Returns the inputs of the clipped surrogate: the ratios are to the policy that sampled.
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

    /// Returns the losses of an algorithm without a value network.
    fn policy_only(self, loss: Tensor<1>, batch: &BatchTensors) -> TrainingLosses {
        let statistics = BatchStatistics {
            loss_policy: Some(number(&loss)),
            ..self.statistics(batch)
        };
        TrainingLosses {
            policy: Some(self.regularised(loss)),
            value: None,
            statistics,
        }
    }

    /// Returns the losses of an algorithm with a value network. The losses of V and U go back
    /// through one trunk, so they are added first.
    fn with_critic(
        self,
        level: Level,
        losses: CriticLosses,
        inputs: &OreoInputs,
        batch: &BatchTensors,
    ) -> TrainingLosses {
        let (values, value_turns) = values_and_outcomes(level, inputs, batch);
        let statistics = BatchStatistics {
            loss_policy: Some(number(&losses.policy)),
            loss_value: Some(number(&losses.value)),
            loss_after_value: Some(number(&losses.after)),
            values,
            value_turns,
            ..self.statistics(batch)
        };
        TrainingLosses {
            policy: Some(self.regularised(losses.policy)),
            value: Some(losses.value + losses.after),
            statistics,
        }
    }

    /// Adds `α L_reg` to the loss.
    fn regularised(self, loss: Tensor<1>) -> Tensor<1> {
        match self.kl {
            Some(kl) if self.alpha > 0.0 => loss + kl * self.alpha,
            _ => loss,
        }
    }

    fn statistics(&self, batch: &BatchTensors) -> BatchStatistics {
        let log_ratios = self.log_ratios.clone().detach();
        BatchStatistics {
            kl_exact: self.kl.as_ref().map(number),
            kl_k3: Some(number(&k3_kl(log_ratios, &batch.written.mask))),
            log_ratios: numbers(self.trajectory_sums(batch)),
            ..BatchStatistics::default()
        }
    }
}

/// Returns the inputs of a loss over the actions of a level: token log-ratios `[batch, written]`
/// and values `[batch, time]` become `[batch, actions]`. At the response level the actions are
/// turns too, and only the first value counts.
fn actions(
    level: Level,
    batch: &BatchTensors,
    log_ratios: Tensor<2>,
    values: Tensor<2>,
) -> OreoInputs {
    let returns = batch.returns.clone().cast(values.dtype());
    let values = values.gather(1, before_positions(level, batch));
    match level {
        Level::Turn | Level::Response => OreoInputs {
            log_ratios: by_turn(log_ratios, batch),
            values,
            returns,
            action_mask: batch.turn_mask.clone(),
        },
        Level::Token => OreoInputs {
            log_ratios,
            values,
            returns,
            action_mask: batch.written.mask.clone(),
        },
    }
}

/// Returns U just after each action; `values` is `[batch, time]`.
fn after_values(level: Level, batch: &BatchTensors, values: Tensor<2>) -> Tensor<2> {
    values.gather(1, after_positions(level, batch))
}

/// Returns the position at which V before each action is read, `[batch, actions]`.
pub(crate) fn before_positions(level: Level, batch: &BatchTensors) -> Tensor<2, Int> {
    match level {
        Level::Turn | Level::Response => batch.before_positions.clone(),
        Level::Token => batch.written.positions.clone(),
    }
}

/// Returns the position of the last token of each action, at which U is read, `[batch, actions]`.
pub(crate) fn after_positions(level: Level, batch: &BatchTensors) -> Tensor<2, Int> {
    match level {
        Level::Turn | Level::Response => batch.after_positions.clone(),
        Level::Token => batch.written.positions.clone() + batch.written.mask.clone().int(),
    }
}

/// Returns the sums over each turn.
fn by_turn(terms: Tensor<2>, batch: &BatchTensors) -> Tensor<2> {
    let [_, turns] = batch.turn_mask.dims();
    turn_sums(
        terms,
        batch.written.turns.clone(),
        &batch.written.mask,
        turns,
    )
}

/// Returns V before each action, and whether its trajectory was won; and the turn of each action.
fn values_and_outcomes(
    level: Level,
    inputs: &OreoInputs,
    batch: &BatchTensors,
) -> (Vec<(f64, bool)>, Vec<usize>) {
    let [_, actions] = inputs.action_mask.dims();
    let values = numbers(inputs.values.clone());
    let mask = flags(&inputs.action_mask);
    let returns = numbers(batch.returns.clone());
    let of_tokens: Vec<usize> = match level {
        Level::Turn | Level::Response => Vec::new(), // the actions are the turns themselves
        Level::Token => {
            let turns = counted(batch.written.turns.clone().into_data());
            turns.iter::<i64>().map(|turn| turn as usize).collect()
        }
    };
    values
        .into_iter()
        .zip(mask)
        .enumerate()
        .filter(|(_, (_, mask))| *mask)
        .map(|(index, (value, _))| {
            let turn = of_tokens.get(index).copied().unwrap_or(index % actions);
            ((value, returns[index / actions] > 0.5), turn)
        })
        .unzip()
}

pub(crate) fn number(tensor: &Tensor<1>) -> f64 {
    numbers(tensor.clone())[0]
}

fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    counted(tensor.into_data()).iter::<f64>().collect()
}

fn flags(mask: &Tensor<2, Bool>) -> Vec<bool> {
    counted(mask.clone().into_data()).iter::<bool>().collect()
}
