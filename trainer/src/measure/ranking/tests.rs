//! The rows of known scores and labels.

use super::rows::{Judged, ranking_rows};
use super::*;
use crate::statistics::Resampling;

const RESAMPLING: Resampling = Resampling {
    count: 200,
    seed: 1,
};

/// A candidate by its returns, ln π and U.
fn candidate(returns: &[f64], logprob: f64, after_value: f64) -> ScoredCandidate {
    ScoredCandidate {
        returns: returns.to_vec(),
        label: returns.iter().sum::<f64>() / returns.len() as f64,
        logprob,
        log_ratio: None,
        after_value: Some(after_value),
        is_expert: None,
    }
}

fn state(game: &str, turn: usize, candidates: Vec<ScoredCandidate>) -> ScoredState {
    ScoredState {
        game: game.into(),
        turn,
        value: Some(0.5),
        candidates,
    }
}

/// Two games. In "a", U is right about two of three pairs and takes the second best. In "b", the
/// labels of two candidates are equal, and U ties the best with one of them.
fn states() -> Vec<ScoredState> {
    vec![
        state(
            "a",
            2,
            vec![
                candidate(&[1.0, 1.0], -3.0, 0.6),
                candidate(&[1.0, 0.0], -1.0, 0.7),
                candidate(&[0.0, 0.0], -2.0, 0.1),
            ],
        ),
        state(
            "b",
            12,
            vec![
                candidate(&[1.0, 0.0], -1.0, 0.3),
                candidate(&[1.0, 1.0], -2.0, 0.3),
                candidate(&[0.0, 1.0], -3.0, 0.2),
            ],
        ),
    ]
}

/// The row of a scorer over a group of turns.
#[track_caller]
fn row(rows: &[RankingRow], scorer: &str, turns: TurnGroup) -> RankingRow {
    rows.iter()
        .find(|row| row.scorer == scorer && row.turns == turns)
        .unwrap()
        .clone()
}

/// The labels of the first two candidates of "a" differ by 1/2, with standard errors of 0 and 1/2;
/// those of the first and the last by 1, with no error; those of the last two by 1/2. Only the
/// second pair is clear, and the scores order it right. No pair of "b" is clear.
#[test]
fn pairs_and_regret_by_hand() {
    let [a, b] = &states()[..] else { panic!() };
    let judged = Judged::new(&[0.6, 0.7, 0.1], &[1.0, 0.5, 0.0], &a.candidates);
    let expected = Judged {
        pairs: 3.0,
        correct: 2.0,
        clear_pairs: 1.0,
        clear_correct: 1.0,
        regret: 0.5,
        chosen: 0.5,
    };
    assert_eq!(judged, expected);
    let tied = Judged::new(&[0.3, 0.3, 0.2], &[0.5, 1.0, 0.5], &b.candidates);
    let expected = Judged {
        pairs: 2.0,
        correct: 1.5,
        clear_pairs: 0.0,
        clear_correct: 0.0,
        regret: 0.25,
        chosen: 0.75,
    };
    assert_eq!(tied, expected);
    let equal = Judged::new(&[1.0, 0.0], &[0.5, 0.5], &a.candidates[..2]);
    assert_eq!((equal.pairs, equal.regret), (0.0, 0.0));
}

/// A fourth candidate of "b" has the label .495 and U .25. Two pairs then differ by .005, of which U
/// orders one. Of the others, U orders two of three in "a" and, with a tie, 2.5 of three in "b".
#[test]
fn accuracy_by_difference_by_hand() {
    let scorers = [CandidateScorer::AfterValue, CandidateScorer::LogRatio];
    let mut states = states();
    states[1]
        .candidates
        .push(candidate(&[0.0, 0.99], -9.0, 0.25));
    let rows = accuracy_by_gap(&states, &scorers, RESAMPLING);
    let found: Vec<_> = rows
        .iter()
        .map(|row| (row.scorer, row.from, row.to, row.pairs, row.accuracy))
        .collect();
    assert_eq!(
        found,
        [
            ("after_value", 0.0, Some(0.02), 2, 0.5),
            ("after_value", 0.4, None, 6, (2.0 + 2.5) / 6.0),
        ]
    );
    assert!(rows.iter().all(|row| row.interval.is_some()));
}

