//! The value network of a job: its first weights, and what one pass computes of it.

use crate::error::TrainerError;
use crate::learn::config::{CriticConfig, CriticInit, TrainConfig, ValueLoss};
use crate::learn::data::tensors::BatchTensors;
use crate::loss::ActionDivisor;
use crate::loss::hl_gauss::hl_gauss_loss;
use crate::loss::sft::observation_loss;
use agent::model::decoder::HeadOutputs;
use agent::model::folder::Model;
use agent::model::value_heads::{ValueHeadKind, ValueHeads};
use agent::model::weights::Weights;
use burn::tensor::{Bool, Int, Tensor};

/// Which parameters of the value network an update trains.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CriticPart {
    /// All trainable ones.
    #[default]
    Whole,
    /// The heads.
    Heads,
}

/// Returns what update `update`, from 0, of `updates` trains.
#[must_use]
pub fn part(form: &CriticConfig, update: usize, updates: usize) -> CriticPart {
    if (update as f64) < form.head_only * updates as f64 {
        CriticPart::Heads
    } else {
        CriticPart::Whole
    }
}

/// Returns whether `update` is the first one that trains the trunk after updates that did not.
#[must_use]
pub fn trunk_joins(form: &CriticConfig, update: usize, updates: usize) -> bool {
    update > 0
        && part(form, update - 1, updates) == CriticPart::Heads
        && part(form, update, updates) == CriticPart::Whole
}

/// What one pass computes of the value network.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct CriticPass {
    /// The parameters that get gradients.
    pub part: CriticPart,
    /// Weight of the loss on the tokens of observations. If it is 0, their logits are not computed.
    pub next_observation_coef: f64,
}

/// What the value network returns for a batch.
#[derive(Debug, Clone)]
pub struct CriticOutputs {
    /// The outputs of the heads.
    pub heads: HeadOutputs,
    /// ln p of each target token by the value network's own trunk, nats, `[batch, time]`, if the pass
    /// needs it.
    pub target_logprobs: Option<Tensor<2>>,
}

impl From<Tensor<2>> for CriticOutputs {
    /// Makes the outputs of a network that computes V only, `[batch, time]`.
    fn from(values: Tensor<2>) -> Self {
        Self {
            heads: HeadOutputs {
                values,
                bin_logits: None,
                advantages: None,
            },
            target_logprobs: None,
        }
    }
}

impl CriticOutputs {
    /// Returns U after each action, `[batch, actions]`. With an advantage head U is sg\[V\] + A, so its
    /// gradient reaches the advantage head and the trunk, and not the value head.
    ///
    /// # Shapes
    /// `values`, V before each action, and `after_positions` `[batch, actions]`.
    #[must_use]
    pub fn after_values(&self, values: Tensor<2>, after_positions: Tensor<2, Int>) -> Tensor<2> {
        match &self.heads.advantages {
            Some(advantages) => values.detach() + advantages.clone().gather(1, after_positions),
            None => self.heads.values.clone().gather(1, after_positions),
        }
    }

    /// Returns the HL-Gauss loss of the distributions at `positions`, nats, `[1]`; `None` if the value
    /// head has no bins.
    ///
    /// # Shapes
    /// `residuals`, what was predicted minus its target, `predicted`, `positions` and `mask`
    /// `[batch, actions]`.
    #[must_use]
    pub fn distribution_loss(
        &self,
        positions: Tensor<2, Int>,
        predicted: Tensor<2>,
        residuals: Tensor<2>,
        mask: &Tensor<2, Bool>,
        divisor: ActionDivisor,
    ) -> Option<Tensor<1>> {
        let logits = self.heads.bin_logits.clone()?;
        let [_, _, bins] = logits.dims();
        let positions = positions.unsqueeze_dim::<3>(2).repeat_dim(2, bins);
        let targets = (predicted - residuals).detach();
        Some(hl_gauss_loss(
            logits.gather(1, positions),
            targets,
            mask,
            divisor,
        ))
    }

