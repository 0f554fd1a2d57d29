//! The configuration of a training job: the policy it starts from, the episodes it reads, and its algorithm.
//!
//! A job is one `[[train]]` table of a run recipe, or a TOML file of its own for `hearth train`. Unknown
//! keys are refused. A key is accepted only if the chosen algorithm uses it: `beta` under `sft` is an error.
//! Recipes of earlier versions name some keys differently; the old names are accepted as aliases.

use crate::error::TrainerError;
use crate::learn::optimizer::{OptimizerKind, OptimizerRecipe};
use agent::model::decoder::Precision;
use agent::model::lora::LoraRecipe;
use serde::{Deserialize, Serialize};
use std::path::Path;

mod actions;
mod algorithm;
mod critic;
mod data;

use self::actions::OreoExtensions;
pub use self::actions::{Level, Normalisation};
pub use self::algorithm::{Algorithm, CriticRecipe, Targets};
pub use self::critic::{CriticConfig, CriticInit, Ranking, ValueLoss};
pub use self::data::{DataSource, Lost, Prefer};

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
    /// The value network, for OREO only: the table `[train.critic]`. The default is OREO as published.
    #[serde(default, skip_serializing_if = "CriticConfig::is_default")]
    pub critic: CriticConfig,
    /// Updates between two runs of the reading test ([`crate::measure::reading`]), whose results go to
    /// metrics.csv. If 0, the default, there is no test. It does not change what is trained.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub reading_every: usize,
    /// Share of the updates, from the first, whose batches are drawn from the shortest quarter of the episodes
    /// ([`crate::learn::data::short_first`]), in [0, 1). It is allowed for `sft` only. Default: 0.
    #[serde(default, skip_serializing_if = "is_zero_share")]
    pub short_first: f64,
    /// The algorithm and its settings.
    pub algorithm: Algorithm,
}

/// If a key has this default, it is not written, so the stage hashes of recipes from before the key existed stay
/// the same.
#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// The same for a share.
#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero_share(share: &f64) -> bool {
    *share == 0.0
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
            critic: CriticConfig::default(),
            reading_every: 0,
            short_first: 0.0,
            algorithm,
        }
    }

    /// Returns whether the job is trained once, before the first rollouts. If not, it is trained in every
    /// iteration.
    #[must_use]
    pub fn is_trained_once(&self) -> bool {
        match self.from {
            StartFrom::Fresh => true,
            StartFrom::Job(_) => !self.reads_rollouts(),
            StartFrom::Collector => false,
        }
    }

    /// Returns whether the job reads episodes or states that an iteration plays.
    fn reads_rollouts(&self) -> bool {
        self.data
            .iter()
            .any(|data| !matches!(data, DataSource::Demonstrations | DataSource::Dagger))
    }

    /// Returns the keys of algorithm, optimizer, schedule and `critic` that go beyond the published algorithm, as
    /// `KEY = VALUE`.
    #[must_use]
    pub fn extensions(&self) -> Vec<String> {
        let algorithm = self.algorithm.oreo_extensions();
        let algorithm = algorithm.map(OreoExtensions::settings);
        let optimizer = &self.optimizer;
        let clip = optimizer.value_gradient_clip;
        let clip = clip.map(|clip| format!("optimizer.value_gradient_clip = {clip:?}"));
        let warmup = Some(optimizer.policy_warmup).filter(|updates| *updates > 0);
        let warmup = warmup.map(|updates| format!("optimizer.policy_warmup = {updates}"));
        let kind = Some(optimizer.kind).filter(|kind| *kind == OptimizerKind::Muon);
        let kind = kind.map(|_| "optimizer.kind = \"muon\"".to_string());
        let short = Some(self.short_first).filter(|share| *share > 0.0);
        let short = short.map(|share| format!("short_first = {share:?}"));
        let all = algorithm.unwrap_or_default().into_iter();
        all.chain(clip)
            .chain(warmup)
            .chain(kind)
            .chain(short)
            .chain(self.critic.settings())
            .collect()
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
            .and_then(|()| self.check_short_first())
            .and_then(|()| self.check_critic())
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
        let imitates = matches!(
            self.algorithm,
            Algorithm::Sft { .. } | Algorithm::RejectionSampling { .. }
        );
        if self.data.contains(&DataSource::Rescues) && !imitates {
            return Err(format!(
                "{} must not read \"rescues\": they are selected by their outcome, so only sft and rejection_sampling may learn from them",
                self.algorithm.kind()
            ));
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
            if self.optimizer.kind == OptimizerKind::Muon {
                return Err("optimizer: kind = \"muon\" and lora exclude each other: muon updates whole matrices\nhint: use kind = \"adamw\"".into());
            }
            if self.optimizer.last_layers > 0 {
                return Err("lora and last_layers exclude each other: lora trains the adapters of every layer and nothing else".into());
            }
        }
        Ok(())
    }

    fn check_start(&self) -> Result<(), String> {
        if self.from == StartFrom::Fresh && self.reads_rollouts() {
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

    fn check_critic(&self) -> Result<(), String> {
        self.critic.check()?;
        let is_source = self.data.contains(&DataSource::Branches);
        if is_source && !self.critic.reads_branches() {
            return Err("data names \"branches\", and no loss reads them\nhint: set critic.ranking or critic.policy_branch_coef".into());
        }
        if self.critic.is_default() {
            return Ok(());
        }
        let Algorithm::Oreo { level, .. } = self.algorithm else {
            return Err(format!(
                "critic: only oreo has this table, and the algorithm is {}\nhint: remove [train.critic]",
                self.algorithm.kind()
            ));
        };
        if self.critic.advantage_head && level != Level::Turn {
            return Err("critic: advantage_head needs level = \"turn\": A is the advantage of a whole completion".into());
        }
        if self.critic.value_loss == ValueLoss::HlGauss && level == Level::Response {
            return Err(
                "critic: value_loss = \"hl_gauss\" needs level = \"turn\" or \"token\"".into(),
            );
        }
        if self.critic.policy_branch_coef > 0.0 && self.reference == ReferenceUse::Cached {
            return Err("critic: policy_branch_coef needs the live reference, and reference = \"cached\" removes it\nhint: leave reference out".into());
        }
        if self.critic.reads_branches() && !is_source {
            return Err("critic: ranking and policy_branch_coef learn from branch states\nhint: add \"branches\" to data".into());
        }
        Ok(())
    }

    fn check_short_first(&self) -> Result<(), String> {
        let share = self.short_first;
        if !(0.0..1.0).contains(&share) {
            return Err(format!("short_first = {share} must be in [0, 1)"));
        }
        match &self.algorithm {
            Algorithm::Sft { .. } => Ok(()),
            _ if share == 0.0 => Ok(()),
            other => Err(format!(
                "short_first: {} must read episodes without regard to length, because length predicts the outcome; only sft may read short ones first",
                other.kind()
            )),
        }
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
    /// recipe. If this job reads rollouts, it is trained in every iteration, from the model of the same
    /// iteration or from one that is trained once. If not, both are trained once, before the first rollouts.
    #[serde(alias = "lesson")]
    Job(String),
    /// The policy that collected this iteration's rollouts.
    Collector,
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
