//! The area under the ROC curve, over all turns and given the turn.

use std::collections::BTreeMap;

/// Returns the area under the ROC curve: the probability that a value of a won trajectory exceeds one
/// of a lost trajectory. Ties count half (Mann & Whitney, Annals of Mathematical Statistics 18,
/// 1947). Returns `None` if all trajectories were won, or if none was.
#[must_use]
pub fn area_under_curve(values: &[(f64, bool)]) -> Option<f64> {
    let OrderedPairs { correct, all } = ordered_pairs(values);
    (all > 0.0).then(|| correct / all)
}

/// A value that predicts an outcome, and the turn at which it was read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TurnPrediction {
    /// Number of turns before it in its episode.
    pub turn: usize,
    /// The value.
    pub value: f64,
    /// Whether the game was won.
    pub won: bool,
}

/// Returns the area under the ROC curve given the turn: only values of the same turn number are
/// compared. Every pair of a won and a lost game has the same weight. Returns `None` if no turn
/// number has both.
///
/// Lost games are longer than won ones. The turn number alone therefore has a high
/// [`area_under_curve`]. Given the turn, a function of the turn number has 1/2.
#[must_use]
pub fn area_given_turn(predictions: &[TurnPrediction]) -> Option<f64> {
    let mut turns: BTreeMap<usize, Vec<(f64, bool)>> = BTreeMap::new();
    for prediction in predictions {
        let turn = turns.entry(prediction.turn).or_default();
        turn.push((prediction.value, prediction.won));
    }
    let mut sum = OrderedPairs::default();
    for values in turns.values() {
        let of_turn = ordered_pairs(values);
        sum.correct += of_turn.correct;
        sum.all += of_turn.all;
    }
    (sum.all > 0.0).then(|| sum.correct / sum.all)
}

/// Numbers of pairs of a won and a lost trajectory.
#[derive(Default)]
struct OrderedPairs {
    /// Pairs in which the value of the won one is higher. Ties count half.
    correct: f64,
    /// All pairs.
    all: f64,
}

fn ordered_pairs(values: &[(f64, bool)]) -> OrderedPairs {
    let mut sorted = values.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let won = sorted.iter().filter(|(_, won)| *won).count() as f64;
    let lost = sorted.len() as f64 - won;
    let mut below = 0.0;
    let mut correct = 0.0;
    for ties in sorted.chunk_by(|a, b| a.0 == b.0) {
        let won_here = ties.iter().filter(|(_, won)| *won).count() as f64;
        let lost_here = ties.len() as f64 - won_here;
        correct += won_here * (below + 0.5 * lost_here);
        below += lost_here;
    }
    OrderedPairs {
        correct,
        all: won * lost,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The won trajectories have the values 3, 2, 2 and the lost ones 1, 2. Of the six pairs, four are
    /// ordered (3>1, 3>2, 2>1, 2>1) and two are ties: (4 + 2·½)/6 = 5/6.
    #[test]
    fn area_under_curve_by_hand() {
        let values = [
            (3.0, true),
            (1.0, false),
            (2.0, true),
            (2.0, false),
            (2.0, true),
        ];
        assert_eq!(area_under_curve(&values), Some(5.0 / 6.0));
        assert_eq!(area_under_curve(&values[..1]), None);
        assert_eq!(area_under_curve(&[]), None);
    }

    fn prediction((turn, value, won): (usize, f64, bool)) -> TurnPrediction {
        TurnPrediction { turn, value, won }
    }

    /// Turn 0 has the pairs .9 > .8 and .7 < .8, turn 1 the pair .2 > .1, and turn 2 none: 2 of 3
    /// pairs. Over all turns, the won values .9, .7 and .2 exceed 3, 2 and 2 of the lost values .8,
    /// .1 and .0: 7 of 9.
    #[test]
    fn area_given_turn_by_hand() {
        let predictions = [
            (0, 0.9, true),
            (0, 0.7, true),
            (0, 0.8, false),
            (1, 0.2, true),
            (1, 0.1, false),
            (2, 0.0, false),
        ]
        .map(prediction);
        assert_eq!(area_given_turn(&predictions), Some(2.0 / 3.0));
        let flat = predictions.map(|p| (p.value, p.won));
        assert_eq!(area_under_curve(&flat), Some(7.0 / 9.0));
        assert_eq!(area_given_turn(&predictions[5..]), None);
    }

    /// A function of the turn number has 1/2 given the turn, although its area over all turns is high.
    #[test]
    fn the_turn_number_alone_is_no_better_than_chance_given_the_turn() {
        let mut predictions = Vec::new();
        for turn in 0..40 {
            predictions.push(prediction((turn, -(turn as f64), false)));
            if turn < 10 {
                predictions.extend([prediction((turn, -(turn as f64), true)); 3]);
            }
        }
        let flat: Vec<(f64, bool)> = predictions.iter().map(|p| (p.value, p.won)).collect();
        assert!(area_under_curve(&flat).unwrap() > 0.85);
        assert_eq!(area_given_turn(&predictions), Some(0.5));
    }
}
