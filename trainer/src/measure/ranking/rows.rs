//! Pair accuracy and regret of each scorer, over all states and by turn.

use super::scored::{ScoredCandidate, ScoredState};
use crate::learn::ranking::mean_return;
use crate::statistics::{Resampling, bootstrap_ratio};
use serde::Serialize;
use std::collections::BTreeMap;

/// Number of turns that count as early.
const EARLY_TURNS: usize = 10;

/// Confidence of the intervals.
pub(super) const CONFIDENCE: f64 = 0.95;

/// What ranks the candidates of a state.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum CandidateScorer {
    /// U after the candidate.
    AfterValue,
    /// ln π of the candidate.
    Logprob,
    /// ln π − ln π_ref of the candidate: the order of the advantages that the policy implies.
    LogRatio,
    /// U + λ ln π, with λ in reward units per nat.
    SoftValue(f64),
    /// Nothing: every distinct candidate is equally good.
    Uniform,
    /// Whether the expert would write its command.
    Expert,
    /// The mean return of one half of the continuations, judged by the other half.
    SplitHalves,
}

impl CandidateScorer {
    /// The name in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AfterValue => "after_value",
            Self::Logprob => "logprob",
            Self::LogRatio => "log_ratio",
            Self::SoftValue(_) => "soft_value",
            Self::Uniform => "uniform",
            Self::Expert => "expert",
            Self::SplitHalves => "split_halves",
        }
    }

    /// Returns λ; `None` if the scorer has none.
    #[must_use]
    pub fn lambda(self) -> Option<f64> {
        match self {
            Self::SoftValue(lambda) => Some(lambda),
            _ => None,
        }
    }

    /// Returns the score of a candidate; `None` if it is not known.
    pub(super) fn score(self, candidate: &ScoredCandidate) -> Option<f64> {
        match self {
            Self::AfterValue => candidate.after_value,
            Self::Logprob => Some(candidate.logprob),
            Self::LogRatio => candidate.log_ratio,
            Self::SoftValue(lambda) => candidate
                .after_value
                .map(|value| value + lambda * candidate.logprob),
            Self::Uniform => Some(0.0),
            Self::Expert => candidate
                .is_expert
                .map(|is_expert| f64::from(u8::from(is_expert))),
            Self::SplitHalves => None,
        }
    }

    /// Returns how well the scorer ranks a state. Split halves are judged twice, by each half. The
    /// result is empty if a score is not known, or if a candidate has only one continuation.
    pub(super) fn judge(self, state: &ScoredState) -> Vec<Judged> {
        if self == Self::SplitHalves {
            let halves = state.candidates.iter().map(|c| halves(&c.returns));
            let Some(halves) = halves.collect::<Option<Vec<[f64; 2]>>>() else {
                return Vec::new();
            };
            let [even, odd] = [0, 1]
                .map(|half| -> Vec<f64> { halves.iter().map(|labels| labels[half]).collect() });
            return vec![
                Judged::new(&even, &odd, &state.candidates),
                Judged::new(&odd, &even, &state.candidates),
            ];
        }
        let scores = state.candidates.iter().map(|c| self.score(c));
        let labels: Vec<f64> = state.candidates.iter().map(|c| c.label).collect();
        scores
            .collect::<Option<Vec<f64>>>()
            .map(|scores| Judged::new(&scores, &labels, &state.candidates))
            .into_iter()
            .collect()
    }
}

/// Returns the means of the returns with even and with odd indices, if there are both.
fn halves(returns: &[f64]) -> Option<[f64; 2]> {
    let [even, odd] = [0, 1]
        .map(|first| -> Vec<f64> { returns.iter().skip(first).step_by(2).copied().collect() });
    (!odd.is_empty()).then(|| [mean_return(&even), mean_return(&odd)])
}

/// How well scores rank the candidates of one state.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Judged {
    /// Pairs with different labels.
    pub(super) pairs: f64,
    /// How many of them the scores order as the labels do. A tie counts half.
    pub(super) correct: f64,
    /// Pairs whose labels differ by more than two standard errors of the difference.
    pub(super) clear_pairs: f64,
    /// How many of these the scores order as the labels do. A tie counts half.
    pub(super) clear_correct: f64,
    /// The highest label minus that of the best by score.
    pub(super) regret: f64,
    /// The label of the best by score.
    pub(super) chosen: f64,
}

