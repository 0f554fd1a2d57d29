//! Rows for verl (version 0.9.1), which reads Parquet.
//!
//! The two datasets of verl need different files. `verl-sft` is for `MultiTurnSFTDataset`, which
//! reads `messages` and learns every assistant message: one row per episode. `verl-rl` is for
//! `RLHFDataset`, whose rows are prompts without responses: one row per game, with the columns in
//! verl.readthedocs.io/en/latest/preparation/prepare_data.html. A reward function of verl receives
//! `data_source` and `reward_model.ground_truth`. Here the ground truth is the game's id, because
//! the reward of a text game can only be computed by playing it.

use super::chat::ChatMessage;
use scenarios::{Outcome, Split, TaskType, Trajectory};
use serde::Serialize;

const DATA_SOURCE: &str = "hearth";
const ABILITY: &str = "household";

/// A row of `verl-sft`.
#[derive(Debug, Serialize)]
pub(super) struct VerlSftRow<'a> {
    messages: &'a [ChatMessage],
    data_source: &'static str,
    extra_info: SftInfo<'a>,
}

#[derive(Debug, Serialize)]
struct SftInfo<'a> {
    index: usize,
    split: Split,
    game: &'a str,
    task_type: Option<TaskType>,
    policy: &'a str,
    outcome: Outcome,
    reward: f64,
}

impl<'a> VerlSftRow<'a> {
    /// Returns the row of an episode. `index` is its position in the file.
    pub(super) fn new(index: usize, episode: &'a Trajectory, messages: &'a [ChatMessage]) -> Self {
        Self {
            messages,
            data_source: DATA_SOURCE,
            extra_info: SftInfo {
                index,
                split: episode.split,
                game: &episode.game,
                task_type: episode.task_type,
                policy: &episode.policy,
                outcome: episode.outcome,
                reward: episode.outcome.reward(),
            },
        }
    }
}

/// A row of `verl-rl`: a game and the counts of its episodes.
#[derive(Debug, Serialize)]
pub(super) struct VerlRlRow {
    data_source: &'static str,
    prompt: Vec<ChatMessage>,
    ability: String,
    reward_model: RewardModel,
    extra_info: RlInfo,
}

#[derive(Debug, Serialize)]
struct RewardModel {
    style: &'static str,
    ground_truth: String,
}

#[derive(Debug, Serialize)]
struct RlInfo {
    index: usize,
    split: Split,
    game: String,
    game_hash: String,
    episodes: usize,
    successes: usize,
}

impl VerlRlRow {
    /// Returns the row of an episode's game, with this episode counted. `prompt` is the system
    /// message, if there is one, and the first observation.
    pub(super) fn new(index: usize, episode: &Trajectory, prompt: Vec<ChatMessage>) -> Self {
        let mut row = Self {
            data_source: DATA_SOURCE,
            prompt,
            ability: episode.task_type.map_or(ABILITY, TaskType::name).into(),
            reward_model: RewardModel {
                style: "rule",
                ground_truth: episode.game.clone(),
            },
            extra_info: RlInfo {
                index,
                split: episode.split,
                game: episode.game.clone(),
                game_hash: episode.game_hash.clone(),
                episodes: 0,
                successes: 0,
            },
        };
        row.count(episode);
        row
    }

    /// Counts another episode of the game.
    pub(super) fn count(&mut self, episode: &Trajectory) {
        self.extra_info.episodes += 1;
        self.extra_info.successes += usize::from(episode.is_won());
    }
}
