//! How well scores order the candidates of one state, measured on branch states.
//!
//! Success rates and the area under the ROC curve over all turns mix two questions: how late it is,
//! and what an action adds. Best-of-K depends on the second alone. Here only candidates of one state
//! are compared. Their labels are mean returns of Monte-Carlo continuations.
//!
//! - *Pair accuracy*: the share of the pairs of candidates with different labels that the score
//!   orders as the labels do. A tie of the scores counts half.
//!   A *clear* pair has labels that differ by more than two standard errors of their difference, so
//!   its order is known rather than guessed.
//! - *Regret*: the highest label of a state minus the label of the candidate with the highest score,
//!   mean over the states, reward units. If several have the highest score, their mean label counts.
//!   The highest of several noisy labels is too high on average, so the regret of the best possible
//!   score is above 0. Compare scorers, not levels.
//! - `uniform` takes one of the distinct candidates at random. It is the null of every scorer that
//!   ranks distinct candidates.
//! - `split_halves` orders by the mean of one half of the continuations, and is judged by the other
//!   half. It is the ceiling that the noise of the labels leaves, for labels of half as many
//!   continuations.
//!
//! The intervals are percentile bootstrap intervals, resampled over games.

mod discrimination;
mod gaps;
mod rows;
mod scored;

#[cfg(test)]
mod tests;

pub use discrimination::{DiscriminationRow, discrimination};
pub use gaps::{GapRow, accuracy_by_gap};
pub use rows::{CandidateScorer, RankingRow, TurnGroup, ranking_rows};
pub use scored::{ScoredCandidate, ScoredState, score_states};
