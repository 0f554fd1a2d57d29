//! What every stage of a run needs: the recipe, the folder, the options and the reporter.

use crate::error::TrainerError;
use crate::pipeline::recipe::Recipe;
use crate::pipeline::rounds::Shard;
use crate::pipeline::stages::{Stage, StageOutputs};
use agent::inference::device::DeviceChoice;
use agent::model::folder::Model;
use indicatif::ProgressBar;
use std::path::Path;
use std::time::Duration;

/// Shows the progress of a run. The command line draws bars; tests draw nothing.
pub trait Reporter {
    /// Reports that a stage begins. Returns the stage's progress bar.
    fn stage(&self, title: &str) -> ProgressBar;
    /// Shows a message to the user.
    fn say(&self, text: &str);
}

/// How a recipe is run. No option is an input of a stage.
#[derive(Debug, Clone, Copy)]
pub struct RunOptions<'a> {
    /// The device for training and inference.
    pub device: DeviceChoice,
    /// Version of the code, for the manifests.
    pub code: &'a str,
    /// The share of the games that this process plays.
    pub shard: Shard,
    /// How long a shard waits for other shards.
    pub wait: Duration,
    /// After this time without a new episode of a shard, the shards that wait play its games. Zero: never.
    pub lease: Duration,
}

impl<'a> RunOptions<'a> {
    /// Returns the options of a process that runs without other shards.
    #[must_use]
    pub fn alone(device: DeviceChoice, code: &'a str) -> Self {
        Self {
            device,
            code,
            shard: Shard::WHOLE,
            wait: Duration::ZERO,
            lease: Duration::ZERO,
        }
    }
}

/// The fixed parts of a run.
#[derive(Clone, Copy)]
pub(super) struct RunContext<'a> {
    pub(super) recipe: &'a Recipe,
    pub(super) out: &'a Path,
    pub(super) reporter: &'a dyn Reporter,
    pub(super) options: &'a RunOptions<'a>,
}

impl RunContext<'_> {
    pub(super) fn say(&self, text: &str) {
        self.reporter.say(text);
    }

    /// Opens the model of a training stage.
    ///
    /// # Errors
    /// If the folder cannot be read, or if the model is not the one that the stage ended with.
    pub(super) fn model(
        &self,
        outputs: &StageOutputs,
        stage: Stage,
    ) -> Result<Model, TrainerError> {
        let folder = stage.paths(self.recipe, self.out).path();
        let model = Model::open(&folder)?;
        let recorded = outputs
            .get(&stage)
            .and_then(|output| output.policy.as_ref());
        if recorded == Some(&model.policy.hash()) {
            return Ok(model);
        }
        let reason = "is not the model that this stage ended with\nhint: restore that model, or remove the folder to train it again";
        Err(TrainerError::content(&folder, reason))
    }
}
