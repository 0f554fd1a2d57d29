//! Compares two policies on the same games: who wins which game, how large the difference is, and
//! how small a difference the comparison could detect. The unit is the game with all its
//! repetitions.

use crate::measure::games::{GameRow, games};
use crate::measure::table::EvalRow;
use crate::statistics::{
    GamePair, GameTally, Paired, Resampling, bootstrap_difference, bootstrap_ratio, difference,
    mcnemar_exact, mean, minimum_detectable_difference, minimum_detectable_mean, newcombe_interval,
    paired_t_test, sign_flip_test,
};
use scenarios::{Split, TaskType, Trajectory};
use serde::Serialize;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// Probability of detecting the minimum detectable difference.
pub const POWER: f64 = 0.8;
/// The two-sided significance level of the minimum detectable difference.
pub const LEVEL: f64 = 0.05;

/// The comparison of two policies on the games of a split that both played to an end.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The split.
    pub split: Split,
    /// The task type, or `None` if the comparison is over all task types.
    pub task_type: Option<TaskType>,
    /// Number of games that both policies played to an end.
    pub games: usize,
    /// Number of episodes of the first policy on these games.
    pub first_episodes: u32,
    /// Number of episodes of the second policy on these games.
    pub second_episodes: u32,
    /// Share of its episodes that the first policy won.
    pub first_rate: f64,
    /// Share of its episodes that the second policy won.
    pub second_rate: f64,
    /// The first rate minus the second rate.
    pub difference: f64,
    /// Lower end of the 95 % percentile bootstrap interval of the difference, over games.
    pub low: f64,
    /// Upper end of that interval.
    pub high: f64,
    /// Newcombe's 95 % interval of the difference, if both policies played each game once.
    pub newcombe: Option<(f64, f64)>,
    /// Number of games that only the first policy won. If games were repeated, the number of games
    /// that it won more often.
    pub first_alone: u32,
    /// Number of games that only the second policy won, or that it won more often.
    pub second_alone: u32,
    /// Share of the games that `first_alone` and `second_alone` count.
    pub discordant_share: f64,
    /// The two-sided p-value of McNemar's exact test. If games were repeated, it is the sign test.
    pub p_value: f64,
    /// The smallest difference that this number of games detects with probability [`POWER`] at
    /// level [`LEVEL`], or `None` if no difference can be detected.
    pub minimum_detectable: Option<f64>,
    /// The number of turns, lost episodes included.
    pub turns: TurnComparison,
    /// The differences of single runs, if both sides have the same number of runs, at least two.
    /// Run i of the first side is paired with run i of the second.
    pub runs: Option<RunComparison>,
}

/// How many turns two policies need on the same games. Lost episodes count with all their turns.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TurnComparison {
    /// Mean number of turns of the first policy, over games.
    pub first: f64,
    /// Mean number of turns of the second policy, over games.
    pub second: f64,
    /// Lower end of the 95 % percentile bootstrap interval of the difference, over games.
    pub low: f64,
    /// Upper end of that interval.
    pub high: f64,
    /// The two-sided p-value of the sign-flip permutation test over games.
    pub p_value: f64,
}

/// The differences between runs that are paired, for example by seed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunComparison {
    /// The success rate of the first policy minus that of the second, of each pair of runs.
    pub differences: Vec<f64>,
    /// The two-sided p-value of the paired t-test of these; `None` if all are equal.
    pub p_value: Option<f64>,
    /// The mean number of turns of the first policy minus that of the second, of each pair of runs.
    pub turn_differences: Vec<f64>,
    /// The two-sided p-value of the paired t-test of these; `None` if all are equal.
    pub turns_p_value: Option<f64>,
}

/// Returns the games that both policies played to an end, in the order of their hashes. If
/// `task_type` is given, only its games are returned.
#[must_use]
pub fn pairs(
    first: &[GameRow],
    second: &[GameRow],
    split: Split,
    task_type: Option<TaskType>,
) -> Vec<GamePair> {
    let second = tallies_by_hash(second, split, task_type);
    tallies_by_hash(first, split, task_type)
        .into_iter()
        .filter_map(|(hash, first)| {
            second.get(&hash).map(|second| GamePair {
                first,
                second: *second,
            })
        })
        .collect()
}

