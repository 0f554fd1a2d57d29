//! The configuration of a training job: the policy it starts from, the episodes it reads, and its algorithm.
//!
//! A job is one `[[train]]` table of a run recipe, or a TOML file of its own for `hearth train`. Unknown
//! keys are refused. A key is accepted only if the chosen algorithm uses it: `beta` under `sft` is an error.
//! Recipes of earlier versions name some keys differently; the old names are accepted as aliases.

use crate::error::TrainerError;
use crate::learn::optimizer::OptimizerRecipe;
use agent::model::decoder::Precision;
use agent::model::lora::LoraRecipe;
use serde::{Deserialize, Serialize};
use std::path::Path;

mod actions;

use self::actions::OreoExtensions;
pub use self::actions::{Level, Normalisation};

/// One training job: one run of the trainer with one algorithm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// The job's name, which is also the name of its folder.
    pub name: String,
    /// The policy that the job starts from. It is also the reference policy.
    pub from: StartFrom,
    /// The episodes that the job reads.
    pub data: Vec<DataSource>,
    /// Number format of the products in linear layers: `f32` or `bf16`. Default: `f32`.
    #[serde(default)]
    pub precision: Precision,
    /// Batches, learning rates and schedule.
    #[serde(default)]
    pub optimizer: OptimizerRecipe,
    /// LoRA adapters. If they are set, only the adapters are trained; otherwise the networks are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraRecipe>,
    /// When the reference policy is evaluated.
    #[serde(default)]
    pub reference: ReferenceUse,
    /// Highest probability that a receptacle which an episode never names is removed from the episode's
    /// first observation: [`crate::learn::receptacle_dropout`]. It is allowed only if the job imitates.
    #[serde(default, alias = "thinned", skip_serializing_if = "Option::is_none")]
    pub receptacle_dropout: Option<f64>,
    /// When the job ends early. If it is not set, the job runs to its last update.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early_stopping: Option<EarlyStopping>,
    /// The algorithm and its settings.
    pub algorithm: Algorithm,
}

/// Reads one training job from a TOML file of its own, for `hearth train`.
///
/// # Errors
/// If the file is missing, or if a key is unknown, missing, misplaced or of the wrong type.
pub fn open_job(path: &Path) -> Result<TrainConfig, TrainerError> {
    let text = std::fs::read_to_string(path).map_err(TrainerError::file(path))?;
    let job: TrainConfig = toml::from_str(&text).map_err(|e| TrainerError::content(path, e))?;
    job.check()
        .map_err(|reason| TrainerError::content(path, reason))?;
    Ok(job)
}

impl TrainConfig {
    /// Returns a job with this algorithm and all defaults, from the collector and on its rollouts.
    #[must_use]
    pub fn of(algorithm: Algorithm) -> Self {
        Self {
            name: "job".into(),
            from: StartFrom::Collector,
            data: vec![DataSource::Rollouts],
            precision: Precision::default(),
            optimizer: OptimizerRecipe::default(),
            lora: None,
            reference: ReferenceUse::default(),
            receptacle_dropout: None,
            early_stopping: None,
            algorithm,
        }
    }

    /// Returns whether the job is trained once, before the first rollouts. If not, it is trained in every
    /// iteration from the policy that collected that iteration's rollouts.
    #[must_use]
    pub fn is_trained_once(&self) -> bool {
        self.from != StartFrom::Collector
    }

    /// Returns the keys of algorithm and optimizer that go beyond the published algorithm, as
    /// `KEY = VALUE`.
    #[must_use]
    pub fn extensions(&self) -> Vec<String> {
        let algorithm = self.algorithm.oreo_extensions();
        let algorithm = algorithm.map(OreoExtensions::settings);
        let optimizer = &self.optimizer;
        let clip = optimizer.value_gradient_clip;
        let clip = clip.map(|clip| format!("optimizer.value_gradient_clip = {clip}"));
        let warmup = Some(optimizer.policy_warmup).filter(|updates| *updates > 0);
        let warmup = warmup.map(|updates| format!("optimizer.policy_warmup = {updates}"));
        let all = algorithm.unwrap_or_default().into_iter();
        all.chain(clip).chain(warmup).collect()
    }

