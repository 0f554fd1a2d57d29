//! The result table: success by split and task type, with 95 % intervals.

use crate::statistics::{
    GameTally, Resampling, bootstrap_interval, wilson_interval, wilson_of_rate,
};
use scenarios::{Outcome, Spent, Split, TaskType, Trajectory};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The method that computed the 95 % interval of a success rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interval {
    /// Wilson's interval, if each game was played once.
    #[default]
    Wilson,
    /// The percentile bootstrap over games, if a game was played several times. Wilson's interval
    /// would count the episodes of one game as independent.
    BootstrapOverGames,
    /// Wilson's interval with the number of games as n, if games were played several times and all
    /// have the same share of wins. The bootstrap interval would have width 0 then.
    WilsonOverGames,
}

impl Interval {
    /// Returns the name to print.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Wilson => "Wilson",
            Self::BootstrapOverGames => "bootstrap over games",
            Self::WilsonOverGames => "Wilson over games",
        }
    }

    /// Returns the method and the interval `(low, high)` of the success rate over games that were
    /// played to an end.
    #[must_use]
    pub fn of(games: &[GameTally]) -> (Self, f64, f64) {
        let n = u32::try_from(games.len()).expect("fewer than four billion games");
        let (kind, (low, high)) = match games.first() {
            _ if games.iter().all(|game| game.played == 1) => {
                let won = games.iter().map(|game| game.won).sum();
                (Self::Wilson, wilson_interval(won, n, 0.95))
            }
            Some(first)
                if games
                    .iter()
                    .all(|game| game.won * first.played == first.won * game.played) =>
            {
                (
                    Self::WilsonOverGames,
                    wilson_of_rate(first.rate(), games.len() as f64, 0.95),
                )
            }
            _ => {
                let interval = bootstrap_interval(games, 0.95, Resampling::default());
                (
                    Self::BootstrapOverGames,
                    interval.expect("an empty list is handled by the first arm"),
                )
            }
        };
        (kind, low, high)
    }
}

/// A row of the result table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvalRow {
    /// The policy's name in the table.
    pub policy: String,
    /// The split.
    pub split: Split,
    /// The task type, or `None` if the row is of all task types.
    pub task_type: Option<TaskType>,
    /// Number of candidates K per turn.
    pub k: usize,
    /// Number of episodes that were played to an end. It equals the number of games if each game
    /// was played once.
    pub n: usize,
    /// Number of won episodes.
    pub successes: usize,
    /// Share of the episodes that were won, in [0, 1]. It is 0 if there are none.
    pub success_rate: f64,
    /// Lower end of the 95 % interval.
    pub low: f64,
    /// Upper end of the 95 % interval.
    pub high: f64,
    /// Mean number of turns per episode.
    pub mean_turns: f64,
    /// Share of turns whose completion contains no command.
    pub malformed_share: f64,
    /// Number of episodes that ended because the environment or the policy's server failed. They
    /// are counted in no other column.
    pub env_failed: usize,
    /// Number of games with an episode that was played to an end. It is 0 if the table was written
    /// before this column existed.
    #[serde(default)]
    pub games: usize,
    /// The method of the interval.
    #[serde(default)]
    pub interval: Interval,
    /// The greedy policy that this one is paired with, on the games that both played to an end.
    /// Empty if there is none.
    #[serde(default)]
    pub against: Option<String>,
    /// Number of games that only this policy won. If games were repeated, the number of games that
    /// it won more often.
    #[serde(default)]
    pub won_alone: Option<u32>,
    /// Number of games that only the other policy won, or that it won more often.
    #[serde(default)]
    pub lost_alone: Option<u32>,
    /// The two-sided p-value of the exact McNemar test of the two policies.
    #[serde(default)]
    pub p_value: Option<f64>,
    /// The search with copies of the environment, if there was one.
    #[serde(default)]
    pub search: Option<String>,
    /// Mean number of completions per game, including those that were not acted on. Empty if the
    /// episodes do not record it.
    #[serde(default)]
    pub mean_completions: Option<f64>,
    /// Mean number of tokens of these completions per game.
    #[serde(default)]
    pub mean_tokens: Option<f64>,
    /// Mean number of commands per game that the environment or a copy of it executed.
    #[serde(default)]
    pub mean_commands: Option<f64>,
}

/// Counts trajectories into rows. Each split has a row of all task types, followed by one row per
/// task type.
#[must_use]
pub fn table(policy: &str, k: usize, trajectories: &[Trajectory]) -> Vec<EvalRow> {
    let mut groups: BTreeMap<(Split, Option<TaskType>), Vec<&Trajectory>> = BTreeMap::new();
    for trajectory in trajectories {
        groups
            .entry((trajectory.split, None))
            .or_default()
            .push(trajectory);
        if trajectory.task_type.is_some() {
            groups
                .entry((trajectory.split, trajectory.task_type))
                .or_default()
                .push(trajectory);
        }
    }
    groups
        .into_iter()
        .map(|((split, task_type), group)| row(policy, k, split, task_type, &group))
        .collect()
}

fn row(
    policy: &str,
    k: usize,
    split: Split,
    task_type: Option<TaskType>,
    group: &[&Trajectory],
) -> EvalRow {
    let (failed, ended): (Vec<&Trajectory>, Vec<&Trajectory>) =
        group.iter().partition(|t| t.outcome == Outcome::EnvFailed);
    let n = ended.len();
    let successes = ended.iter().filter(|t| t.is_won()).count();
    let turns: usize = ended.iter().map(|t| t.turns.len()).sum();
    let malformed: usize = ended.iter().map(|t| t.malformed_turns()).sum();
    let mut tallies: BTreeMap<&str, GameTally> = BTreeMap::new();
    for trajectory in &ended {
        let tally = tallies.entry(&trajectory.game_hash).or_default();
        tally.played += 1;
        tally.won += u32::from(trajectory.is_won());
    }
    let (interval, low, high) = Interval::of(&tallies.values().copied().collect::<Vec<_>>());
    EvalRow {
        policy: policy.into(),
        split,
        task_type,
        k,
        n,
        successes,
        success_rate: successes as f64 / n.max(1) as f64,
        low,
        high,
        mean_turns: turns as f64 / n.max(1) as f64,
        malformed_share: malformed as f64 / turns.max(1) as f64,
        env_failed: failed.len(),
        games: tallies.len(),
        interval,
        against: None,
        won_alone: None,
        lost_alone: None,
        p_value: None,
        search: group[0].protocol.search.map(|search| search.to_string()),
        mean_completions: mean_spent(&ended, |spent| spent.completions),
        mean_tokens: mean_spent(&ended, |spent| spent.tokens),
        mean_commands: mean_spent(&ended, |spent| spent.commands),
    }
}

/// Returns the mean of one count per game. Returns `None` if an episode does not record its counts,
/// because it was logged before they existed, or if there is no episode.
fn mean_spent(ended: &[&Trajectory], count: impl Fn(&Spent) -> usize) -> Option<f64> {
    let is_recorded = ended
        .iter()
        .all(|t| t.spent != Spent::default() || t.turns.is_empty());
    let total: usize = ended.iter().map(|t| count(&t.spent)).sum();
    (is_recorded && !ended.is_empty()).then(|| total as f64 / ended.len() as f64)
}
