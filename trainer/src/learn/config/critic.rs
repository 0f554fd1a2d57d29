//! The optional table `critic` of a training job: how the value network learns besides its own loss.

use serde::{Deserialize, Serialize};

/// The table `critic` of a training job. All keys are extensions of hearth; OREO as published has
/// none of them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CriticConfig {
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
    #[serde(skip_serializing_if = "is_zero")]
    pub policy_branch_coef: f64,
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

    /// Checks the values.
    ///
    /// # Errors
    /// A text that names the key, if a value is out of range or has no effect.
    pub fn check(&self) -> Result<(), String> {
        let default = Self::default();
        let numbers = [
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

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that serde needs"
)]
fn is_zero(value: &f64) -> bool {
    *value == 0.0
}