/// Returns the counts of the games that were played to an end, by hash.
fn tallies_by_hash(
    rows: &[GameRow],
    split: Split,
    task_type: Option<TaskType>,
) -> BTreeMap<String, GameTally> {
    rows.iter()
        .filter(|row| row.split == split && (task_type.is_none() || row.task_type == task_type))
        .filter_map(|row| Some((row.game_hash.clone(), row.tally()?)))
        .collect()
}

/// Merges the rows of several measurements. Rows with the same game file become one row.
#[must_use]
pub fn merge(rows: impl IntoIterator<Item = GameRow>) -> Vec<GameRow> {
    let mut games: BTreeMap<(Split, String), GameRow> = BTreeMap::new();
    for row in rows {
        match games.entry((row.split, row.game_hash.clone())) {
            Entry::Vacant(place) => {
                place.insert(row);
            }
            Entry::Occupied(mut place) => {
                let merged = place.get_mut();
                let played = merged.played + row.played;
                merged.mean_turns =
                    (total_turns(merged) + total_turns(&row)) / f64::from(played.max(1));
                merged.played = played;
                merged.won += row.won;
                merged.env_failed += row.env_failed;
            }
        }
    }
    games.into_values().collect()
}

fn total_turns(row: &GameRow) -> f64 {
    row.mean_turns * f64::from(row.played)
}

/// Returns the number of games that the first policy won more often than the second, and the number
/// that the second won more often. If each game was played once, these are the games that only one
/// of them won.
#[must_use]
pub fn won_more_often(pairs: &[GamePair]) -> (u32, u32) {
    (
        count(pairs, |pair| has_higher_rate(pair.first, pair.second)),
        count(pairs, |pair| has_higher_rate(pair.second, pair.first)),
    )
}

/// Returns whether the share of wins of `a` is above that of `b`, compared without rounding.
fn has_higher_rate(a: GameTally, b: GameTally) -> bool {
    u64::from(a.won) * u64::from(b.played) > u64::from(b.won) * u64::from(a.played)
}

fn count(pairs: &[GamePair], is_counted: impl Fn(&GamePair) -> bool) -> u32 {
    pairs.iter().map(|pair| u32::from(is_counted(pair))).sum()
}

/// The results of a policy on each game. Other policies are paired with it, game by game.
#[derive(Debug, Clone)]
pub struct Baseline {
    policy: String,
    games: Vec<GameRow>,
}

impl Baseline {
    /// Returns the baseline of a policy's episodes. Episodes whose environment failed are not counted.
    #[must_use]
    pub fn new(policy: &str, trajectories: &[Trajectory]) -> Self {
        Self {
            policy: policy.into(),
            games: games(policy, 1, trajectories),
        }
    }

    /// Pairs another policy's rows with this one: sets the policy, the games won alone and the p-value.
    pub fn pair(&self, rows: &mut [EvalRow], trajectories: &[Trajectory]) {
        let others = games("", 1, trajectories);
        for row in rows {
            let pairs = pairs(&others, &self.games, row.split, row.task_type);
            let (won_alone, lost_alone) = won_more_often(&pairs);
            row.against = Some(self.policy.clone());
            row.won_alone = Some(won_alone);
            row.lost_alone = Some(lost_alone);
            row.p_value = Some(mcnemar_exact(won_alone, lost_alone));
        }
    }
}