    /// Checks that the job can be run.
    ///
    /// # Errors
    /// A text that names the job and the key, if a value is out of range or two keys contradict each other.
    pub fn check(&self) -> Result<(), String> {
        self.check_name()
            .and_then(|()| self.check_data())
            .and_then(|()| self.check_optimizer())
            .and_then(|()| self.check_start())
            .and_then(|()| self.check_cached_reference())
            .and_then(|()| self.check_early_stopping())
            .and_then(|()| self.check_receptacle_dropout())
            .and_then(|()| self.algorithm.check())
            .map_err(|problem| format!("job {:?}: {problem}", self.name))
    }

    fn check_name(&self) -> Result<(), String> {
        if self.name.contains(['/', '\\', '.']) || self.name.is_empty() {
            return Err("the name must be usable as a folder name, without / \\ and .".into());
        }
        if ["eval", "rollouts"].contains(&self.name.as_str()) {
            return Err("the name is taken by the evaluations or rollouts of an iteration".into());
        }
        Ok(())
    }

    fn check_data(&self) -> Result<(), String> {
        if self.data.is_empty() {
            return Err("data is empty".into());
        }
        let selects_nothing = self.data.iter().any(|data| {
            matches!(
                data,
                DataSource::SelectedRollouts {
                    last: 0,
                    won_per_game: 0,
                    lost: Lost::Kept,
                    ..
                }
            )
        });
        if selects_nothing {
            return Err(
                "selected_rollouts: set last, won_per_game or lost = \"left_out\"; \"rollouts\" reads all rollouts".into(),
            );
        }
        Ok(())
    }

    fn check_optimizer(&self) -> Result<(), String> {
        self.optimizer
            .check()
            .map_err(|problem| format!("optimizer: {problem}"))?;
        if self.algorithm.critic().is_none() {
            let kind = self.algorithm.kind();
            if self.optimizer.value_gradient_clip.is_some() {
                return Err(format!(
                    "optimizer: value_gradient_clip: {kind} has no value network\nhint: clip limits the gradient of the policy"
                ));
            }
            if self.optimizer.policy_warmup > 0 {
                return Err(format!(
                    "optimizer: policy_warmup: {kind} has no updates in which only a value network learns\nhint: warmup raises the rate from the first update"
                ));
            }
        }
        if let Some(lora) = &self.lora {
            lora.check()?;
            if self.optimizer.last_layers > 0 {
                return Err("lora and last_layers exclude each other: lora trains the adapters of every layer and nothing else".into());
            }
        }
        Ok(())
    }

    fn check_start(&self) -> Result<(), String> {
        let reads_rollouts = self
            .data
            .iter()
            .any(|data| !matches!(data, DataSource::Demonstrations | DataSource::Dagger));
        if self.is_trained_once() && reads_rollouts {
            return Err(
                "it is trained before the first rollouts, so it cannot read rollouts".into(),
            );
        }
        if self.from == StartFrom::Fresh && self.algorithm.has_reference() {
            return Err(format!(
                "{} needs a reference policy: set from = \"collector\" or from = {{ job = NAME }}",
                self.algorithm.kind()
            ));
        }
        Ok(())
    }

    fn check_cached_reference(&self) -> Result<(), String> {
        if self.reference == ReferenceUse::Live {
            return Ok(());
        }
        let problem = match &self.algorithm {
            Algorithm::Kto { .. } => {
                "kto evaluates the reference on pairs that are drawn anew in every batch".into()
            }
            other if !other.has_reference() => format!("{} has no reference", other.kind()),
            other if other.alpha().is_some_and(|alpha| alpha > 0.0) => {
                "the exact KL needs the live reference; set alpha = 0".into()
            }
            _ => return Ok(()),
        };
        Err(format!("reference = \"cached\": {problem}"))
    }