    /// Returns the weighted loss on the tokens of observations, nats, `[1]`, if the pass has one.
    #[must_use]
    pub fn observation_loss(&self, pass: CriticPass, batch: &BatchTensors) -> Option<Tensor<1>> {
        let logprobs = self.target_logprobs.clone()?;
        let loss = observation_loss(logprobs, &batch.observation_mask);
        Some(loss * pass.next_observation_coef)
    }
}

/// Returns the heads of a value network of this form.
#[must_use]
pub fn heads(form: &CriticConfig) -> ValueHeads {
    ValueHeads {
        value: match form.value_loss {
            ValueLoss::Mse => ValueHeadKind::Scalar,
            ValueLoss::HlGauss => ValueHeadKind::Bins,
        },
        has_advantage: form.advantage_head,
    }
}

/// Returns the value network of the starting model if the job continues with it.
#[must_use]
pub fn inherited<'a>(recipe: &TrainConfig, start: &'a Model) -> Option<&'a Weights> {
    match recipe.critic.init {
        CriticInit::Policy => None,
        CriticInit::Critic | CriticInit::CriticIfAny => start.value.as_ref(),
    }
}

/// Returns the first weights of the value network of a job; `None` if its algorithm has none.
///
/// # Errors
/// If the job needs the value network of the starting model, and there is none or its heads have
/// another form.
pub fn initial_weights(
    recipe: &TrainConfig,
    start: &Model,
) -> Result<Option<Weights>, TrainerError> {
    if recipe.algorithm.critic().is_none() {
        return Ok(None);
    }
    let form = &recipe.critic;
    let needed = heads(form);
    let Some(value) = inherited(recipe, start) else {
        if form.init == CriticInit::Critic {
            return Err(TrainerError::Start(format!(
                "job {:?}: critic.init = \"critic\", but the starting model has no value network\n\
                 hint: start from the model of an oreo, dqo or dro job, or set init = \"policy\"",
                recipe.name
            )));
        }
        return Ok(Some(start.policy.with_zero_heads(&start.config, needed)));
    };
    let found = value.value_heads(&start.config)?;
    if found.value != needed.value || (found.has_advantage && !needed.has_advantage) {
        return Err(TrainerError::Start(format!(
            "job {:?}: the starting value network has the heads {}, and this job needs {}\n\
             hint: set value_loss and advantage_head of [train.critic] as the job that trained it, or set init = \"policy\"",
            recipe.name,
            found.names().join(" and "),
            needed.names().join(" and ")
        )));
    }
    let mut weights = start.policy.with_zero_heads(&start.config, needed);
    weights.0.extend(value.0.clone());
    Ok(Some(weights))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use agent::model::weights::{ADVANTAGE_HEAD, VALUE_HEAD};
    use burn::tensor::TensorData;
    use support::corridor::babbler;

    const OREO: &str = "name = \"job\"\nfrom = \"collector\"\ndata = [\"rollouts\"]\n\
        algorithm = { kind = \"oreo\", level = \"turn\", beta = 0.1, alpha = 0.0, \
        value_learning_rate = 1e-3, critic_only_share = 0.0 }\n";

    /// The OREO job with a table `critic`.
    fn job(critic: &str) -> TrainConfig {
        toml::from_str(&format!("{OREO}{critic}")).unwrap()
    }

    fn floats(values: &[f32]) -> Tensor<2> {
        let data = TensorData::new(values.to_vec(), [1, values.len()]);
        Tensor::from_data(data, &support::device::device().autodiff())
    }

    fn positions(values: &[i64]) -> Tensor<2, Int> {
        let data = TensorData::new(values.to_vec(), [1, values.len()]);
        Tensor::from_data(data, &support::device::device().autodiff())
    }

    /// U = sg[V] + A: the gradient reaches A at the last token of the action, and V nowhere.
    #[test]
    fn the_after_value_with_an_advantage_gives_v_no_gradient() {
        let values = floats(&[0.5, 0.25, 0.125]).require_grad();
        let advantages = floats(&[1.0, 2.0, 4.0]).require_grad();
        let mut outputs = CriticOutputs::from(values.clone());
        outputs.heads.advantages = Some(advantages.clone());
        let before = values.clone().gather(1, positions(&[0]));
        let after = outputs.after_values(before.clone(), positions(&[2]));
        assert_eq!(after.clone().into_scalar::<f32>(), 4.5);
        let gradients = after.sum().backward();
        assert!(values.grad(&gradients).is_none());
        let found = advantages.grad(&gradients).unwrap().into_data();
        assert_eq!(found.try_to_vec::<f32>().unwrap(), [0.0, 0.0, 1.0]);

        outputs.heads.advantages = None;
        let after = outputs.after_values(before, positions(&[2]));
        let gradients = after.sum().backward();
        let found = values.grad(&gradients).unwrap().into_data();
        assert_eq!(found.try_to_vec::<f32>().unwrap(), [0.0, 0.0, 1.0]);
    }

    #[test]
    fn the_trunk_joins_after_the_share_of_head_only_updates() {
        let form = job("critic = { head_only = 0.3 }").critic;
        let parts = (0..10).map(|update| part(&form, update, 10));
        let heads = parts.filter(|part| *part == CriticPart::Heads);
        assert_eq!(heads.count(), 3);
        let joins = (0..10).filter(|update| trunk_joins(&form, *update, 10));
        assert_eq!(joins.collect::<Vec<_>>(), [3]);
        let never = CriticConfig::default();
        assert!(!(0..10).any(|update| trunk_joins(&never, update, 10)));
    }

    #[test]
    fn a_value_network_starts_from_the_policy_or_from_the_last_value_network() {
        let mut model = babbler(3);
        let value = model.value.clone().unwrap();
        let policy = model.policy.with_zero_value_head(&model.config);
        let first = |critic: &str, model: &Model| initial_weights(&job(critic), model).unwrap();
        assert_eq!(first("", &model), Some(policy.clone()));
        for init in ["critic", "critic_if_any"] {
            let key = format!("critic = {{ init = \"{init}\" }}");
            assert_eq!(first(&key, &model), Some(value.clone()));
        }
        let key = "critic = { init = \"critic\", advantage_head = true }";
        let mut with_advantage = first(key, &model).unwrap();
        let head = with_advantage.0.remove(ADVANTAGE_HEAD).unwrap();
        assert!(head.data.iter().all(|w| *w == 0.0));
        assert_eq!(with_advantage, value);

        model.value = None;
        let key = "critic = { init = \"critic_if_any\" }";
        assert_eq!(first(key, &model), Some(policy));
        let bins = first("critic = { value_loss = \"hl_gauss\" }", &model).unwrap();
        assert_eq!(bins.0[VALUE_HEAD].shape, [51, model.config.hidden_size]);
    }

    #[track_caller]
    fn assert_refused(critic: &str, model: &Model, reason: &str) {
        let error = initial_weights(&job(critic), model).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains(reason) && error.contains("\nhint: "),
            "{error}"
        );
    }

    #[test]
    fn a_value_network_of_another_form_is_refused() {
        let mut model = babbler(3);
        assert_refused(
            "critic = { init = \"critic\", value_loss = \"hl_gauss\" }",
            &model,
            "has the heads value, and this job needs value in 51 bins",
        );
        let form = job("critic = { advantage_head = true }").critic;
        model.value = Some(model.policy.with_zero_heads(&model.config, heads(&form)));
        assert_refused(
            "critic = { init = \"critic_if_any\" }",
            &model,
            "has the heads value and advantage, and this job needs value\n",
        );
        model.value = None;
        assert_refused(
            "critic = { init = \"critic\" }",
            &model,
            "the starting model has no value network",
        );
    }
}