/// U orders 2 + 1.5 of 3 + 2 pairs, and its regrets are .5 and .25. ln π takes the second best of
/// both states. Uniform has 1/2 of the pairs, and regrets of .5 and 1 − 2/3.
#[test]
fn rows_by_hand() {
    let rows = ranking_rows(&states(), &[0.0, 0.25], RESAMPLING);
    let after_value = row(&rows, "after_value", TurnGroup::All);
    assert_eq!(after_value.pair_accuracy, Some(3.5 / 5.0));
    assert_eq!((after_value.regret, after_value.chosen), (0.375, 0.625));
    assert_eq!(
        (after_value.games, after_value.states, after_value.pairs),
        (2, 2, 5)
    );
    assert_eq!(
        (after_value.pair_low, after_value.pair_high),
        (Some(2.0 / 3.0), Some(0.75)),
        "the games alone"
    );
    let logprob = row(&rows, "logprob", TurnGroup::All);
    assert_eq!(logprob.regret, 0.5);
    assert_eq!(logprob.pair_accuracy, Some((1.0 + 1.0) / 5.0));
    let uniform = row(&rows, "uniform", TurnGroup::All);
    assert_eq!(uniform.pair_accuracy, Some(0.5));
    assert!((uniform.regret - (0.5 + 1.0 / 3.0) / 2.0).abs() < 1e-15);
    let early = row(&rows, "after_value", TurnGroup::Early);
    assert_eq!(early.pair_accuracy, Some(2.0 / 3.0));
    let late = row(&rows, "after_value", TurnGroup::Late);
    assert_eq!(late.pair_accuracy, Some(0.75));
    assert!(
        !rows.iter().any(|row| row.scorer == "expert"),
        "no state has an expert"
    );
}

/// λ = .25: U + λ ln π is −.15, .45, −.4 in "a" and .05, −.2, −.55 in "b". λ = 0 has no row of its
/// own.
#[test]
fn the_soft_value_adds_the_prior() {
    let rows = ranking_rows(&states(), &[0.0, 0.25], RESAMPLING);
    let soft: Vec<&RankingRow> = rows
        .iter()
        .filter(|row| row.scorer == "soft_value" && row.turns == TurnGroup::All)
        .collect();
    assert_eq!(soft.len(), 1);
    assert_eq!(soft[0].lambda, Some(0.25));
    assert_eq!(soft[0].pair_accuracy, Some((2.0 + 1.0) / 5.0));
    assert_eq!(soft[0].regret, 0.5);
}

/// In "a", the halves are [1, 1, 0] and [1, 0, 0]: each orders both pairs of the other, with one tie
/// each. In "b", they are [1, 1, 0] and [0, 1, 1]: of two pairs one is reversed, the others are ties.
#[test]
fn split_halves_by_hand() {
    let rows = ranking_rows(&states(), &[], RESAMPLING);
    let early = row(&rows, "split_halves", TurnGroup::Early);
    assert_eq!((early.states, early.pairs), (1, 4));
    assert_eq!(early.pair_accuracy, Some(3.0 / 4.0));
    let late = row(&rows, "split_halves", TurnGroup::Late);
    assert_eq!(late.pair_accuracy, Some(1.0 / 4.0));
    let mut single = states();
    single[0].candidates[0].returns = vec![1.0];
    let rows = ranking_rows(&single, &[], RESAMPLING);
    assert!(
        !rows
            .iter()
            .any(|row| row.scorer == "split_halves" && row.turns == TurnGroup::All),
        "one continuation has no halves"
    );
}

#[test]
fn without_a_value_network_only_the_policy_is_a_scorer() {
    let mut states = states();
    for candidate in states.iter_mut().flat_map(|state| &mut state.candidates) {
        candidate.after_value = None;
        candidate.is_expert = Some(candidate.label == 1.0);
    }
    let rows = ranking_rows(&states, &[0.1], RESAMPLING);
    let names: Vec<&str> = rows
        .iter()
        .filter(|row| row.turns == TurnGroup::All)
        .map(|row| row.scorer)
        .collect();
    assert_eq!(names, ["logprob", "uniform", "expert", "split_halves"]);
    assert_eq!(row(&rows, "expert", TurnGroup::All).regret, 0.0);
    states.iter_mut().for_each(|state| state.value = None);
    assert!(discrimination(&states).is_empty());
}

/// V is the same in both states, so it cannot separate them. The turn number alone separates 12
/// continuations, of which 3 + 4 were won, by (3·2 + ½(3·3 + 4·2))/(7·5). Given the turn, U of "a"
/// orders .6 twice above .7 lost, and so on.
#[test]
fn discrimination_by_hand() {
    let rows = discrimination(&states());
    let [v, u] = &rows[..] else {
        panic!("{rows:?}")
    };
    assert_eq!((v.continuations, v.won_share), (12, 7.0 / 12.0));
    assert_eq!((v.auc, v.auc_given_turn), (Some(0.5), Some(0.5)));
    assert_eq!(v.auc_of_turn, Some((3.0 * 2.0 + 0.5 * (9.0 + 8.0)) / 35.0));
    assert_eq!(u.auc_of_turn, v.auc_of_turn);
    // "a": won .6 .6 .7, lost .7 .1 .1: 2 + 2 + 2.5 of 9. "b": won .3 .3 .3 .2, lost .3 .2:
    // 3 · 1.5 + .5 of 8.
    assert_eq!(u.auc_given_turn, Some((6.5 + 5.0) / 17.0));
}
