//! The best-of-K laboratory: success against K and against what it cost, for every scorer, and what the values that
//! choose are worth as predictions.
//!
//! Calibration reads V and U as probabilities of winning, since the reward is 1 for a game that was won and else 0.
//! The Brier score is that of Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather
//! Review 78 (1950); the expected calibration error that of Naeini, Cooper & Hauskrecht, "Obtaining well calibrated
//! probabilities using Bayesian binning", AAAI 2015, over bins of equal count, because values lie close together. Turns of
//! one episode share its outcome, so that n turns are fewer than n independent trials. Knows trajectories alone, not how
//! they are played.

use crate::measure::compare::Baseline;
use crate::measure::evaluate;
use crate::measure::statistics::area_under_curve;
use scenarios::{Outcome, Protocol, Scorer, Search, Spent, Split, Trajectory, Turn};
use serde::Serialize;

/// Bins of a reliability table.
const BINS: usize = 10;
/// The first turn of each group of turns whose AUC is told, the last of which is open.
const TURNS: [usize; 5] = [0, 5, 10, 20, 30];

/// What one run of every game is: a scorer and a K. With one candidate there is nothing to choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SweepSetting {
    /// K = 1 at temperature 0.
    Greedy,
    /// K = 1 at the laboratory's temperature: the first candidate of every other run's first turn.
    Sampled,
    /// Up to K above 1 episodes of one sample a turn, until one is won: what K is held against, and a search with it. The
    /// reward tells when to end, as it tells a search.
    Repeated(usize),
    /// The best of K above 1.
    BestOf(usize, Scorer),
    /// A beam of K above 1 states, each given K candidates, in copies of the world.
    Beam(usize),
}

impl SweepSetting {
    /// Every run of a laboratory, the cheap ones first: greedy play, one sample, that repeated, then each K by each
    /// scorer and, with beams, in one.
    #[must_use]
    pub fn all(ks: &[usize], scorers: &[Scorer], with_beams: bool) -> Vec<Self> {
        let mut ks = ks.to_vec();
        ks.sort_unstable();
        ks.dedup();
        ks.retain(|k| *k > 1);
        let repeated = ks.iter().map(|k| Self::Repeated(*k));
        let best = ks.iter().flat_map(|k| {
            let beam = with_beams.then_some(Self::Beam(*k));
            scorers
                .iter()
                .map(|scorer| Self::BestOf(*k, *scorer))
                .chain(beam)
        });
        [Self::Greedy, Self::Sampled]
            .into_iter()
            .chain(repeated)
            .chain(best)
            .collect()
    }

    /// What is chosen by; where nothing is, how it is played.
    #[must_use]
    pub fn scorer(self) -> &'static str {
        match self {
            Self::Greedy => "greedy",
            Self::Sampled => "sampled",
            Self::Repeated(_) => "repeated",
            Self::BestOf(_, scorer) => scorer.name(),
            Self::Beam(_) => "beam",
        }
    }

    /// K.
    #[must_use]
    pub fn k(self) -> usize {
        match self {
            Self::Greedy | Self::Sampled => 1,
            Self::Repeated(k) | Self::BestOf(k, _) | Self::Beam(k) => k,
        }
    }

    /// The name of its store, without an extension; that of the last episode of a game that is repeated.
    #[must_use]
    pub fn store(self) -> String {
        match self {
            Self::Greedy | Self::Sampled => self.scorer().into(),
            Self::Repeated(k) => format!("sampled-{k}"),
            Self::BestOf(..) | Self::Beam(_) => format!("{}-k{}", self.scorer(), self.k()),
        }
    }

    /// This protocol with its K, its scorer, and temperature 0 where it is greedy.
    #[must_use]
    pub fn protocol(self, protocol: Protocol) -> Protocol {
        match self {
            Self::Greedy => Protocol {
                temperature: 0.0,
                best_of: 1,
                ..protocol
            },
            Self::Sampled | Self::Repeated(_) => Protocol {
                best_of: 1,
                ..protocol
            },
            Self::BestOf(best_of, scorer) => Protocol {
                best_of,
                scorer,
                ..protocol
            },
            Self::Beam(best_of) => Protocol {
                best_of,
                search: Some(Search::Beam { width: best_of }),
                ..protocol
            },
        }
    }
}

