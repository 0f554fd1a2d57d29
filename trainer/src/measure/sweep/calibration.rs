//! The calibration of the value network: how well V and U predict a win.
//!
//! V and U are read as probabilities of winning, because the reward is 1 if a game was won and else
//! 0. The Brier score is from Brier, "Verification of forecasts expressed in terms of probability",
//! Monthly Weather Review 78 (1950). The expected calibration error is from Naeini, Cooper &
//! Hauskrecht, "Obtaining well calibrated probabilities using Bayesian binning", AAAI 2015. Its bins
//! have equal counts, because the values lie close together. The turns of one episode share its
//! outcome, so n turns are fewer than n independent trials.

use super::setting::SweepSetting;
use crate::statistics::{TurnPrediction, area_given_turn, area_under_curve};
use scenarios::{Outcome, Trajectory};
use serde::Serialize;

/// Number of bins in a reliability table.
const BINS: usize = 10;
/// The first turn of each group of turns whose AUC is computed. The last group has no end.
const TURNS: [usize; 5] = [0, 5, 10, 20, 30];

/// Which output of the value network a row is about. The names are those of the equations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum ValueEstimate {
    /// The value V before a completion.
    V,
    /// The after-state value U, just after the completion that was acted on.
    U,
}

/// Which turns a row of `calibration.csv` contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CalibrationGroup {
    /// All turns.
    All,
    /// The turns with an index in a range, counted from 0.
    Turns,
    /// The turns with a value in a range. Each bin holds about a tenth of all turns.
    Bin,
}

/// A row of `calibration.csv`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CalibrationRow {
    /// [`SweepSetting::scorer`].
    pub scorer: &'static str,
    /// Number of candidates K per turn.
    pub k: usize,
    /// V or U.
    pub reading: ValueEstimate,
    /// Which turns the row contains.
    pub part: CalibrationGroup,
    /// The first turn, or the lowest value. Empty if the row is of all turns.
    pub from: Option<f64>,
    /// The last turn, or the highest value. Empty if the row is of all turns, or if the range has
    /// no end.
    pub to: Option<f64>,
    /// Number of turns.
    pub n: usize,
    /// Mean of the values.
    pub mean_prediction: f64,
    /// Share of the turns whose game was won.
    pub success_rate: f64,
    /// [`brier_score`].
    pub brier: f64,
    /// [`expected_calibration_error`]. Empty if the row is not of all turns.
    pub calibration_error: Option<f64>,
    /// [`area_under_curve`]. Empty if the row is a bin, or if all of its games were won or none was.
    pub auc: Option<f64>,
    /// [`area_given_turn`]. Empty if `auc` is, or if no turn number has both outcomes.
    pub auc_given_turn: Option<f64>,
}

/// Returns the calibration of V and U over all turns of one run. The result is empty if no value
/// network was used.
#[must_use]
pub fn calibration(setting: SweepSetting, played: &[Trajectory]) -> Vec<CalibrationRow> {
    [ValueEstimate::V, ValueEstimate::U]
        .into_iter()
        .flat_map(|reading| calibration_of(setting, reading, played))
        .collect()
}

fn calibration_of(
    setting: SweepSetting,
    reading: ValueEstimate,
    played: &[Trajectory],
) -> Vec<CalibrationRow> {
    let all = predictions(reading, played);
    if all.is_empty() {
        return Vec::new();
    }
    let mut rows = vec![row(
        setting,
        reading,
        Range {
            part: CalibrationGroup::All,
            from: None,
            to: None,
        },
        &all,
    )];
    for (index, from) in TURNS.into_iter().enumerate() {
        let end = TURNS.get(index + 1).copied();
        let inside: Vec<_> = all
            .iter()
            .filter(|of| of.turn >= from && end.is_none_or(|end| of.turn < end))
            .copied()
            .collect();
        if !inside.is_empty() {
            let range = Range {
                part: CalibrationGroup::Turns,
                from: Some(from as f64),
                to: end.map(|end| (end - 1) as f64),
            };
            rows.push(row(setting, reading, range, &inside));
        }
    }
    for bin in reliability(&flat(&all), BINS) {
        let range = Range {
            part: CalibrationGroup::Bin,
            from: bin.first().map(|(value, _)| *value),
            to: bin.last().map(|(value, _)| *value),
        };
        // The turn is not read in a bin.
        let of_bin = bin.iter().map(|(value, won)| TurnPrediction {
            turn: 0,
            value: *value,
            won: *won,
        });
        rows.push(row(setting, reading, range, &of_bin.collect::<Vec<_>>()));
    }
    rows
}

