//! Pair accuracy by how much the candidates differ.

use super::rows::{CONFIDENCE, CandidateScorer, right_order};
use super::scored::ScoredState;
use crate::statistics::{Resampling, bootstrap_ratio};
use serde::Serialize;
use std::collections::BTreeMap;

/// Upper ends of the groups of pairs by the difference of their labels, reward units. The last group
/// has none.
const ENDS: [f64; 5] = [0.02, 0.05, 0.1, 0.2, 0.4];

/// The pair accuracy of a scorer over the pairs whose labels differ by `from` to `to`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GapRow {
    /// [`CandidateScorer::name`].
    pub scorer: &'static str,
    /// λ of `soft_value`, reward units per nat.
    pub lambda: Option<f64>,
    /// Smallest difference of the labels, reward units; inside the group unless it is 0.
    pub from: f64,
    /// Where the group ends, outside it; `None` for the last.
    pub to: Option<f64>,
    /// Number of pairs.
    pub pairs: usize,
    /// Share of them that the scorer orders as the labels do. A tie counts half.
    pub accuracy: f64,
    /// 95 % percentile bootstrap interval, resampled over games.
    pub interval: Option<(f64, f64)>,
}

/// Returns the rows of the scorers that can score all states, in the order of the differences. A
/// group without pairs has no row.
#[must_use]
pub fn accuracy_by_gap(
    states: &[ScoredState],
    scorers: &[CandidateScorer],
    resampling: Resampling,
) -> Vec<GapRow> {
    let mut rows = Vec::new();
    for scorer in scorers {
        let Some(groups) = groups(states, *scorer) else {
            continue;
        };
        for (group, games) in groups {
            let of_games: Vec<(f64, f64)> = games.into_values().collect();
            let right: f64 = of_games.iter().map(|game| game.0).sum();
            let pairs: f64 = of_games.iter().map(|game| game.1).sum();
            rows.push(GapRow {
                scorer: scorer.name(),
                lambda: scorer.lambda(),
                from: if group == 0 { 0.0 } else { ENDS[group - 1] },
                to: ENDS.get(group).copied(),
                pairs: pairs as usize,
                accuracy: right / pairs,
                interval: bootstrap_ratio(&of_games, CONFIDENCE, resampling),
            });
        }
    }
    rows
}

/// The right pairs and all pairs of each game.
type Games<'a> = BTreeMap<&'a str, (f64, f64)>;

/// Returns the pairs of each group. Returns `None` if a candidate has no score.
fn groups(states: &[ScoredState], scorer: CandidateScorer) -> Option<BTreeMap<usize, Games<'_>>> {
    let mut groups: BTreeMap<usize, Games<'_>> = BTreeMap::new();
    for state in states {
        let scores = state.candidates.iter().map(|c| scorer.score(c));
        let scores = scores.collect::<Option<Vec<f64>>>()?;
        for j in 0..scores.len() {
            for k in 0..j {
                let labels = [k, j].map(|index| state.candidates[index].label);
                let gap = labels[0] - labels[1];
                if gap == 0.0 {
                    continue;
                }
                let group = ENDS.partition_point(|end| *end <= gap.abs());
                let right = right_order([scores[k], scores[j]], labels);
                let sums = groups.entry(group).or_default();
                let sums = sums.entry(&state.game).or_default();
                sums.0 += right;
                sums.1 += 1.0;
            }
        }
    }
    Some(groups)
}
