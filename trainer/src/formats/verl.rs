//! Rows for verl (version 0.9.1), which reads Parquet.
//!
//! Its two datasets want different files, so there are two forms. `verl-sft` is for `MultiTurnSFTDataset`, which reads
//! `messages` and learns every assistant's message: a row an episode. `verl-rl` is for `RLHFDataset`, whose rows are what
//! policies will be asked, not what they answered: a row a game, with the columns that
//! verl.readthedocs.io/en/latest/preparation/prepare_data.html names. A reward function of verl is given `data_source` and
//! `reward_model.ground_truth`; here that is the game's id, since who rewards a text game must play it.

use super::chat::Message;
use scenarios::{Outcome, Split, TaskType, Trajectory};
use serde::Serialize;

const DATA_SOURCE: &str = "hearth";
const ABILITY: &str = "household";

/// A row of `verl-sft`.
#[derive(Debug, Serialize)]
pub(super) struct Sft<'a> {
    messages: &'a [Message],
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

impl<'a> Sft<'a> {
    pub(super) fn new(index: usize, episode: &'a Trajectory, messages: &'a [Message]) -> Self {
        let Trajectory {
            game,
            split,
            task_type,
            policy,
            outcome,
            ..
        } = episode;
        let (split, task_type, outcome, reward) =
            (*split, *task_type, *outcome, episode.outcome.reward());
        let extra_info = SftInfo {
            index,
            split,
            game,
            task_type,
            policy,
            outcome,
            reward,
        };
        Self {
            messages,
            data_source: DATA_SOURCE,
            extra_info,
        }
    }
}

/// A row of `verl-rl`: a game as its episodes show it.
#[derive(Debug, Serialize)]
pub(super) struct Rl {
    data_source: &'static str,
    prompt: Vec<Message>,
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

impl Rl {
    /// The game of an episode, which counts as its first; `prompt` is what stands above it and its opening.
    pub(super) fn new(index: usize, episode: &Trajectory, prompt: Vec<Message>) -> Self {
        let Trajectory {
            game,
            game_hash,
            split,
            task_type,
            ..
        } = episode;
        let mut row = Self {
            data_source: DATA_SOURCE,
            prompt,
            ability: task_type.map_or(ABILITY, TaskType::name).into(),
            reward_model: RewardModel {
                style: "rule",
                ground_truth: game.clone(),
            },
            extra_info: RlInfo {
                index,
                split: *split,
                game: game.clone(),
                game_hash: game_hash.clone(),
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
