//! The value network of an OREO job: the table `critic` of a recipe.
//!
//! OREO as published (arXiv 2412.16145) is the default: a trunk copied from the starting policy, one
//! value head of zeros, a squared error, every weight trained from the first update, and no loss over
//! branch states. Each key is an extension that the paper does not have.

use serde::{Deserialize, Serialize};

/// The form of the value network, and its losses over branch states. The default is OREO as published.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CriticConfig {
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
    /// The loss of U within a branch state: [`crate::loss::ranking`]. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ranking: Option<Ranking>,
    /// Weight of that loss beside those of V and U. Default: 1.
    #[serde(skip_serializing_if = "is_one")]
    pub ranking_coef: f64,
    /// τ of `listwise` and `bradley_terry`, reward units. Default: 0.1.
    #[serde(skip_serializing_if = "is_tenth")]
    pub ranking_temperature: f64,
    /// Branch states of an update, beside its trajectories. Default: 8.
    #[serde(skip_serializing_if = "is_eight")]
    pub branch_batch: usize,
    /// Weight of L_π^br, the loss of the policy over pairs of candidates. Default: 0.
    #[serde(skip_serializing_if = "is_default")]
    pub policy_branch_coef: f64,
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

/// The loss of U within a branch state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ranking {
    /// Squared error of the scores, centred within the state.
    Advantage,
    /// Cross-entropy between the softmax of the labels and that of the scores.
    Listwise,
    /// Cross-entropy over pairs of candidates.
    BradleyTerry,
}

impl Default for CriticConfig {
    fn default() -> Self {
        Self {
            init: CriticInit::Policy,
            head_only: 0.0,
            advantage_head: false,
            value_loss: ValueLoss::Mse,
            next_observation_coef: 0.0,
            ranking: None,
            ranking_coef: 1.0,
            ranking_temperature: 0.1,
            branch_batch: 8,
            policy_branch_coef: 0.0,
        }
    }
}

impl CriticConfig {
    /// Returns whether the job learns from branch states.
    #[must_use]
    pub fn reads_branches(&self) -> bool {
        self.ranking.is_some() || self.policy_branch_coef > 0.0
    }

    /// Returns whether all keys have their defaults.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

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
    /// A text that names the key, if a value is out of range or has no effect, or if two keys exclude
    /// each other.
    pub fn check(&self) -> Result<(), String> {
        if !(0.0..=1.0).contains(&self.head_only) {
            return Err(format!(
                "critic: head_only = {} must be in [0, 1]",
                self.head_only
            ));
        }
        let numbers = [
            ("next_observation_coef", self.next_observation_coef, true),
            ("ranking_coef", self.ranking_coef, false),
            ("ranking_temperature", self.ranking_temperature, false),
            ("policy_branch_coef", self.policy_branch_coef, true),
        ];
        for (name, value, may_be_zero) in numbers {
            let fits = value > 0.0 || (may_be_zero && value == 0.0);
            if !fits || !value.is_finite() {
                let range = if may_be_zero { "0 or more" } else { "above 0" };
                return Err(format!("critic: {name} = {value} must be {range}"));
            }
        }
        if self.branch_batch == 0 {
            return Err("critic: branch_batch must be above 0".into());
        }
        if self.advantage_head && self.value_loss == ValueLoss::HlGauss {
            return Err(
                "critic: advantage_head and value_loss = \"hl_gauss\" exclude each other: V + A is a number, not a distribution\n\
                 hint: keep one of them"
                    .into(),
            );
        }
        self.check_effects()
    }

    /// Checks that every key of branch states has an effect.
    fn check_effects(&self) -> Result<(), String> {
        let default = Self::default();
        let has_temperature = !matches!(self.ranking, None | Some(Ranking::Advantage));
        let unused = [
            (
                "ranking_coef",
                self.ranking.is_none() && self.ranking_coef != default.ranking_coef,
                "set ranking",
            ),
            (
                "ranking_temperature",
                !has_temperature && self.ranking_temperature != default.ranking_temperature,
                "set ranking = \"listwise\" or \"bradley_terry\"",
            ),
            (
                "branch_batch",
                !self.reads_branches() && self.branch_batch != default.branch_batch,
                "set ranking or policy_branch_coef",
            ),
        ];
        match unused.iter().find(|(_, is_unused, _)| *is_unused) {
            Some((name, _, hint)) => Err(format!("critic: {name} has no effect\nhint: {hint}")),
            None => Ok(()),
        }
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that serde needs"
)]
fn is_one(value: &f64) -> bool {
    *value == 1.0
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that serde needs"
)]
fn is_tenth(value: &f64) -> bool {
    *value == 0.1
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that serde needs"
)]
fn is_eight(value: &usize) -> bool {
    *value == 8
}