/// What stands for a game that is played again: the later episode, unless the world lost it, with what both have cost.
#[must_use]
pub fn again(before: &Trajectory, after: Trajectory) -> Trajectory {
    let spent = Spent {
        completions: before.spent.completions + after.spent.completions,
        tokens: before.spent.tokens + after.spent.tokens,
        commands: before.spent.commands + after.spent.commands,
    };
    let seconds = before.seconds + after.seconds;
    let stands = if after.outcome == Outcome::EnvFailed {
        before.clone()
    } else {
        after
    };
    Trajectory {
        spent,
        seconds,
        ..stands
    }
}

/// A line of `lab.csv`: a setting on a split.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SweepRow {
    /// [`SweepSetting::scorer`].
    pub scorer: &'static str,
    /// Candidates a turn.
    pub k: usize,
    /// The split.
    pub split: Split,
    /// Games that were played to an end.
    pub n: usize,
    /// Games won.
    pub successes: usize,
    /// Share of them won.
    pub success_rate: f64,
    /// Lower end of the Wilson 95 % interval.
    pub low: f64,
    /// Upper end of the Wilson 95 % interval.
    pub high: f64,
    /// Games that this won and greedy play did not.
    pub won_alone: Option<u32>,
    /// Games that greedy play won and this did not.
    pub lost_alone: Option<u32>,
    /// Exact McNemar test of the two, two-sided.
    pub p_value: Option<f64>,
    /// Mean turns of an episode.
    pub mean_turns: f64,
    /// Mean over turns of distinct candidates / K.
    pub distinct_share: f64,
    /// Completions written in a game, those that were not acted on included.
    pub completions: f64,
    /// Tokens written in a game.
    pub tokens: f64,
    /// Commands performed in a game, in copies of the world too.
    pub commands: f64,
    /// Wall-clock seconds of a game, from reset to end, beside the others that were in flight.
    pub seconds: f64,
    /// Games lost to the world; they count in no other column.
    pub env_failed: usize,
}

/// The lines of one run, one a split, paired with greedy play.
#[must_use]
pub fn rows(setting: SweepSetting, played: &[Trajectory], greedy: &Baseline) -> Vec<SweepRow> {
    let mut table = evaluate::table(setting.scorer(), setting.k(), played);
    table.retain(|row| row.task_type.is_none());
    if setting != SweepSetting::Greedy {
        greedy.pair(&mut table, played);
    }
    let line = |row: evaluate::Row| {
        let ended = played
            .iter()
            .filter(|t| t.split == row.split && t.outcome != Outcome::EnvFailed);
        let mean = |of: &dyn Fn(&Trajectory) -> f64| {
            ended.clone().map(of).sum::<f64>() / row.n.max(1) as f64
        };
        let turns = ended.clone().flat_map(|trajectory| &trajectory.turns);
        let distinct = |turn: &Turn| turn.candidates.len().max(1) as f64 / setting.k() as f64;
        SweepRow {
            scorer: setting.scorer(),
            k: row.k,
            split: row.split,
            n: row.n,
            successes: row.successes,
            success_rate: row.success_rate,
            low: row.low,
            high: row.high,
            won_alone: row.won_alone,
            lost_alone: row.lost_alone,
            p_value: row.p_value,
            mean_turns: row.mean_turns,
            distinct_share: turns.clone().map(distinct).sum::<f64>() / turns.count().max(1) as f64,
            completions: mean(&|trajectory| trajectory.spent.completions as f64),
            tokens: mean(&|trajectory| trajectory.spent.tokens as f64),
            commands: mean(&|trajectory| trajectory.spent.commands as f64),
            seconds: mean(&|trajectory| trajectory.seconds),
            env_failed: row.env_failed,
        }
    };
    table.into_iter().map(line).collect()
}

/// Where the value network was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Reading {
    /// Before a completion.
    V,
    /// Just after the completion that was acted on.
    U,
}

/// Which turns a line of `calibration.csv` is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// All of them.
    All,
    /// Those with these numbers, from 0.
    Turns,
    /// Those with values between these, a tenth of all.
    Bin,
}