    fn check_early_stopping(&self) -> Result<(), String> {
        let Some(EarlyStopping {
            share,
            every,
            patience,
        }) = self.early_stopping
        else {
            return Ok(());
        };
        if share > 0.0 && share < 1.0 && every > 0 && patience > 0 {
            return Ok(());
        }
        Err("early_stopping: share must be in (0, 1), every and patience above 0".into())
    }

    fn check_receptacle_dropout(&self) -> Result<(), String> {
        let Some(share) = self.receptacle_dropout else {
            return Ok(());
        };
        if !(share > 0.0 && share <= 1.0) {
            return Err("receptacle_dropout must be in (0, 1]".into());
        }
        match &self.algorithm {
            Algorithm::Sft { .. } | Algorithm::RejectionSampling { .. } => Ok(()),
            other => Err(format!(
                "receptacle_dropout: {} must read observations as they were played; only sft and rejection_sampling may change them",
                other.kind()
            )),
        }
    }
}

/// The policy that a job starts from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartFrom {
    /// Random weights and a new vocabulary. The job is trained once, before the first rollouts.
    Fresh,
    /// The model of an earlier job, `from = { job = NAME }`. That job must come before this one in the
    /// recipe, and both are trained once, before the first rollouts.
    #[serde(alias = "lesson")]
    Job(String),
    /// The policy that collected this iteration's rollouts.
    Collector,
}

/// Episodes that a job reads. If several sources contain the same episode, it is read once. A source is
/// a name or a table: `data = ["demonstrations", { selected_rollouts = { last = 2, won_per_game = 3 } }]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum DataSource {
    /// The expert's episodes.
    Demonstrations,
    /// The DAgger episodes of all students that come before this job in the recipe.
    #[serde(alias = "guided")]
    Dagger,
    /// The policy's own episodes of all iterations so far.
    Rollouts,
    /// The policy's own episodes of this iteration (online learning).
    LatestRollouts,
    /// A selection of the policy's own episodes.
    #[serde(alias = "chosen_rollouts")]
    SelectedRollouts {
        /// Number of iterations to read, counted back from this one. If 0, all iterations so far.
        #[serde(default)]
        last: usize,
        /// Maximum number of won episodes of a game over all these iterations. If 0, all of them.
        #[serde(default)]
        won_per_game: usize,
        /// Which won episodes are read if a game has more than `won_per_game`.
        #[serde(default)]
        prefer: Prefer,
        /// Whether episodes that were not won are read.
        #[serde(default)]
        lost: Lost,
    },
}

/// Which won episodes of a game are read if not all of them are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prefer {
    /// Those with the fewest turns. If two have equally many turns, the later one is preferred.
    #[default]
    Shortest,
    /// A random selection, drawn with the recipe's seed.
    Random,
}

/// Whether episodes that were not won are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lost {
    /// All of them are read.
    #[default]
    Kept,
    /// None of them is read.
    LeftOut,
}

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
    fn oreo_extensions(&self) -> Option<OreoExtensions> {
        match *self {
            Self::Oreo {
                level,
                discount,
                normalise,
                log_ratio_clip,
                ..
            } => Some(OreoExtensions {
                level,
                discount,
                normalise,
                log_ratio_clip,
            }),
            _ => None,
        }
    }

    /// Returns an error that names the value if one is out of range.
    fn check(&self) -> Result<(), String> {
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
            Self::Oreo { beta, .. } => {
                check_positive("beta", beta)?;
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

/// When the log-probabilities of the reference policy are computed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReferenceUse {
    /// In every update. The exact KL needs this.
    #[default]
    Live,
    /// Once, before the first update; then the reference is removed from memory. The exact KL is not
    /// available.
    Cached,
}

/// Early stopping: episodes of some games of `train` are held out, and the job ends if their loss no
/// longer improves.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EarlyStopping {
    /// Share of the games that are held out.
    pub share: f64,
    /// Updates between two evaluations of the held-out episodes.
    pub every: usize,
    /// Number of evaluations without a new best after which the job ends. The weights of the best
    /// evaluation are kept.
    pub patience: usize,
}

#[cfg(test)]
mod tests;
