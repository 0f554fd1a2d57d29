//! AdamW (Loshchilov & Hutter, arXiv 1711.05101) with clipping by the global gradient norm.
//!
//! An update is one pass over host vectors. On a CPU this is several times faster than a chain of
//! tensor operations.

use crate::error::TrainerError;
use crate::learn::parameters::{HostGradients, PIECE, Parameter};
use agent::model::weights::{HostTensor, Weights};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Settings of the optimizer and its schedule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerRecipe {
    /// Trajectories in one update.
    pub batch: usize,
    /// Passes over the data.
    pub epochs: usize,
    /// Maximum number of updates; 0 = as many as the epochs give.
    pub updates: usize,
    /// Highest learning rate.
    pub learning_rate: f64,
    /// Share of the updates over which the rate rises from 0.
    pub warmup: f64,
    /// Number of layers that learn, counted from the last, with the norm behind them and the head
    /// of a value network; 0 = everything. The layers below, the embedding and the output matrix
    /// are frozen, and cost no backward pass.
    pub last_layers: usize,
    /// Largest global gradient norm.
    pub clip: f64,
    /// Largest global gradient norm of the value network. If it is not set, `clip`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value_gradient_clip: Option<f64>,
    /// Updates over which the rate of the policy rises to that of the schedule, counted from the
    /// first update in which the policy learns; 0 = none. The value network has no such warm-up.
    #[serde(skip_serializing_if = "is_zero")]
    pub policy_warmup: usize,
    /// Weight decay of matrices; norms have none.
    pub weight_decay: f64,
    /// β₁ and β₂.
    pub betas: [f64; 2],
    /// Tokens of a micro-batch, padding included; 0 = the default of the device. If a batch has
    /// more, it is split into micro-batches of at most this size, or of one trajectory, and their
    /// gradients are added.
    pub token_budget: usize,
    /// Largest sum of log-ratios of one trajectory, nats, in either direction. If a sum is beyond
    /// it, the policy has diverged and training stops.
    pub log_ratio_limit: f64,
    /// Which activations the forward pass keeps for the backward pass.
    pub activations: Activations,
}

/// Which activations the forward pass keeps for the backward pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activations {
    /// All of them.
    #[default]
    Kept,
    /// The inputs of each layer. The backward pass computes the layer again (gradient
    /// checkpointing): less memory, a third more work.
    #[serde(alias = "recomputed")]
    Checkpointed,
}

