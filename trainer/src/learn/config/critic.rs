//! The form of the value network of an OREO job: the table `critic` of a recipe.
//!
//! OREO as published (arXiv 2412.16145) is the default: a trunk copied from the starting policy, one
//! value head of zeros, a squared error, and every weight trained from the first update. Each key is
//! an extension that the paper does not have.

use serde::{Deserialize, Serialize};

/// The form of the value network. The default is OREO as published.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CriticForm {
    /// The weights that the value network starts from.
    #[serde(skip_serializing_if = "is_default")]
    pub init: CriticInit,
    /// Share of the updates, from the first one, in which only the heads of the value network are trained
    /// (LP-FT, arXiv 2202.10054). When its trunk joins, its optimizer begins anew.
    #[serde(skip_serializing_if = "is_default")]
    pub head_only: f64,
    /// Whether U(s, a) is V(s) plus the output of a head of its own, the advantage.
    #[serde(skip_serializing_if = "is_default")]
    pub advantage_head: bool,
    /// The loss of V and U.
    #[serde(skip_serializing_if = "is_default")]
    pub value_loss: ValueLoss,
    /// Weight of an auxiliary loss: the trunk of the value network predicts the tokens of observations.
    #[serde(skip_serializing_if = "is_default")]
    pub next_observation_coef: f64,
}

/// The weights that a value network starts from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CriticInit {
    /// The trunk of the starting policy, with heads of zeros.
    #[default]
    Policy,
    /// The value network of the starting model. If it has none, the job fails.
    Critic,
    /// The value network of the starting model if it has one, otherwise the trunk of its policy.
    CriticIfAny,
}

/// The loss of V and U.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ValueLoss {
    /// The squared error.
    #[default]
    Mse,
    /// The cross-entropy to the target as a histogram: HL-Gauss (arXiv 2403.03950). The value head has 51
    /// outputs.
    HlGauss,
}

impl CriticForm {
    /// Returns the keys that are not at their default, as `critic.KEY = VALUE`.
    ///
    /// # Panics
    /// Never: the table has plain values only.
    #[must_use]
    pub fn settings(&self) -> Vec<String> {
        let text = toml::to_string(self).expect("plain values can be written");
        text.lines().map(|line| format!("critic.{line}")).collect()
    }

    /// Checks the values of the keys.
    ///
    /// # Errors
    /// A text that names the key, if a value is out of range or two keys exclude each other.
    pub fn check(&self) -> Result<(), String> {
        if !(0.0..=1.0).contains(&self.head_only) {
            return Err(format!(
                "critic: head_only = {} must be in [0, 1]",
                self.head_only
            ));
        }
        let coef = self.next_observation_coef;
        if !(coef.is_finite() && coef >= 0.0) {
            return Err(format!(
                "critic: next_observation_coef = {coef} must be 0 or more"
            ));
        }
        if self.advantage_head && self.value_loss == ValueLoss::HlGauss {
            return Err(
                "critic: advantage_head and value_loss = \"hl_gauss\" exclude each other: V + A is a number, not a distribution\n\
                 hint: keep one of them"
                    .into(),
            );
        }
        Ok(())
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
