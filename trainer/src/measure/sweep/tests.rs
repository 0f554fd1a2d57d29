use super::calibration::won_share;
use super::*;
use crate::measure::compare::Baseline;
use crate::statistics::area_under_curve;
use scenarios::{Candidate, Outcome, Protocol, Scorer, Search, Spent, Split, Trajectory, Turn};

/// Values and outcomes of ten turns, for five bins of two.
const PREDICTIONS: [(f64, bool); 10] = [
    (0.81, true),
    (0.05, false),
    (0.32, true),
    (0.66, false),
    (0.11, false),
    (0.93, true),
    (0.47, false),
    (0.58, true),
    (0.24, false),
    (0.75, true),
];

/// Recorded from scikit-learn 1.9.1: `brier_score_loss`, `roc_auc_score`, and `calibration_curve` with
/// `strategy="quantile"` and 5 bins: predicted 0.08, 0.28, 0.525, 0.705, 0.87; won 0, 0.5, 0.5, 0.5, 1.
#[test]
fn calibration_against_scikit_learn() {
    let bins = reliability(&PREDICTIONS, 5);
    let curve: Vec<(f64, f64)> = bins
        .iter()
        .map(|bin| {
            let sum: f64 = bin.iter().map(|(value, _)| value).sum();
            (sum / bin.len() as f64, won_share(bin))
        })
        .collect();
    let recorded = [
        (0.08, 0.0),
        (0.28, 0.5),
        (0.525, 0.5),
        (0.705, 0.5),
        (0.87, 1.0),
    ];
    for (found, expected) in curve.iter().zip(recorded) {
        assert!(
            (found.0 - expected.0).abs() < 1e-12 && found.1 == expected.1,
            "{curve:?}"
        );
    }
    assert_eq!(curve.len(), recorded.len());
    assert_eq!(area_under_curve(&PREDICTIONS), Some(0.88));
    assert!((brier_score(&PREDICTIONS).unwrap() - 0.1471).abs() < 1e-12);
}

/// Gaps 0.08, 0.22, 0.025, 0.205, 0.13, each with a weight of a fifth: 0.66/5.
#[test]
fn the_expected_calibration_error_by_hand() {
    assert!((expected_calibration_error(&PREDICTIONS, 5).unwrap() - 0.132).abs() < 1e-12);
    assert_eq!(
        (expected_calibration_error(&[], 5), brier_score(&[])),
        (None, None)
    );
}

/// Three of five values are equal, so all three are in the first of two bins.
#[test]
fn equal_values_stay_in_one_bin() {
    let values = [
        (0.5, true),
        (0.9, true),
        (0.5, false),
        (0.7, false),
        (0.5, true),
    ];
    let lengths: Vec<usize> = reliability(&values, 2).iter().map(Vec::len).collect();
    assert_eq!(lengths, [3, 2]);
    assert_eq!(reliability(&values[..1], 10).len(), 1);
    assert!(reliability(&[], 10).is_empty());
}

#[test]
fn one_candidate_is_played_once_for_all_scorers() {
    let scorers = [Scorer::AfterValue, Scorer::Random];
    let first = "greedy sampled sampled-2 sampled-3 after_value-k2 random-k2 ";
    for (with_beams, rest) in [
        (false, "after_value-k3 random-k3"),
        (true, "beam-k2 after_value-k3 random-k3 beam-k3"),
    ] {
        let stores: Vec<String> = SweepSetting::all(&[2, 1, 3, 2], &scorers, with_beams)
            .into_iter()
            .map(SweepSetting::store)
            .collect();
        assert_eq!(stores.join(" "), format!("{first}{rest}"));
    }
    let beam = SweepSetting::Beam(3).protocol(Protocol::default());
    assert_eq!(
        (beam.best_of, beam.search),
        (3, Some(Search::Beam { width: 3 }))
    );
}

/// If the environment fails in the second episode, the first one is kept, with the cost of both.
#[test]
fn a_repeated_game_has_the_cost_of_both_episodes() {
    let before = episode("a", Outcome::TurnLimit, &[(0.5, 0.25), (0.25, 0.0)]);
    let won = merge_attempts(&before, episode("a", Outcome::Success, &[(0.75, 0.75)]));
    assert_eq!((won.outcome, won.turns.len()), (Outcome::Success, 1));
    assert_eq!(won.spent.completions, before.spent.completions + 4);
    assert_eq!(won.seconds, 2.0 * before.seconds);
    let lost = merge_attempts(&before, episode("a", Outcome::EnvFailed, &[(0.75, 0.75)]));
    assert_eq!(
        (lost.outcome, lost.turns.len(), lost.spent),
        (Outcome::TurnLimit, 2, won.spent)
    );
}