/// A line of `calibration.csv`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CalibrationRow {
    /// [`SweepSetting::scorer`].
    pub scorer: &'static str,
    /// Candidates a turn.
    pub k: usize,
    /// V or U.
    pub reading: Reading,
    /// Which turns.
    pub part: Part,
    /// The first turn, or the lowest value; empty for all.
    pub from: Option<f64>,
    /// The last turn, or the highest value; empty for all, and where it is open.
    pub to: Option<f64>,
    /// Turns.
    pub n: usize,
    /// Mean of the values.
    pub mean_prediction: f64,
    /// Share of the turns whose game was won.
    pub success_rate: f64,
    /// [`brier_score`].
    pub brier: f64,
    /// [`expected_calibration_error`]; of all turns alone.
    pub calibration_error: Option<f64>,
    /// [`area_under_curve`]; empty where all were won or none, and of a bin.
    pub auc: Option<f64>,
}

/// What V and U of every turn were worth, in one run; nothing where no value network looked on.
#[must_use]
pub fn calibration(setting: SweepSetting, played: &[Trajectory]) -> Vec<CalibrationRow> {
    [Reading::V, Reading::U]
        .into_iter()
        .flat_map(|reading| calibration_of(setting, reading, played))
        .collect()
}

fn calibration_of(
    setting: SweepSetting,
    reading: Reading,
    played: &[Trajectory],
) -> Vec<CalibrationRow> {
    let ended = played
        .iter()
        .filter(|trajectory| trajectory.outcome != Outcome::EnvFailed);
    let readings = ended.flat_map(|trajectory| {
        let won = trajectory.is_won();
        let value = move |turn: &Turn| match reading {
            Reading::V => turn.value,
            Reading::U => turn.after_value,
        };
        let turns = trajectory.turns.iter().enumerate();
        turns.filter_map(move |(turn, of)| Some((turn, (f64::from(value(of)?), won))))
    });
    let readings: Vec<(usize, (f64, bool))> = readings.collect();
    let all: Vec<(f64, bool)> = readings.iter().map(|(_, prediction)| *prediction).collect();
    if all.is_empty() {
        return Vec::new();
    }
    let row =
        |part: Part, (from, to): (Option<f64>, Option<f64>), of: &[(f64, bool)]| CalibrationRow {
            scorer: setting.scorer(),
            k: setting.k(),
            reading,
            part,
            from,
            to,
            n: of.len(),
            mean_prediction: of.iter().map(|(value, _)| value).sum::<f64>() / of.len() as f64,
            success_rate: won_share(of),
            brier: brier_score(of).expect("there are turns"),
            calibration_error: if part == Part::All {
                expected_calibration_error(of, BINS)
            } else {
                None
            },
            auc: if part == Part::Bin {
                None
            } else {
                area_under_curve(of)
            },
        };
    let mut rows = vec![row(Part::All, (None, None), &all)];
    for (index, from) in TURNS.into_iter().enumerate() {
        let below = TURNS.get(index + 1).copied();
        let is_inside = |turn: usize| turn >= from && below.is_none_or(|below| turn < below);
        let of: Vec<_> = readings
            .iter()
            .filter(|(turn, _)| is_inside(*turn))
            .map(|(_, of)| *of)
            .collect();
        if !of.is_empty() {
            rows.push(row(
                Part::Turns,
                (Some(from as f64), below.map(|below| (below - 1) as f64)),
                &of,
            ));
        }
    }
    rows.extend(reliability(&all, BINS).iter().map(|bin| {
        let ends = (
            bin.first().map(|(value, _)| *value),
            bin.last().map(|(value, _)| *value),
        );
        row(Part::Bin, ends, bin)
    }));
    rows
}

fn won_share(predictions: &[(f64, bool)]) -> f64 {
    predictions.iter().filter(|(_, won)| *won).count() as f64 / predictions.len() as f64
}

/// Mean squared distance of predictions to what came, 1 for a win and 0 else; 0 is best. `None` of nothing.
#[must_use]
pub fn brier_score(predictions: &[(f64, bool)]) -> Option<f64> {
    let squares = predictions
        .iter()
        .map(|(value, won)| (value - f64::from(u8::from(*won))).powi(2));
    (!predictions.is_empty()).then(|| squares.sum::<f64>() / predictions.len() as f64)
}

/// Predictions in at most `bins` bins of about equal count, by value; equal values stay together.
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
        found.last_mut().expect("one was just made").extend(ties);
        begun += ties.len();
    }
    found
}

