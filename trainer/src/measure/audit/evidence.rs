//! The input of an audit.

use crate::measure::card::{Card, Lineage};
use scenarios::{Split, Suite, Trajectory};
use serde::Deserialize;

/// The measured episodes of one store.
#[derive(Debug, Clone, Copy)]
pub struct MeasuredEpisodes<'a> {
    /// The name to print.
    pub name: &'a str,
    /// All episodes of the store.
    pub episodes: &'a [Trajectory],
    /// The protocol card of the episodes, if there is one.
    pub card: Option<&'a Card>,
}

/// A game whose episodes are in the training data.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct TrainingGame {
    /// [`scenarios::Task::id`].
    pub game: String,
    /// SHA-256 of the game file.
    pub game_hash: String,
    /// The split of the game.
    pub split: Split,
}

/// Everything that an audit reads.
#[derive(Debug, Clone, Default)]
pub struct Evidence<'a> {
    /// The measured episodes, by store.
    pub measured: Vec<MeasuredEpisodes<'a>>,
    /// The games of the stores that were learned from. Empty if none are known.
    pub learned: &'a [TrainingGame],
    /// The lineages that the model folders record, with the names of the models.
    pub lineages: &'a [(String, Lineage)],
    /// The suite with the games that should have been played and the training games.
    pub suite: Option<&'a Suite>,
}
