//! The training algorithms and their settings: the table `algorithm` of a job.

use super::actions::{Level, Normalisation, OreoExtensions};
use serde::{Deserialize, Serialize};

/// A training algorithm and its settings. The equations are in [`crate::loss`], one file per algorithm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Algorithm {
    /// Imitation of all given episodes.
    Sft {
        /// Tokens with a loss.
        targets: Targets,
    },
    /// Imitation of the successful episodes only.
    RejectionSampling {
        /// Tokens with a loss.
        targets: Targets,
    },
    /// OREO: soft-Bellman policy and value (arXiv 2412.16145).
    Oreo {
        /// What counts as one action.
        level: Level,
        /// Reward per nat.
        beta: f64,
        /// Weight of the exact KL to the reference.
        alpha: f64,
        /// Highest learning rate of the value network.
        value_learning_rate: f64,
        /// Share of the updates in which only the value network is trained.
        #[serde(alias = "value_warmup")]
        critic_only_share: f64,
        /// γ of rewards and log-ratios, per turn, in (0, 1]. Default: 1, as published. Only
        /// `level = "turn"` supports a smaller value.
        #[serde(default = "one", skip_serializing_if = "is_one")]
        discount: f64,
        /// What the losses are averaged over. Default: `trajectory`, as published.
        #[serde(default, skip_serializing_if = "Normalisation::is_published")]
        normalise: Normalisation,
        /// Limit of |β Σ l| in the losses of V and U, reward units. Default: no limit, as published.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        log_ratio_clip: Option<f64>,
        /// Number of turns after which the paths of the losses of π and U end at V (PCL, arXiv
        /// 1702.08892). Default: at the end of the episode, as published. Only `level = "turn"`
        /// supports it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path_length: Option<usize>,
        /// Weight of the imitation of won episodes, as in RPO (arXiv 2404.19733). Default: 0, as
        /// published.
        #[serde(default, skip_serializing_if = "is_zero")]
        imitation_coef: f64,
    },
    /// DQO: soft Q-learning with λ-returns. Trajectories are weighted by their likelihood under the policy
    /// (arXiv 2410.09302).
    Dqo {
        /// What counts as one action: `turn` or `token`.
        level: Level,
        /// Reward per nat.
        beta: f64,
        /// λ of the returns, in [0, 1].
        lambda: f64,
        /// Whether the process scores of failed episodes are used as rewards. `hearth score` writes them.
        #[serde(default)]
        process_scores: bool,
        /// Highest learning rate of the value network.
        value_learning_rate: f64,
        /// Share of the updates in which only the value network is trained.
        #[serde(alias = "value_warmup")]
        critic_only_share: f64,
    },
    /// DRO: the whole episode is one action (arXiv 2405.19107).
    Dro {
        /// Reward per nat.
        beta: f64,
        /// Highest learning rate of the value network.
        value_learning_rate: f64,
        /// Share of the updates in which only the value network is trained.
        #[serde(alias = "value_warmup")]
        critic_only_share: f64,
    },
    /// DPO: preference of a won episode over a lost one of the same game (arXiv 2305.18290).
    Dpo {
        /// Reward per nat.
        beta: f64,
        /// Maximum number of pairs of one game. Default: 5.
        #[serde(default = "five")]
        pairs: usize,
    },
    /// KTO: won and lost episodes against a reference point, without pairs (arXiv 2402.01306).
    Kto {
        /// Reward per nat.
        beta: f64,
        /// Weight of a won episode. Default: 1.
        #[serde(default = "one")]
        desirable: f64,
        /// Weight of a lost episode. Default: 1.
        #[serde(default = "one")]
        undesirable: f64,
    },
    /// GRPO: advantages among the episodes of one game (arXiv 2402.03300).
    Grpo {
        /// What counts as one action: `turn` or `token`.
        level: Level,
        /// A probability ratio is clipped if it differs from 1 by more than this.
        clip: f64,
        /// Weight of the exact KL to the reference.
        alpha: f64,
    },
    /// GiGPO: GRPO with additional advantages among turns that began in the same state (arXiv 2505.10978).
    Gigpo {
        /// What counts as one action: `turn` or `token`.
        level: Level,
        /// A probability ratio is clipped if it differs from 1 by more than this.
        clip: f64,
        /// Weight of the exact KL to the reference.
        alpha: f64,
        /// γ of the returns that are compared within a state, in (0, 1].
        discount: f64,
        /// ω, the weight of the advantage within a state.
        omega: f64,
    },
}

fn five() -> usize {
    5
}