impl OptimizerRecipe {
    /// Returns a message if a number is out of range.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.batch == 0 || (self.epochs == 0 && self.updates == 0) {
            return Err("batch, and epochs or updates, must be above 0".into());
        }
        at_least_zero("learning_rate", self.learning_rate)?;
        in_range(
            "warmup",
            self.warmup,
            (0.0..=1.0).contains(&self.warmup),
            "in [0, 1]",
        )?;
        for (name, value) in [
            ("clip", self.clip),
            ("log_ratio_limit", self.log_ratio_limit),
        ] {
            in_range(name, value, value.is_finite() && value > 0.0, "above 0")?;
        }
        if let Some(clip) = self.value_gradient_clip {
            let fits = clip.is_finite() && clip > 0.0;
            in_range("value_gradient_clip", clip, fits, "above 0")?;
        }
        at_least_zero("weight_decay", self.weight_decay)?;
        for beta in self.betas {
            in_range("betas", beta, (0.0..1.0).contains(&beta), "in [0, 1)")?;
        }
        Ok(())
    }

    /// Returns the settings for the value network: its own clip in place of the policy's.
    pub(crate) fn of_value_network(&self) -> Self {
        Self {
            clip: self.value_gradient_clip.unwrap_or(self.clip),
            ..self.clone()
        }
    }

    /// Returns the share of the scheduled rate that the policy has after `updates` updates of its
    /// own.
    pub(crate) fn policy_rate_share(&self, updates: usize) -> f64 {
        if updates < self.policy_warmup {
            (updates + 1) as f64 / self.policy_warmup as f64
        } else {
            1.0
        }
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(value: &usize) -> bool {
    *value == 0
}

fn at_least_zero(name: &str, value: f64) -> Result<(), String> {
    in_range(name, value, value.is_finite() && value >= 0.0, "0 or more")
}

fn in_range(name: &str, value: f64, is_in_range: bool, range: &str) -> Result<(), String> {
    if is_in_range {
        Ok(())
    } else {
        Err(format!("{name} = {value} must be {range}"))
    }
}

impl Default for OptimizerRecipe {
    fn default() -> Self {
        Self {
            batch: 8,
            epochs: 1,
            updates: 0,
            learning_rate: 1e-3,
            warmup: 0.03,
            last_layers: 0,
            clip: 1.0,
            value_gradient_clip: None,
            policy_warmup: 0,
            weight_decay: 0.0,
            betas: [0.9, 0.95],
            token_budget: 0,
            log_ratio_limit: 1000.0,
            activations: Activations::default(),
        }
    }
}

/// Returns the learning rate of an update: linear warm-up to `highest`, then a cosine to 0.
#[must_use]
pub fn learning_rate_at(highest: f64, warmup: f64, update: usize, updates: usize) -> f64 {
    let now = update as f64;
    let all = updates as f64;
    let rise = (warmup * all).max(1.0);
    let share = ((now + 1.0) / rise).min(1.0);
    let progress = ((now - rise) / (all - rise).max(1.0)).clamp(0.0, 1.0);
    highest * share * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
}

const EPSILON: f32 = 1e-8;
/// Name of the number of updates in a checkpoint. It may be lower than the job's, if the network
/// was frozen in some updates.
const UPDATES: &str = "updates";

/// The state of the optimizer: both moments of every parameter, in the order of the parameters.
#[derive(Debug, Clone, Default)]
pub struct AdamW {
    moments: Vec<[Vec<f32>; 2]>,
    updates: usize,
}

impl AdamW {
    /// Updates every parameter that has a gradient with learning rate `rate`. Returns the global
    /// norm of the gradient before clipping.
    pub fn update(
        &mut self,
        parameters: &mut [Parameter],
        gradients: &HostGradients,
        rate: f64,
        recipe: &OptimizerRecipe,
    ) -> f64 {
        let norm = gradients
            .iter()
            .flatten()
            .map(|gradient| squares(gradient.values()))
            .sum::<f64>()
            .sqrt();
        self.moments.resize_with(parameters.len(), Default::default);
        self.updates += 1;
        let [beta1, beta2] = recipe.betas.map(|beta| beta as f32);
        let time = i32::try_from(self.updates).unwrap_or(i32::MAX);
        let scale = if norm > recipe.clip {
            recipe.clip / norm
        } else {
            1.0
        };
        let step = AdamStep {
            scale: scale as f32,
            rate: rate as f32,
            betas: [beta1, beta2],
            corrections: [1.0 - beta1.powi(time), 1.0 - beta2.powi(time)],
        };
        for ((parameter, gradient), moments) in
            parameters.iter_mut().zip(gradients).zip(&mut self.moments)
        {
            let decay = if parameter.axes > 1 {
                recipe.weight_decay as f32
            } else {
                0.0
            };
            if let Some(gradient) = gradient {
                step.apply(&mut parameter.values, gradient.values(), moments, decay);
            }
        }
        norm
    }

    /// Returns the number of updates done.
    #[must_use]
    pub fn updates(&self) -> usize {
        self.updates
    }

    /// Returns the state as named tensors, for a checkpoint.
    #[must_use]
    pub fn to_weights(&self) -> Weights {
        let mut tensors = vec![(UPDATES.to_string(), vec![self.updates as f32])];
        for (index, [first, second]) in self.moments.iter().enumerate() {
            tensors.push((format!("{index:05}.first"), first.clone()));
            tensors.push((format!("{index:05}.second"), second.clone()));
        }
        let mut weights = Weights::default();
        for (name, data) in tensors {
            let shape = vec![data.len()];
            weights.0.insert(name, HostTensor { shape, data });
        }
        weights
    }

    /// Reads the state from a checkpoint.
    ///
    /// # Errors
    /// If the second moment of a parameter or the number of updates is missing.
    pub fn from_weights(mut weights: Weights) -> Result<Self, TrainerError> {
        let updates = weights
            .0
            .remove(UPDATES)
            .and_then(|tensor| tensor.data.first().copied())
            .ok_or_else(|| missing("number of updates"))? as usize;
        let mut data = weights.0.into_values().map(|tensor| tensor.data);
        let mut moments = Vec::new();
        while let Some(first) = data.next() {
            let second = data.next().ok_or_else(|| missing("second moment"))?;
            moments.push([first, second]);
        }
        Ok(Self { moments, updates })
    }
}

fn missing(what: &str) -> TrainerError {
    TrainerError::Data(format!("an optimizer checkpoint lacks a {what}"))
}

/// Returns Σ g².
fn squares(gradient: &[f32]) -> f64 {
    gradient
        .par_chunks(PIECE)
        .map(squares_of_piece)
        .collect::<Vec<_>>()
        .into_iter()
        .sum()
}

fn squares_of_piece(piece: &[f32]) -> f64 {
    let (blocks, rest) = piece.as_chunks::<8>();
    let mut sums = [0.0_f64; 8];
    for block in blocks {
        for (sum, g) in sums.iter_mut().zip(block) {
            *sum += f64::from(*g) * f64::from(*g);
        }
    }
    sums.into_iter()
        .chain(rest.iter().map(|g| f64::from(*g) * f64::from(*g)))
        .sum::<f64>()
}

/// The numbers of one update that all parameters share.
#[derive(Clone, Copy)]
struct AdamStep {
    scale: f32,
    rate: f32,
    betas: [f32; 2],
    corrections: [f32; 2],
}

impl AdamStep {
    /// θ ← θ − rate·( m̂ / (√v̂ + ε) + decay·θ )
    fn apply(
        self,
        values: &mut [f32],
        gradient: &[f32],
        [first, second]: &mut [Vec<f32>; 2],
        decay: f32,
    ) {
        first.resize(values.len(), 0.0);
        second.resize(values.len(), 0.0);
        let [beta1, beta2] = self.betas;
        let [correction1, correction2] = self.corrections.map(f32::recip);
        let values = values.par_chunks_mut(PIECE).zip(gradient.par_chunks(PIECE));
        let moments = first
            .par_chunks_mut(PIECE)
            .zip(second.par_chunks_mut(PIECE));
        values
            .zip(moments)
            .for_each(|((values, gradient), (first, second))| {
                for (((value, raw), m), v) in values.iter_mut().zip(gradient).zip(first).zip(second)
                {
                    let g = raw * self.scale;
                    *m = beta1 * *m + (1.0 - beta1) * g;
                    *v = beta2 * *v + (1.0 - beta2) * g * g;
                    let move_by =
                        *m * correction1 / ((*v * correction2).sqrt() + EPSILON) + decay * *value;
                    *value -= self.rate * move_by;
                }
            });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learn::parameters::test_network::two_parameters;
    use crate::learn::parameters::{gradients, parameters, with_parameters};

    /// The first update of Adam moves every weight by the rate against the sign of its gradient,
    /// even if the gradient is large.
    #[test]
    fn the_first_update_moves_by_the_rate() {
        let model = two_parameters();
        let mut optimizer = AdamW::default();
        let found = gradients(&model, (model.weight.val() * 3.0).sum().backward());
        let recipe = OptimizerRecipe {
            clip: 1e9,
            ..OptimizerRecipe::default()
        };
        let mut host = parameters(&model);
        let norm = optimizer.update(&mut host, &found, 0.1, &recipe);
        let model = with_parameters(model, &host);
        let values = model
            .weight
            .val()
            .into_data()
            .try_to_vec::<f32>()
            .expect("f32");
        assert!(
            (values[0] - 0.9).abs() < 1e-6 && (values[1] + 2.1).abs() < 1e-6,
            "{values:?}"
        );
        assert!((norm - 18.0_f64.sqrt()).abs() < 1e-6);
        assert_eq!(
            model
                .unused
                .val()
                .into_data()
                .try_to_vec::<f32>()
                .expect("f32"),
            [5.0]
        );
    }

    /// Gradients 3 then 1 (unclipped), β = (½, ½), rate 1, no decay. m = 1.5, then 1.25, m̂ =
    /// 1.25/0.75; v = 4.5, then 2.75, v̂ = 2.75/0.75. Moves: 1, then 1.6667/1.9149 = 0.8704.
    #[test]
    fn two_updates_by_hand() {
        let mut model = two_parameters();
        let mut optimizer = AdamW::default();
        let recipe = OptimizerRecipe {
            clip: 1e9,
            betas: [0.5, 0.5],
            ..OptimizerRecipe::default()
        };
        for factor in [3.0, 1.0] {
            let found = gradients(&model, (model.weight.val() * factor).sum().backward());
            let mut host = parameters(&model);
            optimizer.update(&mut host, &found, 1.0, &recipe);
            model = with_parameters(model, &host);
        }
        let values = model
            .weight
            .val()
            .into_data()
            .try_to_vec::<f32>()
            .expect("f32");
        assert!(
            (values[0] - (1.0 - 1.0 - 0.870_388)).abs() < 1e-5,
            "{values:?}"
        );
    }

    #[test]
    fn a_large_gradient_is_scaled_to_the_clip() {
        let mut moments = [Vec::new(), Vec::new()];
        let step = AdamStep {
            scale: 0.01,
            rate: 0.0,
            betas: [0.0, 0.0],
            corrections: [1.0, 1.0],
        };
        step.apply(&mut [0.0], &[200.0], &mut moments, 0.0);
        assert_eq!(moments, [vec![2.0], vec![4.0]]);
    }

    #[test]
    fn the_rate_rises_and_falls() {
        let rates: Vec<f64> = (0..100)
            .map(|update| learning_rate_at(2.0, 0.1, update, 100))
            .collect();
        assert!((rates[0] - 0.2).abs() < 1e-12 && (rates[9] - 2.0).abs() < 1e-12);
        assert!((rates[55] - 1.0).abs() < 1e-12 && rates[99] < 0.01);
    }

    /// With 4 updates of warm-up the shares are ¼, ½, ¾, 1, 1; without, 1 from the first update.
    #[test]
    fn the_rate_of_the_policy_rises_over_its_own_updates() {
        let none = OptimizerRecipe::default();
        let some = OptimizerRecipe {
            policy_warmup: 4,
            ..none.clone()
        };
        let shares = |recipe: &OptimizerRecipe| -> Vec<f64> {
            (0..5).map(|done| recipe.policy_rate_share(done)).collect()
        };
        assert_eq!(shares(&some), [0.25, 0.5, 0.75, 1.0, 1.0]);
        assert_eq!(shares(&none), [1.0; 5]);
    }

    /// The value network has the common clip, unless it has its own. A recipe without the two keys is
    /// written without them.
    #[test]
    fn the_value_network_may_have_its_own_clip() {
        let common = OptimizerRecipe {
            clip: 0.5,
            ..OptimizerRecipe::default()
        };
        let own = OptimizerRecipe {
            value_gradient_clip: Some(10.0),
            ..common.clone()
        };
        assert_eq!(common.of_value_network(), common);
        assert_eq!(own.of_value_network().clip, 10.0);
        assert_eq!(own.clip, 0.5);
        let text = toml::to_string(&common).expect("writes");
        assert!(!text.contains("value_gradient_clip") && !text.contains("policy_warmup"));
        assert_eq!(toml::from_str(&text), Ok(common));
    }

    #[test]
    fn a_checkpoint_restores_the_moments() {
        let model = two_parameters();
        let mut optimizer = AdamW::default();
        let found = gradients(&model, (model.weight.val() * 3.0).sum().backward());
        optimizer.update(
            &mut parameters(&model),
            &found,
            0.1,
            &OptimizerRecipe::default(),
        );
        let again = AdamW::from_weights(optimizer.to_weights()).expect("complete");
        assert_eq!((again.moments, again.updates), (optimizer.moments, 1));
    }
}
