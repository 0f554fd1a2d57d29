//! The measure: every game of the named splits, once or so many times, success counted by game, split and task type with
//! 95 % intervals, the protocol beside the number.

use crate::error::TrainerError;
use crate::measure::statistics::{
    Resampling, Tally, bootstrap_interval, wilson_interval, wilson_of_rate,
};
use scenarios::files;
use scenarios::{Outcome, Protocol, Scorer, Search, Spent, Split, TaskType, Trajectory};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

pub use crate::measure::games::{GameRow, games}; // ALIAS
pub use crate::pipeline::rounds::Round; // ALIAS
pub use crate::pipeline::shard::play_round; // ALIAS

/// How the interval of a success rate was found. 95 % all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interval {
    /// Wilson's, of games that were each played once.
    #[default]
    Wilson,
    /// The percentile bootstrap over games, where one was played several times: Wilson's would take episodes of one game
    /// for games of their own.
    BootstrapOverGames,
    /// Wilson's with the number of games as n, where games were played several times and all have the same share of wins,
    /// of which a bootstrap can tell nothing.
    WilsonOverGames,
}

impl Interval {
    /// For the eye.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Wilson => "Wilson",
            Self::BootstrapOverGames => "bootstrap over games",
            Self::WilsonOverGames => "Wilson over games",
        }
    }

    /// The interval `(low, high)` of the success rate over games that were played to an end.
    #[must_use]
    pub fn of(games: &[Tally]) -> (Self, f64, f64) {
        let count = |number: usize| u32::try_from(number).expect("fewer than four billion games");
        let (kind, (low, high)) = match games.first() {
            _ if games.iter().all(|game| game.played == 1) => {
                let won = games.iter().map(|game| game.won).sum();
                (Self::Wilson, wilson_interval(won, count(games.len()), 0.95))
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
                (Self::BootstrapOverGames, interval.expect("there are games"))
            }
        };
        (kind, low, high)
    }
}

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What the policy is called in the table.
    pub policy: String,
    /// The split.
    pub split: Split,
    /// The kind of task; `None` = all.
    pub task_type: Option<TaskType>,
    /// Candidates a turn.
    pub k: usize,
    /// Episodes that were played to an end: one a game, but where games were repeated.
    pub n: usize,
    /// Episodes won.
    pub successes: usize,
    /// Share of them won; 0 where there are none.
    pub success_rate: f64,
    /// Lower end of the 95 % interval.
    pub low: f64,
    /// Upper end of the 95 % interval.
    pub high: f64,
    /// Mean turns of an episode.
    pub mean_turns: f64,
    /// Share of turns that held no command.
    pub malformed_share: f64,
    /// Episodes lost to the world, or to a server that was to play; they count in no other column.
    pub env_failed: usize,
    /// Games of which an episode was played to an end; 0 in tables from before it was counted.
    #[serde(default)]
    pub games: usize,
    /// How the interval was found.
    #[serde(default)]
    pub interval: Interval,
    /// The policy that this one is paired with, greedy, on the games that both played to an end; empty where there is none.
    #[serde(default)]
    pub against: Option<String>,
    /// Games that only this one won; where games were repeated, that it won the more often.
    #[serde(default)]
    pub won_alone: Option<u32>,
    /// Games that only the other won, or won the more often.
    #[serde(default)]
    pub lost_alone: Option<u32>,
    /// Exact McNemar test of the two, two-sided.
    #[serde(default)]
    pub p_value: Option<f64>,
    /// The search with copies of the world, where there was one.
    #[serde(default)]
    pub search: Option<String>,
    /// Mean completions written a game, those that were not acted on included; empty where the episodes do not tell.
    #[serde(default)]
    pub mean_completions: Option<f64>,
    /// Mean tokens of them.
    #[serde(default)]
    pub mean_tokens: Option<f64>,
    /// Mean commands a game that the world, or a copy of it, performed.
    #[serde(default)]
    pub mean_commands: Option<f64>,
}