impl Judged {
    /// Judges scores by labels. The standard errors are those of the candidates' returns.
    pub(super) fn new(scores: &[f64], labels: &[f64], candidates: &[ScoredCandidate]) -> Self {
        let mut found = Self::default();
        for j in 0..labels.len() {
            for k in 0..j {
                if labels[k] == labels[j] {
                    continue;
                }
                let right = right_order([scores[k], scores[j]], [labels[k], labels[j]]);
                found.pairs += 1.0;
                found.correct += right;
                if differ_clearly(&candidates[k], &candidates[j]) {
                    found.clear_pairs += 1.0;
                    found.clear_correct += right;
                }
            }
        }
        let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let best: Vec<f64> = scores
            .iter()
            .zip(labels)
            .filter(|(score, _)| **score == highest)
            .map(|(_, label)| *label)
            .collect();
        let chosen = mean_return(&best);
        let most = labels.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        found.regret = most - chosen;
        found.chosen = chosen;
        found
    }
}

/// Returns 1 if two scores order a pair as its labels do, 0 if not, and 1/2 if the scores are equal.
pub(super) fn right_order(scores: [f64; 2], labels: [f64; 2]) -> f64 {
    if scores[0] == scores[1] {
        return 0.5;
    }
    f64::from(u8::from((scores[0] > scores[1]) == (labels[0] > labels[1])))
}

/// Returns whether the labels of two candidates differ by more than two standard errors of their
/// difference.
fn differ_clearly(first: &ScoredCandidate, second: &ScoredCandidate) -> bool {
    let variance = variance_of_mean(&first.returns) + variance_of_mean(&second.returns);
    (first.label - second.label).abs() > 2.0 * variance.sqrt()
}

/// Returns the squared standard error of a mean; infinite if there are fewer than two numbers.
fn variance_of_mean(numbers: &[f64]) -> f64 {
    let n = numbers.len() as f64;
    if n < 2.0 {
        return f64::INFINITY;
    }
    let mean = mean_return(numbers);
    numbers.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0) / n
}

/// Which states a row contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TurnGroup {
    /// All states.
    All,
    /// The states of the first ten turns.
    Early,
    /// All later states.
    Late,
}

impl TurnGroup {
    fn contains(self, turn: usize) -> bool {
        match self {
            Self::All => true,
            Self::Early => turn < EARLY_TURNS,
            Self::Late => turn >= EARLY_TURNS,
        }
    }
}

/// A row of the ranking table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RankingRow {
    /// [`CandidateScorer::name`].
    pub scorer: &'static str,
    /// λ of `soft_value`, reward units per nat.
    pub lambda: Option<f64>,
    /// Which states the row contains.
    pub turns: TurnGroup,
    /// Number of games.
    pub games: usize,
    /// Number of states.
    pub states: usize,
    /// Number of pairs with different labels. Split halves count both directions.
    pub pairs: usize,
    /// Share of these pairs that the scorer orders as the labels do.
    pub pair_accuracy: Option<f64>,
    /// Lower end of its 95 % interval.
    pub pair_low: Option<f64>,
    /// Upper end of its 95 % interval.
    pub pair_high: Option<f64>,
    /// Number of pairs whose labels differ by more than two standard errors of the difference.
    pub clear_pairs: usize,
    /// Share of these that the scorer orders as the labels do.
    pub clear_accuracy: Option<f64>,
    /// Lower end of its 95 % interval.
    pub clear_low: Option<f64>,
    /// Upper end of its 95 % interval.
    pub clear_high: Option<f64>,
    /// Mean regret, reward units.
    pub regret: f64,
    /// Lower end of its 95 % interval.
    pub regret_low: Option<f64>,
    /// Upper end of its 95 % interval.
    pub regret_high: Option<f64>,
    /// Mean label of the chosen candidate, reward units.
    pub chosen: f64,
}

