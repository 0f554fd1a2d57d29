//! How well V and U separate continuations that are won from those that are lost.

use super::scored::ScoredState;
use crate::measure::sweep::ValueEstimate;
use crate::statistics::{TurnPrediction, area_given_turn, area_under_curve};
use serde::Serialize;

/// The area under the ROC curve of V or U against the outcomes of the continuations.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DiscriminationRow {
    /// V of the state, or U after the candidate.
    pub reading: ValueEstimate,
    /// Number of continuations. Those of one state share V, so they are fewer independent trials.
    pub continuations: usize,
    /// Share of them that were won.
    pub won_share: f64,
    /// [`area_given_turn`].
    pub auc_given_turn: Option<f64>,
    /// [`area_under_curve`] over all turns.
    pub auc: Option<f64>,
    /// The same of the turn number alone: the earlier, the better.
    pub auc_of_turn: Option<f64>,
}

/// Returns the rows of V and U. A continuation was won if its return is above 0. The result is empty
/// if there is no value network.
#[must_use]
pub fn discrimination(states: &[ScoredState]) -> Vec<DiscriminationRow> {
    [ValueEstimate::V, ValueEstimate::U]
        .into_iter()
        .filter_map(|reading| row(reading, states))
        .collect()
}

fn row(reading: ValueEstimate, states: &[ScoredState]) -> Option<DiscriminationRow> {
    let mut predictions = Vec::new();
    for state in states {
        for candidate in &state.candidates {
            let value = match reading {
                ValueEstimate::V => state.value,
                ValueEstimate::U => candidate.after_value,
            }?;
            predictions.extend(candidate.returns.iter().map(|of_one| TurnPrediction {
                turn: state.turn,
                value,
                won: *of_one > 0.0,
            }));
        }
    }
    let won = predictions.iter().filter(|prediction| prediction.won);
    let won_share = won.count() as f64 / predictions.len() as f64;
    (!predictions.is_empty()).then(|| DiscriminationRow {
        reading,
        continuations: predictions.len(),
        won_share,
        auc_given_turn: area_given_turn(&predictions),
        auc: area(&predictions, |prediction| prediction.value),
        auc_of_turn: area(&predictions, |prediction| -(prediction.turn as f64)),
    })
}

fn area(predictions: &[TurnPrediction], value: impl Fn(&TurnPrediction) -> f64) -> Option<f64> {
    let values: Vec<(f64, bool)> = predictions
        .iter()
        .map(|prediction| (value(prediction), prediction.won))
        .collect();
    area_under_curve(&values)
}