/// Counts trajectories into rows: for each split all task types together, then each on its own.
#[must_use]
pub fn table(policy: &str, k: usize, trajectories: &[Trajectory]) -> Vec<Row> {
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
) -> Row {
    let (lost, ended): (Vec<&Trajectory>, Vec<&Trajectory>) =
        group.iter().partition(|t| t.outcome == Outcome::EnvFailed);
    let n = ended.len();
    let successes = ended.iter().filter(|t| t.is_won()).count();
    let turns: usize = ended.iter().map(|t| t.turns.len()).sum();
    let malformed: usize = ended.iter().map(|t| t.malformed_turns()).sum();
    let mut tallies: BTreeMap<&str, Tally> = BTreeMap::new();
    for trajectory in &ended {
        let tally = tallies.entry(&trajectory.game_hash).or_default();
        tally.played += 1;
        tally.won += u32::from(trajectory.is_won());
    }
    let (interval, low, high) = Interval::of(&tallies.values().copied().collect::<Vec<_>>());
    Row {
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
        env_failed: lost.len(),
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

/// What was spent on a game in the mean; `None` where the episodes are from before anybody counted.
fn mean_spent(ended: &[&Trajectory], part: impl Fn(&Spent) -> usize) -> Option<f64> {
    let told = ended
        .iter()
        .all(|t| t.spent != Spent::default() || t.turns.is_empty());
    let total: usize = ended.iter().map(|t| part(&t.spent)).sum();
    (told && !ended.is_empty()).then(|| total as f64 / ended.len() as f64)
}

/// Writes rows as CSV, whatever they are, at once or not at all.
///
/// # Errors
/// When the file cannot be written.
pub fn write_csv(path: &Path, rows: &[impl Serialize]) -> Result<(), TrainerError> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    for row in rows {
        writer
            .serialize(row)
            .map_err(|e| TrainerError::content(path, e))?;
    }
    let bytes = writer
        .into_inner()
        .map_err(|e| TrainerError::content(path, e))?;
    files::replace(path, &bytes).map_err(TrainerError::file(path))
}

/// Reads rows back.
///
/// # Errors
/// When the file is missing or a row is damaged.
pub fn read_csv<R: DeserializeOwned>(path: &Path) -> Result<Vec<R>, TrainerError> {
    let mut reader = csv::Reader::from_path(path).map_err(|e| TrainerError::content(path, e))?;
    reader
        .deserialize()
        .map(|row| row.map_err(|e| TrainerError::content(path, e)))
        .collect()
}

/// The protocol in one line, to stand beside a number of games that were each played once.
#[must_use]
pub fn protocol_line(protocol: &Protocol) -> String {
    played_line(protocol, 1)
}

fn decoding(protocol: &Protocol) -> String {
    let (k, temperature) = (protocol.best_of, protocol.temperature);
    let chosen = match protocol.scorer {
        Scorer::AfterValue => "value",
        Scorer::SoftValue => "value and log-probability",
        Scorer::LogRatio => "log-ratio",
        Scorer::Logprob => "log-probability",
        Scorer::Random => "chance",
        Scorer::Oracle => "an oracle, which cheats,",
    };
    let kind = match protocol.search {
        None if (k, temperature) == (1, 0.0) => return "greedy".to_string(),
        None if k == 1 => return format!("temperature {temperature}"),
        None => return format!("best of {k} by {chosen} at temperature {temperature}"),
        Some(Search::Beam { width }) => format!("a beam of {width}"),
        Some(Search::BestFirst { budget }) => format!("best first, at most {budget} completions"),
    };
    format!(
        "searched with copies of the world ({kind}, by value after the observation), {k} candidates a state at \
         temperature {temperature}"
    )
}

/// The protocol in one line, to stand beside a number of games that were each played so many times.
#[must_use]
pub fn played_line(protocol: &Protocol, times: usize) -> String {
    let often = if times == 1 {
        "each game once".to_string()
    } else {
        format!("each game {times} times")
    };
    let decoding = decoding(protocol);
    let shown = if protocol.admissible_shown {
        "admissible commands shown"
    } else {
        "no admissible list"
    };
    let translated = protocol
        .translated_to
        .map(|text| format!(", translated to text {text}"))
        .unwrap_or_default();
    let told = if protocol.instructions.is_some() {
        ", with instructions"
    } else {
        ""
    };
    let stop = if protocol.stop.is_empty() {
        String::new()
    } else {
        format!(", stopped at {:?}", protocol.stop)
    };
    format!(
        "{often}, {} turns, {} history, {shown}{translated}{told}, {decoding}{stop}, malformed = {}, success = won",
        protocol.turn_limit, protocol.history, protocol.malformed
    )
}