/// Compares two policies, each by the rows of one or several runs. Each split has a row of all task
/// types, followed by one row per task type. If both policies played no common game of a split or
/// type to an end, it has no row.
#[must_use]
pub fn compare(
    first_runs: &[Vec<GameRow>],
    second_runs: &[Vec<GameRow>],
    resampling: Resampling,
) -> Vec<Comparison> {
    let [first, second] = [first_runs, second_runs].map(|runs| merge(runs.concat()));
    let mut groups: Vec<(Split, Option<TaskType>)> = Vec::new();
    for row in &first {
        groups.push((row.split, None));
        groups.extend(row.task_type.map(|task_type| (row.split, Some(task_type))));
    }
    groups.sort_unstable();
    groups.dedup();
    groups
        .into_iter()
        .filter_map(|group| {
            let pairs = pairs(&first, &second, group.0, group.1);
            let turns = turns(&turn_pairs(&first, &second, group), resampling)?;
            let mut found = compare_pairs(group, &pairs, turns, resampling);
            found.runs = compare_runs(first_runs, second_runs, group);
            Some(found)
        })
        .collect()
}

/// Returns the mean number of turns of both policies on each game that both played to an end, in
/// the order of the hashes.
fn turn_pairs(
    first: &[GameRow],
    second: &[GameRow],
    group: (Split, Option<TaskType>),
) -> Vec<(f64, f64)> {
    let [first, second] = [first, second].map(|rows| -> BTreeMap<&str, f64> {
        rows.iter()
            .filter(|row| row.split == group.0 && (group.1.is_none() || row.task_type == group.1))
            .filter(|row| row.played > 0)
            .map(|row| (row.game_hash.as_str(), row.mean_turns))
            .collect()
    });
    first
        .iter()
        .filter_map(|(hash, turns)| Some((*turns, *second.get(hash)?)))
        .collect()
}

/// Compares numbers of turns. Returns `None` if there is no game.
fn turns(pairs: &[(f64, f64)], resampling: Resampling) -> Option<TurnComparison> {
    let differences: Vec<f64> = pairs.iter().map(|(first, second)| first - second).collect();
    let weighted: Vec<(f64, f64)> = differences.iter().map(|of_game| (*of_game, 1.0)).collect();
    let (low, high) = bootstrap_ratio(&weighted, 1.0 - LEVEL, resampling)?;
    let [of_first, of_second]: [Vec<f64>; 2] = [
        pairs.iter().map(|pair| pair.0).collect(),
        pairs.iter().map(|pair| pair.1).collect(),
    ];
    Some(TurnComparison {
        first: mean(&of_first)?,
        second: mean(&of_second)?,
        low,
        high,
        p_value: sign_flip_test(&differences, resampling)?,
    })
}

/// Compares runs pair by pair. Returns `None` if the numbers of runs differ or are below two, or if
/// a pair of runs has no game in common.
fn compare_runs(
    first: &[Vec<GameRow>],
    second: &[Vec<GameRow>],
    group: (Split, Option<TaskType>),
) -> Option<RunComparison> {
    if first.len() != second.len() || first.len() < 2 {
        return None;
    }
    let mut differences = Vec::new();
    let mut turn_differences = Vec::new();
    for (first, second) in first.iter().zip(second) {
        let [first, second] = [first, second].map(|rows| merge(rows.clone()));
        let games = pairs(&first, &second, group.0, group.1);
        if games.is_empty() {
            return None;
        }
        differences.push(difference(&games));
        let of_games: Vec<f64> = turn_pairs(&first, &second, group)
            .iter()
            .map(|(first, second)| first - second)
            .collect();
        turn_differences.push(mean(&of_games)?);
    }
    Some(RunComparison {
        p_value: paired_t_test(&differences),
        turns_p_value: paired_t_test(&turn_differences),
        differences,
        turn_differences,
    })
}

