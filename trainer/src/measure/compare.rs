//! Two policies on the same games: who wins which, how large the difference is, and how small a difference could have been
//! found. The game is the unit, with all its repetitions.

use crate::measure::evaluate::Row;
use crate::measure::games::{GameRow, games};
use crate::measure::statistics::{
    Pair, Paired, Resampling, Tally, bootstrap_difference, difference, mcnemar_exact,
    minimum_detectable_difference, minimum_detectable_mean, newcombe_interval,
};
use scenarios::{Split, TaskType, Trajectory};
use serde::Serialize;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// Chance of finding the minimum detectable difference.
pub const POWER: f64 = 0.8;
/// The two-sided level at which it is found.
pub const LEVEL: f64 = 0.05;

/// Two policies on the games of a split that both played to an end.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The split.
    pub split: Split,
    /// The kind of task; `None` = all.
    pub task_type: Option<TaskType>,
    /// Games that both played to an end.
    pub games: usize,
    /// Episodes of the first policy on them.
    pub first_episodes: u32,
    /// Episodes of the second policy.
    pub second_episodes: u32,
    /// Share of its episodes that the first won.
    pub first_rate: f64,
    /// Share of its episodes that the second won.
    pub second_rate: f64,
    /// The first's rate less the second's.
    pub difference: f64,
    /// Lower end of its 95 % percentile bootstrap interval over games.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Newcombe's 95 % interval of the difference, where both played each game once.
    pub newcombe: Option<(f64, f64)>,
    /// Games that only the first won; where games were repeated, that it won the more often.
    pub first_alone: u32,
    /// Games that only the second won, or won the more often.
    pub second_alone: u32,
    /// Share of games that are one or the other.
    pub discordant_share: f64,
    /// McNemar's exact test, two-sided; of repeated games that is the sign test.
    pub p_value: f64,
    /// The smallest difference that so many games find with [`POWER`] at [`LEVEL`]; `None` where none can be found.
    pub minimum_detectable: Option<f64>,
}

/// Games that both policies played to an end, by hash.
#[must_use]
pub fn pairs(
    first: &[GameRow],
    second: &[GameRow],
    split: Split,
    task_type: Option<TaskType>,
) -> Vec<Pair> {
    let is_asked =
        |row: &&GameRow| row.split == split && (task_type.is_none() || row.task_type == task_type);
    let by_hash = |rows: &[GameRow]| -> BTreeMap<String, _> {
        let played = rows
            .iter()
            .filter(is_asked)
            .filter_map(|row| Some((row.game_hash.clone(), row.tally()?)));
        played.collect()
    };
    let second = by_hash(second);
    let pair = |(hash, first)| {
        second.get(&hash).map(|second| Pair {
            first,
            second: *second,
        })
    };
    by_hash(first).into_iter().filter_map(pair).collect()
}

/// The rows of several measures as one: games with the same file are one game.
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
                let turns = |row: &GameRow| row.mean_turns * f64::from(row.played);
                let played = merged.played + row.played;
                merged.mean_turns = (turns(merged) + turns(&row)) / f64::from(played.max(1));
                (merged.played, merged.won) = (played, merged.won + row.won);
                merged.env_failed += row.env_failed;
            }
        }
    }
    games.into_values().collect()
}

/// How many games the first won more often than the second, and how many the other way round: of games played once those
/// that only one of them won.
#[must_use]
pub fn won_more_often(pairs: &[Pair]) -> (u32, u32) {
    let more = |a: Tally, b: Tally| {
        u64::from(a.won) * u64::from(b.played) > u64::from(b.won) * u64::from(a.played)
    };
    let count = |is: &dyn Fn(&Pair) -> bool| pairs.iter().map(|pair| u32::from(is(pair))).sum();
    (
        count(&|pair| more(pair.first, pair.second)),
        count(&|pair| more(pair.second, pair.first)),
    )
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
    pub fn pair(&self, rows: &mut [Row], trajectories: &[Trajectory]) {
        let others = games("", 1, trajectories);
        for row in rows {
            let pairs = pairs(&others, &self.games, row.split, row.task_type);
            let (won_alone, lost_alone) = won_more_often(&pairs);
            row.against = Some(self.policy.clone());
            (row.won_alone, row.lost_alone) = (Some(won_alone), Some(lost_alone));
            row.p_value = Some(mcnemar_exact(won_alone, lost_alone));
        }
    }
}