/// Returns the values and outcomes without their turns.
fn flat(predictions: &[TurnPrediction]) -> Vec<(f64, bool)> {
    predictions.iter().map(|of| (of.value, of.won)).collect()
}

/// Returns the value of each turn and whether its game was won. A turn without a value is left out.
fn predictions(reading: ValueEstimate, played: &[Trajectory]) -> Vec<TurnPrediction> {
    let mut predictions = Vec::new();
    for trajectory in played {
        if trajectory.outcome == Outcome::EnvFailed {
            continue;
        }
        let won = trajectory.is_won();
        for (index, turn) in trajectory.turns.iter().enumerate() {
            let value = match reading {
                ValueEstimate::V => turn.value,
                ValueEstimate::U => turn.after_value,
            };
            predictions.extend(value.map(|value| TurnPrediction {
                turn: index,
                value: f64::from(value),
                won,
            }));
        }
    }
    predictions
}

/// The turns of a row.
struct Range {
    part: CalibrationGroup,
    from: Option<f64>,
    to: Option<f64>,
}

fn row(
    setting: SweepSetting,
    reading: ValueEstimate,
    range: Range,
    of_turns: &[TurnPrediction],
) -> CalibrationRow {
    let predictions = &flat(of_turns)[..];
    let n = predictions.len();
    CalibrationRow {
        scorer: setting.scorer(),
        k: setting.k(),
        reading,
        part: range.part,
        from: range.from,
        to: range.to,
        n,
        mean_prediction: predictions.iter().map(|(value, _)| value).sum::<f64>() / n as f64,
        success_rate: won_share(predictions),
        brier: brier_score(predictions).expect("every row has at least one turn"),
        calibration_error: if range.part == CalibrationGroup::All {
            expected_calibration_error(predictions, BINS)
        } else {
            None
        },
        auc: if range.part == CalibrationGroup::Bin {
            None
        } else {
            area_under_curve(predictions)
        },
        auc_given_turn: if range.part == CalibrationGroup::Bin {
            None
        } else {
            area_given_turn(of_turns)
        },
    }
}

pub(super) fn won_share(predictions: &[(f64, bool)]) -> f64 {
    predictions.iter().filter(|(_, won)| *won).count() as f64 / predictions.len() as f64
}

/// Returns the Brier score: the mean squared distance between a prediction and its outcome, which is
/// 1 if the game was won and else 0. The best score is 0. Returns `None` if there is no prediction.
#[must_use]
pub fn brier_score(predictions: &[(f64, bool)]) -> Option<f64> {
    let squares = predictions
        .iter()
        .map(|(value, won)| (value - f64::from(u8::from(*won))).powi(2));
    (!predictions.is_empty()).then(|| squares.sum::<f64>() / predictions.len() as f64)
}

/// Sorts predictions by value into at most `bins` bins of about equal count. Equal values are in the
/// same bin.
#[must_use]
pub fn reliability(predictions: &[(f64, bool)], bins: usize) -> Vec<Vec<(f64, bool)>> {
    let mut sorted = predictions.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut found: Vec<Vec<(f64, bool)>> = Vec::new();
    let mut begun = 0;
    for ties in sorted.chunk_by(|a, b| a.0 == b.0) {
        let bin = begun * bins / sorted.len();
        if found.is_empty() || bin > (begun - 1) * bins / sorted.len() {
            found.push(Vec::new());
        }
        found
            .last_mut()
            .expect("a bin was added if there was none")
            .extend(ties);
        begun += ties.len();
    }
    found
}

/// Returns the expected calibration error: the mean over bins of |mean prediction − share won|,
/// weighted by the number of predictions in the bin. The best value is 0. Returns `None` if there is
/// no prediction.
#[must_use]
pub fn expected_calibration_error(predictions: &[(f64, bool)], bins: usize) -> Option<f64> {
    let gaps: f64 = reliability(predictions, bins)
        .iter()
        .map(|bin| {
            let sum: f64 = bin.iter().map(|(value, _)| value).sum();
            (sum - won_share(bin) * bin.len() as f64).abs()
        })
        .sum();
    (!predictions.is_empty()).then(|| gaps / predictions.len() as f64)
}