/// Compares two policies on a list of games that is not empty.
fn compare_pairs(
    (split, task_type): (Split, Option<TaskType>),
    pairs: &[GamePair],
    turns: TurnComparison,
    resampling: Resampling,
) -> Comparison {
    let first_episodes = sum(pairs, |pair| pair.first.played);
    let second_episodes = sum(pairs, |pair| pair.second.played);
    let (first_alone, second_alone) = won_more_often(pairs);
    let discordant_share = f64::from(first_alone + second_alone) / pairs.len() as f64;
    let is_played_once = pairs
        .iter()
        .all(|pair| pair.first.played == 1 && pair.second.played == 1);
    let minimum_detectable = if is_played_once {
        minimum_detectable_difference(pairs.len(), discordant_share, POWER, LEVEL)
    } else {
        let differences: Vec<f64> = pairs
            .iter()
            .map(|pair| pair.first.rate() - pair.second.rate())
            .collect();
        minimum_detectable_mean(&differences, POWER, LEVEL)
    };
    let (low, high) = bootstrap_difference(pairs, 1.0 - LEVEL, resampling)
        .expect("`compare` passes at least one game");
    Comparison {
        split,
        task_type,
        games: pairs.len(),
        first_episodes,
        second_episodes,
        first_rate: f64::from(sum(pairs, |pair| pair.first.won)) / f64::from(first_episodes),
        second_rate: f64::from(sum(pairs, |pair| pair.second.won)) / f64::from(second_episodes),
        difference: difference(pairs),
        low,
        high,
        newcombe: is_played_once.then(|| newcombe_interval(two_by_two(pairs), 1.0 - LEVEL)),
        first_alone,
        second_alone,
        discordant_share,
        p_value: mcnemar_exact(first_alone, second_alone),
        minimum_detectable,
        turns,
        runs: None,
    }
}

fn sum(pairs: &[GamePair], column: fn(&GamePair) -> u32) -> u32 {
    pairs.iter().map(column).sum()
}