/// Returns the rows of every scorer that can score all states, over all states and by turn. `lambdas`
/// are the λ of `soft_value`; 0 is `after_value`, which always has a row. If a scorer cannot score a
/// state, it has no row, so that all rows of a group are of the same states.
#[must_use]
pub fn ranking_rows(
    states: &[ScoredState],
    lambdas: &[f64],
    resampling: Resampling,
) -> Vec<RankingRow> {
    let mut scorers = vec![
        CandidateScorer::AfterValue,
        CandidateScorer::LogRatio,
        CandidateScorer::Logprob,
    ];
    let above_zero = lambdas.iter().filter(|lambda| **lambda != 0.0);
    scorers.extend(above_zero.map(|lambda| CandidateScorer::SoftValue(*lambda)));
    scorers.extend([
        CandidateScorer::Uniform,
        CandidateScorer::Expert,
        CandidateScorer::SplitHalves,
    ]);
    let mut rows = Vec::new();
    for group in [TurnGroup::All, TurnGroup::Early, TurnGroup::Late] {
        let inside: Vec<&ScoredState> = states
            .iter()
            .filter(|state| group.contains(state.turn))
            .collect();
        let of_group = scorers
            .iter()
            .filter_map(|scorer| row(*scorer, group, &inside, resampling));
        rows.extend(of_group);
    }
    rows
}

/// Returns the row of a scorer; `None` if there is no state, or if it cannot score one.
fn row(
    scorer: CandidateScorer,
    group: TurnGroup,
    states: &[&ScoredState],
    resampling: Resampling,
) -> Option<RankingRow> {
    let mut games: BTreeMap<&str, Vec<Judged>> = BTreeMap::new();
    for state in states {
        let judged = scorer.judge(state);
        if judged.is_empty() {
            return None;
        }
        games.entry(&state.game).or_default().extend(judged);
    }
    let accuracy = Accuracy::of(&games, |judged| (judged.correct, judged.pairs), resampling);
    let clear = Accuracy::of(
        &games,
        |judged| (judged.clear_correct, judged.clear_pairs),
        resampling,
    );
    let regrets: Vec<(f64, f64)> = games
        .values()
        .map(|states| sums(states, |judged| (judged.regret, 1.0)))
        .collect();
    let all: Vec<Judged> = games.values().flatten().copied().collect();
    let (regret, judged) = sums(&all, |judged| (judged.regret, 1.0));
    let (chosen, _) = sums(&all, |judged| (judged.chosen, 1.0));
    let (regret_low, regret_high) = bootstrap_ratio(&regrets, CONFIDENCE, resampling).unzip();
    (judged > 0.0).then(|| RankingRow {
        scorer: scorer.name(),
        lambda: scorer.lambda(),
        turns: group,
        games: games.len(),
        states: states.len(),
        pairs: accuracy.pairs as usize,
        pair_accuracy: accuracy.share,
        pair_low: accuracy.interval.map(|(low, _)| low),
        pair_high: accuracy.interval.map(|(_, high)| high),
        clear_pairs: clear.pairs as usize,
        clear_accuracy: clear.share,
        clear_low: clear.interval.map(|(low, _)| low),
        clear_high: clear.interval.map(|(_, high)| high),
        regret: regret / judged,
        regret_low,
        regret_high,
        chosen: chosen / judged,
    })
}

/// The share of pairs that a scorer orders right.
struct Accuracy {
    pairs: f64,
    /// `None` if there is no pair.
    share: Option<f64>,
    interval: Option<(f64, f64)>,
}

impl Accuracy {
    /// `numbers` are the right pairs and all pairs of a state.
    fn of(
        games: &BTreeMap<&str, Vec<Judged>>,
        numbers: impl Fn(&Judged) -> (f64, f64),
        resampling: Resampling,
    ) -> Self {
        // A game without a pair has no part in the share.
        let of_games: Vec<(f64, f64)> = games
            .values()
            .map(|states| sums(states, &numbers))
            .filter(|(_, pairs)| *pairs > 0.0)
            .collect();
        let right: f64 = of_games.iter().map(|game| game.0).sum();
        let pairs: f64 = of_games.iter().map(|game| game.1).sum();
        Self {
            pairs,
            share: (pairs > 0.0).then(|| right / pairs),
            interval: bootstrap_ratio(&of_games, CONFIDENCE, resampling),
        }
    }
}

/// Returns the sums of two numbers of each state.
fn sums(states: &[Judged], numbers: impl Fn(&Judged) -> (f64, f64)) -> (f64, f64) {
    states
        .iter()
        .map(numbers)
        .fold((0.0, 0.0), |sum, of_state| {
            (sum.0 + of_state.0, sum.1 + of_state.1)
        })
}