/// Compares two policies: for each split all task types together, then each on its own. Splits and types without a game
/// that both played to an end have no row.
#[must_use]
pub fn compare(first: &[GameRow], second: &[GameRow], resampling: Resampling) -> Vec<Comparison> {
    let mut groups: Vec<(Split, Option<TaskType>)> = Vec::new();
    for row in first {
        groups.push((row.split, None));
        groups.extend(row.task_type.map(|task_type| (row.split, Some(task_type))));
    }
    groups.sort_unstable();
    groups.dedup();
    let comparison = |(split, task_type)| {
        let pairs = pairs(first, second, split, task_type);
        (!pairs.is_empty()).then(|| of_pairs(split, task_type, &pairs, resampling))
    };
    groups.into_iter().filter_map(comparison).collect()
}

fn of_pairs(
    split: Split,
    task_type: Option<TaskType>,
    pairs: &[Pair],
    resampling: Resampling,
) -> Comparison {
    let sum = |of: fn(&Pair) -> u32| pairs.iter().map(of).sum::<u32>();
    let (first_episodes, second_episodes) = (
        sum(|pair| pair.first.played),
        sum(|pair| pair.second.played),
    );
    let (first_alone, second_alone) = won_more_often(pairs);
    let discordant_share = f64::from(first_alone + second_alone) / pairs.len() as f64;
    let once = pairs
        .iter()
        .all(|pair| pair.first.played == 1 && pair.second.played == 1);
    let minimum_detectable = if once {
        minimum_detectable_difference(pairs.len(), discordant_share, POWER, LEVEL)
    } else {
        let differences: Vec<f64> = pairs
            .iter()
            .map(|pair| pair.first.rate() - pair.second.rate())
            .collect();
        minimum_detectable_mean(&differences, POWER, LEVEL)
    };
    let (low, high) =
        bootstrap_difference(pairs, 1.0 - LEVEL, resampling).expect("there are games");
    Comparison {
        split,
        task_type,
        games: pairs.len(),
        first_episodes,
        second_episodes,
        first_rate: f64::from(sum(|pair| pair.first.won)) / f64::from(first_episodes),
        second_rate: f64::from(sum(|pair| pair.second.won)) / f64::from(second_episodes),
        difference: difference(pairs),
        low,
        high,
        newcombe: once.then(|| newcombe_interval(table(pairs), 1.0 - LEVEL)),
        first_alone,
        second_alone,
        discordant_share,
        p_value: mcnemar_exact(first_alone, second_alone),
        minimum_detectable,
    }
}

/// The 2 × 2 table of games that were played once.
fn table(pairs: &[Pair]) -> Paired {
    let count = |first: u32, second: u32| {
        pairs
            .iter()
            .map(|pair| u32::from(pair.first.won == first && pair.second.won == second))
            .sum()
    };
    Paired {
        both: count(1, 1),
        first: count(1, 0),
        second: count(0, 1),
        neither: count(0, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Games of (won, played), named by their place.
    fn played(tallies: &[(u32, u32)]) -> Vec<GameRow> {
        let row = |(index, &(won, played)): (usize, &(u32, u32))| GameRow {
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
        };
        tallies.iter().enumerate().map(row).collect()
    }

    /// Won by A 6 of 8, by B 2 of 8; five games A alone, one B alone: p = 2·(1 + 6)/2⁶. The ninth was lost to the world
    /// once, the tenth only A played.
    #[test]
    fn two_policies_are_compared_game_by_game() {
        let of = |won: &[u32]| won.iter().map(|won| (*won, 1)).collect::<Vec<_>>();
        let mut a = of(&[1, 1, 1, 1, 1, 1, 0, 0]);
        a.extend([(1, 1), (1, 1)]);
        let mut b = of(&[0, 0, 0, 0, 0, 1, 1, 0]);
        b.push((0, 0));
        let found = compare(&played(&a), &played(&b), Resampling::default());
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
        assert!(compare(&played(&a), &[], Resampling::default()).is_empty());
    }

    /// Three episodes a game: 2 of 3 against 1 of 3 counts as one game, as 3 against 0 does, and equal counts as none.
    #[test]
    fn repeated_games_count_once() {
        let (a, b) = (
            played(&[(2, 3), (3, 3), (1, 3), (1, 3)]),
            played(&[(1, 3), (0, 3), (1, 3), (2, 3)]),
        );
        let all = &compare(&a, &b, Resampling::default())[0];
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
}