fn candidate(completion: &str, count: usize) -> Candidate {
    Candidate {
        completion: completion.into(),
        score: 0.0,
        count,
        logprob: None,
        log_ratio: None,
        after_value: None,
        tokens: Vec::new(),
        returns: Vec::new(),
    }
}

fn episode(game: &str, outcome: Outcome, turns: &[(f32, f32)]) -> Trajectory {
    Trajectory {
        format: Trajectory::FORMAT,
        game: game.into(),
        game_hash: game.into(),
        split: Split::ValidSeen,
        task_type: None,
        repetition: 0,
        seed: 0,
        policy: "p".into(),
        value_policy: None,
        protocol: Protocol::default(),
        turns: turns
            .iter()
            .map(|(value, after_value)| Turn {
                value: Some(*value),
                after_value: Some(*after_value),
                candidates: vec![candidate("look", 3), candidate("inventory", 1)],
                ..Turn::default()
            })
            .collect(),
        last_observation: String::new(),
        outcome,
        reward: outcome.reward(),
        failure: None,
        seconds: 2.0,
        spent: Spent {
            completions: 4 * turns.len(),
            tokens: 20,
            commands: turns.len(),
        },
        branch: None,
    }
}

/// Two games are counted, one won in one turn and one lost in two. The third is not counted, because
/// its environment failed.
#[test]
fn a_run_is_counted_with_its_cost() {
    let played = [
        episode("a", Outcome::Success, &[(0.75, 0.75)]),
        episode("b", Outcome::TurnLimit, &[(0.5, 0.25), (0.25, 0.0)]),
        episode("c", Outcome::EnvFailed, &[(0.5, 0.5)]),
    ];
    let greedy = [
        episode("a", Outcome::Failure, &[]),
        episode("b", Outcome::Failure, &[]),
    ];
    let setting = SweepSetting::BestOf(4, Scorer::Random);
    let rows = rows(setting, &played, &Baseline::new("greedy", &greedy));
    let [row] = &rows[..] else {
        panic!("one split: {rows:?}")
    };
    assert_eq!(
        (row.scorer, row.k, row.n, row.successes, row.env_failed),
        ("random", 4, 2, 1, 1)
    );
    assert_eq!((row.won_alone, row.lost_alone), (Some(1), Some(0)));
    assert!(
        row.p_value.is_some_and(|p| (p - 1.0).abs() < 1e-9),
        "{:?}",
        row.p_value
    );
    assert_eq!((row.mean_turns, row.distinct_share), (1.5, 0.5));
    assert_eq!(
        (row.completions, row.tokens, row.commands, row.seconds),
        (6.0, 20.0, 1.5, 2.0)
    );

    let calibration = calibration(setting, &played);
    let all: Vec<&CalibrationRow> = calibration
        .iter()
        .filter(|row| row.part == CalibrationGroup::All)
        .collect();
    let found: Vec<_> = all
        .iter()
        .map(|row| (row.n, row.mean_prediction, row.auc))
        .collect();
    assert_eq!(found, [(3, 0.5, Some(1.0)), (3, 1.0 / 3.0, Some(1.0))]);
    assert!(all.iter().all(|row| row.auc_given_turn == Some(1.0)));
    // V: (0.25² + 0.5² + 0.25²)/3; U: (0.25² + 0.25² + 0)/3.
    let brier: Vec<f64> = all.iter().map(|row| row.brier).collect();
    assert_eq!(brier, [0.375 / 3.0, 0.125 / 3.0]);
    assert_eq!(
        calibration
            .iter()
            .filter(|row| row.part == CalibrationGroup::Bin && row.reading == ValueEstimate::V)
            .count(),
        3
    );
    assert_eq!(
        calibration
            .iter()
            .filter(|row| row.part == CalibrationGroup::Turns)
            .count(),
        2,
        "all in the first five turns"
    );
}
