//! What a model was trained on: `lineage.json` in its folder.

use crate::error::TrainerError;
use crate::learn::config::TrainConfig;
use scenarios::{Split, files};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Name of the file in a model folder.
pub const LINEAGE: &str = "lineage.json";

/// What a model was trained on, recorded in its folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineage {
    /// How the checkpoint was selected.
    pub checkpoint: String,
    /// Number of games by split whose episodes were learned from, including the held-out games that
    /// selected the checkpoint.
    pub games: BTreeMap<Split, usize>,
    /// How many of these games are permuted `train` games.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub permuted: usize,
    /// The job's keys that go beyond the published algorithm, for example `critic.head_only = 0.1`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extensions: Vec<String>,
    /// The lineage of the model that training started from, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Box<Lineage>>,
}

impl Lineage {
    /// Returns the lineage of a job that read episodes of these games: their splits, their hashes, and
    /// whether they are permuted. `start` is the lineage of its starting model.
    #[must_use]
    pub fn new<'a>(
        job: &TrainConfig,
        read: impl IntoIterator<Item = (Split, &'a str, bool)>,
        start: Option<&Self>,
    ) -> Self {
        let games: BTreeSet<(Split, &str, bool)> = read.into_iter().collect();
        let mut counts = BTreeMap::new();
        let mut permuted = 0;
        for (split, _, of_permuted) in games {
            *counts.entry(split).or_default() += 1;
            permuted += usize::from(of_permuted);
        }
        Self {
            checkpoint: checkpoint_rule(job).into(),
            games: counts,
            extensions: job.extensions(),
            permuted,
            start: start.map(|start| Box::new(start.clone())),
        }
    }

    /// Returns a lower bound of the number of games of a split that were learned from: the largest
    /// number that one of the jobs that led to this model read.
    #[must_use]
    pub fn learned_from(&self, split: Split) -> usize {
        let own = self.games.get(&split).copied().unwrap_or(0);
        own.max(
            self.start
                .as_ref()
                .map_or(0, |start| start.learned_from(split)),
        )
    }

    /// Returns a lower bound of the number of permuted games that were learned from, as
    /// [`Lineage::learned_from`] counts.
    #[must_use]
    pub fn permuted_games(&self) -> usize {
        let before = self
            .start
            .as_ref()
            .map_or(0, |start| start.permuted_games());
        self.permuted.max(before)
    }

    /// Writes the file into a model folder.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, model: &Path) -> Result<(), TrainerError> {
        let path = model.join(LINEAGE);
        let text =
            serde_json::to_string_pretty(self).map_err(|e| TrainerError::content(&path, e))? + "\n";
        files::replace(&path, text.as_bytes()).map_err(TrainerError::file(&path))
    }

    /// Reads the file of a model folder; `None` if there is none.
    ///
    /// # Errors
    /// If the file is damaged.
    pub fn open(model: &Path) -> Result<Option<Self>, TrainerError> {
        let path = model.join(LINEAGE);
        if !path.exists() {
            return Ok(None);
        }
        let text = std::fs::read_to_string(&path).map_err(TrainerError::file(&path))?;
        serde_json::from_str(&text)
            .map(Some)
            .map_err(|e| TrainerError::content(&path, e))
    }
}

/// If no game is permuted, the count is not written, so that the file is the same as before the field existed.
#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// Returns how a job selects its checkpoint, in words.
#[must_use]
pub fn checkpoint_rule(job: &TrainConfig) -> &'static str {
    match job.early_stopping {
        Some(_) => "lowest loss on held-out games of its data",
        None => "last update",
    }
}