/// Mean over bins of |mean prediction − share won|, each with its count as weight; 0 is best. `None` of nothing.
#[must_use]
pub fn expected_calibration_error(predictions: &[(f64, bool)], bins: usize) -> Option<f64> {
    let gap = |bin: &Vec<(f64, bool)>| {
        let sum: f64 = bin.iter().map(|(value, _)| value).sum();
        (sum - won_share(bin) * bin.len() as f64).abs()
    };
    let gaps: f64 = reliability(predictions, bins).iter().map(gap).sum();
    (!predictions.is_empty()).then(|| gaps / predictions.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use scenarios::Candidate;

    /// Values and outcomes of ten turns: in five bins of two.
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
        let mean = |bin: &Vec<(f64, bool)>| {
            bin.iter().map(|(value, _)| value).sum::<f64>() / bin.len() as f64
        };
        let curve: Vec<(f64, f64)> = bins.iter().map(|bin| (mean(bin), won_share(bin))).collect();
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

    /// Three of five values are equal: they fill the first of two bins and half of the second.
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
    fn one_candidate_is_played_once_for_all_choosers() {
        let scorers = [Scorer::AfterValue, Scorer::Random];
        let stores = |with_beams: bool| {
            let all = SweepSetting::all(&[2, 1, 3, 2], &scorers, with_beams);
            all.into_iter()
                .map(SweepSetting::store)
                .collect::<Vec<_>>()
                .join(" ")
        };
        let first = "greedy sampled sampled-2 sampled-3 after_value-k2 random-k2 ";
        assert_eq!(stores(false), format!("{first}after_value-k3 random-k3"));
        assert_eq!(
            stores(true),
            format!("{first}beam-k2 after_value-k3 random-k3 beam-k3")
        );
        let beam = SweepSetting::Beam(3).protocol(Protocol::default());
        assert_eq!(
            (beam.best_of, beam.search),
            (3, Some(Search::Beam { width: 3 }))
        );
    }

    /// A game that the world lost was played before all the same.
    #[test]
    fn a_game_that_is_played_again_has_cost_both() {
        let before = episode("a", Outcome::TurnLimit, &[(0.5, 0.25), (0.25, 0.0)]);
        let won = again(&before, episode("a", Outcome::Success, &[(0.75, 0.75)]));
        assert_eq!((won.outcome, won.turns.len()), (Outcome::Success, 1));
        assert_eq!(won.spent.completions, before.spent.completions + 4);
        assert_eq!(won.seconds, 2.0 * before.seconds);
        let lost = again(&before, episode("a", Outcome::EnvFailed, &[(0.75, 0.75)]));
        assert_eq!(
            (lost.outcome, lost.turns.len(), lost.spent),
            (Outcome::TurnLimit, 2, won.spent)
        );
    }

    fn episode(game: &str, outcome: Outcome, turns: &[(f32, f32)]) -> Trajectory {
        let candidate = |completion: &str, count| Candidate {
            completion: completion.into(),
            score: 0.0,
            count,
            logprob: None,
            log_ratio: None,
            after_value: None,
        };
        let turn = |(value, after_value): &(f32, f32)| Turn {
            value: Some(*value),
            after_value: Some(*after_value),
            candidates: vec![candidate("look", 3), candidate("inventory", 1)],
            ..Turn::default()
        };
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
            turns: turns.iter().map(turn).collect(),
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
        }
    }

    /// Two games, one won in one turn and one lost in two; a third is lost to the world and counts nowhere.
    #[test]
    fn a_run_is_counted_with_what_it_cost() {
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
            .filter(|row| row.part == Part::All)
            .collect();
        let found: Vec<_> = all
            .iter()
            .map(|row| (row.n, row.mean_prediction, row.auc))
            .collect();
        assert_eq!(found, [(3, 0.5, Some(1.0)), (3, 1.0 / 3.0, Some(1.0))]);
        // V: (0.25² + 0.5² + 0.25²)/3; U: (0.25² + 0.25² + 0)/3.
        let brier: Vec<f64> = all.iter().map(|row| row.brier).collect();
        assert_eq!(brier, [0.375 / 3.0, 0.125 / 3.0]);
        assert_eq!(
            calibration
                .iter()
                .filter(|row| row.part == Part::Bin && row.reading == Reading::V)
                .count(),
            3
        );
        assert_eq!(
            calibration
                .iter()
                .filter(|row| row.part == Part::Turns)
                .count(),
            2,
            "all in the first five turns"
        );
    }
}
