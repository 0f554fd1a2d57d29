//! Success by game: what a policy did on each game, over all its repetitions.

use crate::statistics::GameTally;
use scenarios::{Outcome, Split, TaskType, Trajectory};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The results of a policy on one game.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GameRow {
    /// The policy's name in the table.
    pub policy: String,
    /// Number of candidates K per turn.
    pub k: usize,
    /// The split.
    pub split: Split,
    /// The task type, or `None` if it is unknown.
    pub task_type: Option<TaskType>,
    /// [`scenarios::Task::id`].
    pub game: String,
    /// SHA-256 of the game file.
    pub game_hash: String,
    /// Number of episodes that were played to an end.
    pub played: u32,
    /// Number of won episodes.
    pub won: u32,
    /// Number of episodes that ended because the environment or the policy's server failed.
    pub env_failed: u32,
    /// Mean number of turns of the episodes that were played to an end. It is 0 if there are none.
    pub mean_turns: f64,
}

impl GameRow {
    /// Returns the counts of the game's episodes, or `None` if none was played to an end.
    #[must_use]
    pub fn tally(&self) -> Option<GameTally> {
        (self.played > 0).then_some(GameTally {
            won: self.won,
            played: self.played,
        })
    }
}

/// Counts trajectories by game. The rows are in the order of splits and games.
#[must_use]
pub fn games(policy: &str, k: usize, trajectories: &[Trajectory]) -> Vec<GameRow> {
    let mut games: BTreeMap<(Split, &str, &str), GameRow> = BTreeMap::new();
    for trajectory in trajectories {
        let place = (
            trajectory.split,
            trajectory.game.as_str(),
            trajectory.game_hash.as_str(),
        );
        let row = games.entry(place).or_insert_with(|| GameRow {
            policy: policy.into(),
            k,
            split: trajectory.split,
            task_type: trajectory.task_type,
            game: trajectory.game.clone(),
            game_hash: trajectory.game_hash.clone(),
            played: 0,
            won: 0,
            env_failed: 0,
            mean_turns: 0.0,
        });
        if trajectory.outcome == Outcome::EnvFailed {
            row.env_failed += 1;
            continue;
        }
        row.played += 1;
        row.won += u32::from(trajectory.is_won());
        row.mean_turns += (trajectory.turns.len() as f64 - row.mean_turns) / f64::from(row.played);
    }
    games.into_values().collect()
}