fn one() -> f64 {
    1.0
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_one(value: &f64) -> bool {
    value.to_bits() == one().to_bits()
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

/// The training settings of a value network.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CriticRecipe {
    /// Highest learning rate.
    pub learning_rate: f64,
    /// Share of the updates in which only the value network is trained.
    pub critic_only_share: f64,
}

impl Algorithm {
    /// Returns the settings of the value network, or `None` if the algorithm has none.
    #[must_use]
    pub fn critic(&self) -> Option<CriticRecipe> {
        match *self {
            Self::Oreo {
                value_learning_rate: learning_rate,
                critic_only_share,
                ..
            }
            | Self::Dqo {
                value_learning_rate: learning_rate,
                critic_only_share,
                ..
            }
            | Self::Dro {
                value_learning_rate: learning_rate,
                critic_only_share,
                ..
            } => Some(CriticRecipe {
                learning_rate,
                critic_only_share,
            }),
            _ => None,
        }
    }

    /// Returns whether the loss uses the reference policy.
    #[must_use]
    pub fn has_reference(&self) -> bool {
        !matches!(self, Self::Sft { .. } | Self::RejectionSampling { .. })
    }

    /// Returns the weight of the exact KL, which needs the reference's whole distribution, or `None` if the
    /// loss has no such term.
    #[must_use]
    pub fn alpha(&self) -> Option<f64> {
        match *self {
            Self::Oreo { alpha, .. } | Self::Grpo { alpha, .. } | Self::Gigpo { alpha, .. } => {
                Some(alpha)
            }
            _ => None,
        }
    }

    /// Returns the algorithm's name in recipes.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Sft { .. } => "sft",
            Self::RejectionSampling { .. } => "rejection_sampling",
            Self::Oreo { .. } => "oreo",
            Self::Dqo { .. } => "dqo",
            Self::Dro { .. } => "dro",
            Self::Dpo { .. } => "dpo",
            Self::Kto { .. } => "kto",
            Self::Grpo { .. } => "grpo",
            Self::Gigpo { .. } => "gigpo",
        }
    }

    /// Returns the keys of OREO that are not in the paper; `None` if the algorithm is another.
    pub(super) fn oreo_extensions(&self) -> Option<OreoExtensions> {
        match *self {
            Self::Oreo {
                level,
                discount,
                normalise,
                log_ratio_clip,
                path_length,
                imitation_coef,
                ..
            } => Some(OreoExtensions {
                level,
                discount,
                normalise,
                log_ratio_clip,
                path_length,
                imitation_coef,
            }),
            _ => None,
        }
    }

    /// Returns an error that names the value if one is out of range.
    pub(super) fn check(&self) -> Result<(), String> {
        if let Some(critic) = self.critic() {
            check_not_negative("value_learning_rate", critic.learning_rate)?;
            let share = critic.critic_only_share;
            let fits = (0.0..=1.0).contains(&share);
            check_range("critic_only_share", share, fits, "in [0, 1]")?;
        }
        if let Some(alpha) = self.alpha() {
            check_not_negative("alpha", alpha)?;
        }
        match *self {
            Self::Dqo { level, .. } | Self::Grpo { level, .. } | Self::Gigpo { level, .. }
                if level == Level::Response =>
            {
                return Err(format!(
                    "level = \"response\": {} supports turn and token",
                    self.kind()
                ));
            }
            _ => {}
        }
        match *self {
            Self::Sft { .. } | Self::RejectionSampling { .. } => Ok(()),
            Self::Oreo {
                beta,
                imitation_coef,
                ..
            } => {
                check_positive("beta", beta)?;
                check_not_negative("imitation_coef", imitation_coef)?;
                self.oreo_extensions().map_or(Ok(()), OreoExtensions::check)
            }
            Self::Dro { beta, .. } => check_positive("beta", beta),
            Self::Dqo { beta, lambda, .. } => {
                check_positive("beta", beta)?;
                check_range("lambda", lambda, (0.0..=1.0).contains(&lambda), "in [0, 1]")
            }
            Self::Dpo { beta, pairs } => {
                check_positive("beta", beta)?;
                check_positive("pairs", pairs as f64)
            }
            Self::Kto {
                beta,
                desirable,
                undesirable,
            } => {
                check_positive("beta", beta)?;
                check_positive("desirable", desirable)?;
                check_positive("undesirable", undesirable)
            }
            Self::Grpo { clip, .. } => check_positive("clip", clip),
            Self::Gigpo {
                clip,
                discount,
                omega,
                ..
            } => {
                check_positive("clip", clip)?;
                let fits = discount > 0.0 && discount <= 1.0;
                check_range("discount", discount, fits, "above 0, at most 1")?;
                check_not_negative("omega", omega)
            }
        }
    }
}

/// Returns an error if the value does not fit or is not finite.
fn check_range(name: &str, value: f64, fits: bool, range: &str) -> Result<(), String> {
    if fits && value.is_finite() {
        Ok(())
    } else {
        Err(format!("{name} = {value} must be {range}"))
    }
}

fn check_positive(name: &str, value: f64) -> Result<(), String> {
    check_range(name, value, value > 0.0, "above 0")
}

fn check_not_negative(name: &str, value: f64) -> Result<(), String> {
    check_range(name, value, value >= 0.0, "0 or more")
}

/// The tokens of an episode that imitation is trained on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Targets {
    /// The tokens of completions.
    Actions,
    /// All tokens. A decoder that starts from random weights then also learns the environment's texts.
    Transcript,
}