/// Returns the 2 × 2 table of games that were played once.
fn two_by_two(pairs: &[GamePair]) -> Paired {
    Paired {
        both: count(pairs, |pair| (pair.first.won, pair.second.won) == (1, 1)),
        first: count(pairs, |pair| (pair.first.won, pair.second.won) == (1, 0)),
        second: count(pairs, |pair| (pair.first.won, pair.second.won) == (0, 1)),
        neither: count(pairs, |pair| (pair.first.won, pair.second.won) == (0, 0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns rows for games of (won, played). The name of a game is its index.
    fn played(tallies: &[(u32, u32)]) -> Vec<GameRow> {
        tallies
            .iter()
            .enumerate()
            .map(|(index, &(won, played))| GameRow {
                policy: "p".into(),
                k: 1,
                split: Split::ValidSeen,
                task_type: Some(TaskType::ALL[index % 2]),
                game: format!("game {index}"),
                game_hash: index.to_string(),
                played,
                won,
                env_failed: u32::from(played == 0),
                mean_turns: 1.0,
            })
            .collect()
    }

    /// Returns the counts of games that were played once.
    fn once(won: &[u32]) -> Vec<(u32, u32)> {
        won.iter().map(|won| (*won, 1)).collect()
    }

    /// A won 6 of 8 games and B won 2. A alone won five games and B alone won one, so
    /// p = 2·(1 + 6)/2⁶. The ninth game is not counted because B's environment failed, and the
    /// tenth because only A played it.
    #[test]
    fn two_policies_are_compared_game_by_game() {
        let mut a = once(&[1, 1, 1, 1, 1, 1, 0, 0]);
        a.extend([(1, 1), (1, 1)]);
        let mut b = once(&[0, 0, 0, 0, 0, 1, 1, 0]);
        b.push((0, 0));
        let found = compare(&[played(&a)], &[played(&b)], Resampling::default());
        let all = &found[0];
        assert_eq!(
            (all.split, all.task_type, all.games),
            (Split::ValidSeen, None, 8)
        );
        assert_eq!(
            (all.first_rate, all.second_rate, all.difference),
            (0.75, 0.25, 0.5)
        );
        assert_eq!(
            (all.first_alone, all.second_alone, all.discordant_share),
            (5, 1, 0.75)
        );
        assert!((all.p_value - 14.0 / 64.0).abs() < 1e-12);
        assert!(
            all.low == 0.0 && all.high >= 0.875,
            "[{}, {}]",
            all.low,
            all.high
        );
        let (low, high) = all.newcombe.unwrap();
        assert!(
            low < 0.0 && high > all.difference && high < 1.0,
            "[{low}, {high}]"
        );
        assert_eq!(
            all.minimum_detectable,
            minimum_detectable_difference(8, 0.75, POWER, LEVEL)
        );
        assert_eq!(
            found.iter().skip(1).map(|row| row.games).sum::<usize>(),
            8,
            "by task type"
        );
        assert!(compare(&[played(&a)], &[], Resampling::default()).is_empty());
    }

    /// Each game has three episodes. If one policy won more of them, the game counts once, whether
    /// it is 2 against 1 or 3 against 0. If both won the same number, it does not count.
    #[test]
    fn repeated_games_count_once() {
        let a = played(&[(2, 3), (3, 3), (1, 3), (1, 3)]);
        let b = played(&[(1, 3), (0, 3), (1, 3), (2, 3)]);
        let all = &compare(&[a], &[b], Resampling::default())[0];
        assert_eq!(
            (
                all.games,
                all.first_episodes,
                all.first_alone,
                all.second_alone
            ),
            (4, 12, 2, 1)
        );
        assert!((all.difference - 0.25).abs() < 1e-12, "7/12 − 4/12");
        assert_eq!((all.newcombe, all.p_value), (None, 1.0));
        assert!(all.minimum_detectable.is_some_and(|found| found > 0.5));
        let merged = merge([played(&[(1, 1), (0, 1)]), played(&[(0, 2), (1, 0)])].concat());
        let counts: Vec<_> = merged
            .iter()
            .map(|row| (row.won, row.played, row.env_failed, row.mean_turns))
            .collect();
        assert_eq!(counts, [(1, 3, 0, 1.0), (1, 1, 1, 1.0)]);
    }

    /// Two runs of three games. The first policy needs 1, 2 and 0 turns less in run one, and 3, 0
    /// and 0 less in run two: by game 2, 1 and 0, by run 1 and 1. It wins one game more in run one
    /// and none in run two.
    #[test]
    fn turns_are_compared_by_game_and_by_run() {
        let run = |turns: [f64; 3], won: [u32; 3]| -> Vec<GameRow> {
            let mut rows = played(&won.map(|won| (won, 1)));
            for (row, turns) in rows.iter_mut().zip(turns) {
                row.mean_turns = turns;
            }
            rows
        };
        let first = [
            run([4.0, 5.0, 6.0], [1, 1, 0]),
            run([4.0, 7.0, 9.0], [1, 1, 0]),
        ];
        let second = [
            run([5.0, 7.0, 6.0], [1, 0, 0]),
            run([7.0, 7.0, 9.0], [1, 0, 1]),
        ];
        let found = &compare(&first, &second, Resampling::default())[0];
        let turns = &found.turns;
        assert!((turns.first - 35.0 / 6.0).abs() < 1e-12, "{turns:?}");
        assert!((turns.second - 41.0 / 6.0).abs() < 1e-12, "{turns:?}");
        assert!(turns.low <= -1.0 && turns.high >= -1.0, "{turns:?}");
        // Of the signs of (2, 1), half reach 3.
        assert!((turns.p_value - 0.5).abs() < 0.02, "{turns:?}");
        let runs = found.runs.as_ref().unwrap();
        assert_eq!(runs.turn_differences, [-1.0, -1.0]);
        assert_eq!(runs.turns_p_value, None, "all differences are equal");
        assert!((runs.differences[0] - 1.0 / 3.0).abs() < 1e-12);
        assert!(runs.differences[1].abs() < 1e-12);
        assert!(
            (runs.p_value.unwrap() - 0.5).abs() < 1e-9,
            "t = 1 with one degree of freedom"
        );
        let one = &compare(&first[..1], &second[..1], Resampling::default())[0];
        assert_eq!(one.runs, None);
    }
}
