//! The optimizer of a network: its settings, its schedule, and one update.
//!
//! | module | contains |
//! | --- | --- |
//! | `state` | the state of the optimizer, clipping by the global gradient norm, and checkpoints |
//! | `adamw` | the update of AdamW |
//! | `muon` | the update of Muon, for the matrices of the layers |

use serde::{Deserialize, Serialize};

mod adamw;
mod muon;
mod state;

pub use self::state::OptimizerState;

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
    /// The update of the matrices of the layers; all other parameters have AdamW.
    #[serde(skip_serializing_if = "OptimizerKind::is_adamw")]
    pub kind: OptimizerKind,
}

/// The update of the matrices of the layers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// AdamW (Loshchilov & Hutter, arXiv 1711.05101).
    #[default]
    AdamW,
    /// Muon (Jordan et al. 2024) with the scale of Moonlight (arXiv 2502.16982), so that the learning
    /// rate of AdamW can be kept.
    Muon,
}

impl OptimizerKind {
    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde passes a reference"
    )]
    fn is_adamw(&self) -> bool {
        *self == Self::AdamW
    }
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
            kind: OptimizerKind::default(),
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

#[cfg(test)]
mod tests {
    use super::*;

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

    /// A recipe without the key is written without it, so that the hash of its stage stays.
    #[test]
    fn the_kind_is_adamw_unless_it_is_set() {
        let read = |text: &str| toml::from_str::<OptimizerRecipe>(text);
        assert_eq!(read("").expect("reads").kind, OptimizerKind::AdamW);
        let muon = read("kind = \"muon\"").expect("reads");
        assert_eq!(muon.kind, OptimizerKind::Muon);
        let written = toml::to_string(&muon).expect("writes");
        assert!(written.contains("kind = \"muon\""), "{written}");
        assert_eq!(read(&written), Ok(muon));
        let written = toml::to_string(&OptimizerRecipe::default()).expect("writes");
        assert!(!written.contains("kind"), "{written}");
        let error = read("kind = \"sgd\"").expect_err("refused").to_string();
        assert!(
            error.contains("unknown variant `sgd`, expected `adamw` or `muon`"),
            "{error}"
        );
    }
}
