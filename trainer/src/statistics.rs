//! Intervals and paired tests for success counts.
//!
//! Sources: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22
//! (1927). McNemar, "Note on the sampling error of the difference between correlated proportions",
//! Psychometrika 12 (1947), in the exact binomial form. Newcombe, "Improved confidence intervals for
//! the difference between binomial proportions based on paired data", Statistics in Medicine 17
//! (1998), method 10. Efron, "Bootstrap methods: another look at the jackknife", Annals of
//! Statistics 7 (1979), the percentile interval. Connor, "Sample size for testing differences in
//! proportions for the paired-sample design", Biometrics 43 (1987).
//!
//! The functions read counts only. Episodes of one game are not independent, so the unit that is
//! resampled and paired is the game with all its episodes, a [`GameTally`].

mod paired;
mod roc;

pub use paired::{paired_t_test, sign_flip_test};
pub use roc::{TurnPrediction, area_given_turn, area_under_curve};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use statrs::distribution::{Binomial, ContinuousCDF, DiscreteCDF, Normal};
use statrs::statistics::{Data, OrderStatistics, Statistics};

/// Returns the Wilson score interval `(low, high)` of a success rate, in [0, 1]. If there is no
/// trial, returns `(0, 1)`.
///
/// ```
/// let (low, high) = trainer::statistics::wilson_interval(106, 134, 0.95);
/// assert_eq!(format!("{low:.3} {high:.3}"), "0.715 0.851");
/// ```
///
/// # Panics
/// If `successes` exceeds `n`, or if `confidence` is not inside (0, 1).
#[must_use]
pub fn wilson_interval(successes: u32, n: u32, confidence: f64) -> (f64, f64) {
    assert!(successes <= n, "{successes} successes in {n} trials");
    assert!(
        0.0 < confidence && confidence < 1.0,
        "confidence {confidence} is not inside (0, 1)"
    );
    if n == 0 {
        return (0.0, 1.0);
    }
    wilson_of_rate(
        f64::from(successes) / f64::from(n),
        f64::from(n),
        confidence,
    )
}

/// Returns the Wilson score interval of a rate in [0, 1] over `n` > 0 independent trials. The number
/// of successes need not be an integer.
#[must_use]
pub fn wilson_of_rate(rate: f64, n: f64, confidence: f64) -> (f64, f64) {
    let z = Normal::standard().inverse_cdf(f64::midpoint(1.0, confidence));
    let scale = 1.0 + z * z / n;
    let centre = (rate + z * z / (2.0 * n)) / scale;
    let half = z / scale * (rate * (1.0 - rate) / n + z * z / (4.0 * n * n)).sqrt();
    ((centre - half).max(0.0), (centre + half).min(1.0))
}

/// Returns the two-sided exact p-value of McNemar's test for `b` games that only the first policy
/// won and `c` games that only the second won. It is the probability of a split at least as uneven
/// as `b` to `c` if each policy were equally likely to win each of these games. If there is no such
/// game, it is 1.
#[must_use]
pub fn mcnemar_exact(b: u32, c: u32) -> f64 {
    let discordant = u64::from(b) + u64::from(c);
    if discordant == 0 {
        return 1.0;
    }
    let coin = Binomial::new(0.5, discordant).expect("0.5 is a valid probability");
    (2.0 * coin.cdf(u64::from(b.min(c)))).min(1.0)
}

/// The counts of the episodes of one game.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GameTally {
    /// Number of won episodes.
    pub won: u32,
    /// Number of episodes that were played to an end.
    pub played: u32,
}

impl GameTally {
    /// Returns the share of the episodes that were won.
    #[must_use]
    pub fn rate(self) -> f64 {
        f64::from(self.won) / f64::from(self.played)
    }
}

/// A game that two policies played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GamePair {
    /// The counts of the first policy.
    pub first: GameTally,
    /// The counts of the second policy.
    pub second: GameTally,
}

/// The number of resamples of a bootstrap and their seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resampling {
    /// Number of resamples.
    pub count: usize,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for Resampling {
    fn default() -> Self {
        Self {
            count: 10_000,
            seed: 1,
        }
    }
}

/// Returns the share of all episodes that were won.
fn pooled_rate(tallies: impl Iterator<Item = GameTally>) -> f64 {
    let (won, played) = tallies.fold((0.0, 0.0), |(won, played), tally| {
        (won + f64::from(tally.won), played + f64::from(tally.played))
    });
    won / played
}

/// Returns the success rate of the first policy minus that of the second, in [-1, 1].
///
/// # Panics
/// If there is no game, or if a policy did not play one of them.
#[must_use]
pub fn difference(pairs: &[GamePair]) -> f64 {
    assert!(
        pairs
            .iter()
            .all(|pair| pair.first.played > 0 && pair.second.played > 0),
        "each policy must have played every game"
    );
    assert!(!pairs.is_empty(), "the difference needs at least one game");
    pooled_rate(pairs.iter().map(|pair| pair.first))
        - pooled_rate(pairs.iter().map(|pair| pair.second))
}

/// Returns the percentile bootstrap interval `(low, high)` of a success rate, resampled over games,
/// or `None` if there is no game.
///
/// If all games have the same share of wins, the interval is `(share, share)`. Do not use it then.
#[must_use]
pub fn bootstrap_interval(
    games: &[GameTally],
    confidence: f64,
    resampling: Resampling,
) -> Option<(f64, f64)> {
    bootstrap(
        games.len(),
        |drawn| pooled_rate(drawn.iter().map(|game| games[*game])),
        confidence,
        resampling,
    )
}

/// Returns the percentile bootstrap interval `(low, high)` of [`difference`], resampled over games,
/// or `None` if there is no game.
#[must_use]
pub fn bootstrap_difference(
    pairs: &[GamePair],
    confidence: f64,
    resampling: Resampling,
) -> Option<(f64, f64)> {
    bootstrap(
        pairs.len(),
        |drawn| {
            pooled_rate(drawn.iter().map(|game| pairs[*game].first))
                - pooled_rate(drawn.iter().map(|game| pairs[*game].second))
        },
        confidence,
        resampling,
    )
}

/// Returns the percentile bootstrap interval `(low, high)` of a ratio of sums, resampled over games,
/// or `None` if there is no game. Each game contributes to the numerator and the denominator, for
/// example the number of correct pairs and of pairs. Each denominator must be above 0.
#[must_use]
pub fn bootstrap_ratio(
    games: &[(f64, f64)],
    confidence: f64,
    resampling: Resampling,
) -> Option<(f64, f64)> {
    bootstrap(
        games.len(),
        |drawn| {
            let (above, below) = drawn.iter().fold((0.0, 0.0), |(above, below), game| {
                (above + games[*game].0, below + games[*game].1)
            });
            above / below
        },
        confidence,
        resampling,
    )
}

/// Returns the percentile interval of a statistic of `n` indices that are drawn from `0..n` with
/// replacement.
fn bootstrap(
    n: usize,
    statistic: impl Fn(&[usize]) -> f64,
    confidence: f64,
    resampling: Resampling,
) -> Option<(f64, f64)> {
    let mut rng = StdRng::seed_from_u64(resampling.seed);
    let mut drawn = vec![0; n];
    let mut statistics = Vec::new();
    if n > 0 {
        for _ in 0..resampling.count {
            drawn
                .iter_mut()
                .for_each(|index| *index = rng.random_range(0..n));
            statistics.push(statistic(&drawn));
        }
    }
    let tail = (1.0 - confidence) / 2.0;
    quantile(&statistics, tail).zip(quantile(&statistics, 1.0 - tail))
}

/// The 2 × 2 table of two policies on games that each of them played once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Paired {
    /// Number of games that both policies won.
    pub both: u32,
    /// Number of games that only the first policy won.
    pub first: u32,
    /// Number of games that only the second policy won.
    pub second: u32,
    /// Number of games that neither policy won.
    pub neither: u32,
}

/// Returns Newcombe's score interval `(low, high)` of the difference of two success rates on the
/// same games. It is method 10: Wilson's intervals are combined with the correlation of the table,
/// with its continuity correction. If there is no game, returns `(-1, 1)`.
///
/// If the policies never differ on a few games, this interval is still wide. A bootstrap interval
/// would have width 0.
///
/// # Panics
/// If `confidence` is not inside (0, 1).
#[must_use]
pub fn newcombe_interval(table: Paired, confidence: f64) -> (f64, f64) {
    let Paired {
        both,
        first,
        second,
        neither,
    } = table;
    let n = both + first + second + neither;
    if n == 0 {
        return (-1.0, 1.0);
    }
    let won_first = both + first;
    let won_second = both + second;
    let rates = [won_first, won_second].map(|won| f64::from(won) / f64::from(n));
    let [(low_1, high_1), (low_2, high_2)] =
        [won_first, won_second].map(|won| wilson_interval(won, n, confidence));
    let [a, b, c, d] = [both, first, second, neither].map(f64::from);
    let margins = (a + b) * (c + d) * (a + c) * (b + d);
    let determinant = a * d - b * c;
    let corrected = if determinant > 0.0 {
        (determinant - f64::from(n) / 2.0).max(0.0)
    } else {
        determinant
    };
    let correlation = if margins > 0.0 {
        corrected / margins.sqrt()
    } else {
        0.0
    };
    let difference = rates[0] - rates[1];
    let low = difference - distance(rates[0] - low_1, high_2 - rates[1], correlation);
    let high = difference + distance(high_1 - rates[0], rates[1] - low_2, correlation);
    (low.max(-1.0), high.min(1.0))
}

/// The distance of one end of Newcombe's interval from the difference: √(x² − 2φxy + y²) for the
/// correlation φ.
fn distance(x: f64, y: f64, correlation: f64) -> f64 {
    (x * x - 2.0 * correlation * x * y + y * y).max(0.0).sqrt()
}

/// Returns the smallest difference of two success rates that a paired comparison of `n` games
/// detects with probability `power` at a two-sided level `alpha`. The policies disagree on a share ψ
/// of the games. Returns `None` if not even a difference of ψ is detected.
///
/// Solves Connor's `n = (z_{1-α/2} √ψ + z_power √(ψ − δ²))² / δ²` for δ. With x = δ/√ψ,
/// the equation is `√n x − z_α = z_power √(1 − x²)`, a quadratic equation without ψ.
///
/// # Panics
/// If a share is out of range.
#[must_use]
pub fn minimum_detectable_difference(
    n: usize,
    discordant_share: f64,
    power: f64,
    alpha: f64,
) -> Option<f64> {
    assert!(
        (0.0..=1.0).contains(&discordant_share),
        "the discordant share {discordant_share} is not in [0, 1]"
    );
    let (z_alpha, z_power) = critical(power, alpha);
    let n = n as f64;
    if n < z_alpha * z_alpha {
        return None;
    }
    let root = (n + z_power * z_power - z_alpha * z_alpha).sqrt();
    let x = (n.sqrt() * z_alpha + z_power * root) / (n + z_power * z_power);
    let delta = x * discordant_share.sqrt();
    (delta > 0.0 && delta <= discordant_share).then_some(delta)
}

/// Returns the minimum detectable difference for games that were played several times, from the
/// difference of the win shares of each game: `δ = (z_{1-α/2} + z_power) s / √n`, as in the paired
/// z test. Returns `None` if there are fewer than two games, or if all differences are equal.
#[must_use]
pub fn minimum_detectable_mean(differences: &[f64], power: f64, alpha: f64) -> Option<f64> {
    let deviation = differences.std_dev();
    let (z_alpha, z_power) = critical(power, alpha);
    (deviation > 0.0).then(|| (z_alpha + z_power) * deviation / (differences.len() as f64).sqrt())
}

/// Returns the normal quantiles of a two-sided level and of a power.
fn critical(power: f64, alpha: f64) -> (f64, f64) {
    assert!(
        0.0 < alpha && alpha < 1.0 && alpha / 2.0 < power && power < 1.0,
        "power {power} and level {alpha} do not satisfy 0 < level < 1 and level / 2 < power < 1"
    );
    (
        Normal::standard().inverse_cdf(1.0 - alpha / 2.0),
        Normal::standard().inverse_cdf(power),
    )
}

/// Returns the arithmetic mean, or `None` if there are no values.
#[must_use]
pub fn mean(values: &[f64]) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
    let n = values.len() as f64;
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / n)
}

/// Returns the quantile of values at a rank in [0, 1], interpolated by the median-unbiased rule.
/// Returns `None` if there are no values, or if a value is not finite.
#[must_use]
pub fn quantile(values: &[f64], rank: f64) -> Option<f64> {
    let finite = !values.is_empty() && values.iter().all(|value| value.is_finite());
    finite.then(|| Data::new(values.to_vec()).quantile(rank))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Recorded from statsmodels 0.15.0, `proportion_confint(successes, n, 1 - confidence, "wilson")`.
    #[test]
    fn wilson_interval_against_statsmodels() {
        let recorded = [
            (
                106,
                134,
                0.95,
                0.714_579_636_236_659_3,
                0.851_287_851_435_996_2,
            ),
            (0, 20, 0.95, 0.0, 0.161_125_158_052_819_38),
            (20, 20, 0.95, 0.838_874_841_947_180_6, 1.0),
            (
                3,
                10,
                0.99,
                0.079_566_316_523_065_73,
                0.679_975_320_798_897_4,
            ),
            (1, 2, 0.90, 0.120_866_319_422_273_6, 0.879_133_680_577_726_3),
        ];
        for (successes, n, confidence, expected_low, expected_high) in recorded {
            let (low, high) = wilson_interval(successes, n, confidence);
            assert!((low - expected_low).abs() < 1e-9, "{successes}/{n}: {low}");
            assert!(
                (high - expected_high).abs() < 1e-9,
                "{successes}/{n}: {high}"
            );
        }
    }

    #[test]
    fn results_without_trials_are_neutral() {
        assert_eq!(wilson_interval(0, 0, 0.95), (0.0, 1.0));
        assert_eq!(mcnemar_exact(0, 0), 1.0);
        assert_eq!(mean(&[]), None);
    }

    /// 2·P(X ≤ 2 | 12 fair coins) = 2·(1 + 12 + 66)/4096 = 79/2048.
    #[test]
    fn mcnemar_by_hand() {
        assert!((mcnemar_exact(10, 2) - 79.0 / 2048.0).abs() < 1e-14);
    }

    /// Recorded from scipy 1.17.1, `binomtest(b, b + c, 0.5).pvalue`.
    #[test]
    fn mcnemar_against_scipy() {
        let recorded = [
            (10, 2, 0.038_574_218_75),
            (2, 10, 0.038_574_218_75),
            (5, 5, 1.0),
            (0, 6, 0.031_25),
            (37, 21, 0.047_940_324_071_666_984),
            (1, 0, 1.0),
            (300, 250, 0.036_578_745_549_102_676),
        ];
        for (b, c, expected) in recorded {
            let p = mcnemar_exact(b, c);
            assert!((p - expected).abs() < 1e-9, "{b} to {c}: {p}");
        }
    }

    /// The first case is in Newcombe's paper. The others were recorded from
    /// `tests/oracle/measures.py`.
    #[test]
    fn newcombe_interval_against_the_oracle() {
        let recorded = [
            (
                (36, 12, 2, 0),
                0.056_929_584_003_238_69,
                0.340_427_602_974_940_7,
            ),
            (
                (80, 26, 11, 17),
                0.023_131_076_455_147_656,
                0.198_968_401_950_984_59,
            ),
            (
                (0, 0, 0, 20),
                -0.161_125_158_052_819_38,
                0.161_125_158_052_819_38,
            ),
            (
                (20, 0, 0, 0),
                -0.161_125_158_052_819_35,
                0.161_125_158_052_819_35,
            ),
            (
                (5, 9, 3, 3),
                -0.025_555_572_206_970_69,
                0.553_359_965_547_655_3,
            ),
            (
                (1, 9, 9, 1),
                -0.380_805_255_015_654_3,
                0.380_805_255_015_654_3,
            ),
        ];
        for ((both, first, second, neither), expected_low, expected_high) in recorded {
            let (low, high) = newcombe_interval(
                Paired {
                    both,
                    first,
                    second,
                    neither,
                },
                0.95,
            );
            assert!(
                (low - expected_low).abs() < 1e-9,
                "{both} {first} {second} {neither}: {low}"
            );
            assert!(
                (high - expected_high).abs() < 1e-9,
                "{both} {first} {second} {neither}: {high}"
            );
        }
        assert_eq!(newcombe_interval(Paired::default(), 0.95), (-1.0, 1.0));
    }

    /// Six games: episodes won and played by the first policy, then by the second.
    const GAMES: [(u32, u32, u32, u32); 6] = [
        (3, 3, 1, 3),
        (2, 3, 2, 3),
        (0, 3, 1, 3),
        (3, 3, 0, 3),
        (1, 2, 0, 3),
        (2, 3, 3, 3),
    ];

    fn pairs(games: &[(u32, u32, u32, u32)]) -> Vec<GamePair> {
        games
            .iter()
            .map(|&(a, n, b, m)| GamePair {
                first: GameTally { won: a, played: n },
                second: GameTally { won: b, played: m },
            })
            .collect()
    }

    /// The difference is 11/17 − 7/18. The ends are those of the exact distribution over all 6⁶
    /// resamples in `tests/oracle/measures.py`. The levels are chosen so that the steps of that
    /// distribution are wide compared with the sampling noise.
    #[test]
    fn the_bootstrap_against_every_resample() {
        let pairs = pairs(&GAMES);
        assert!((difference(&pairs) - 0.258_169_934_640_522_9).abs() < 1e-12);
        let resampling = Resampling {
            count: 60_000,
            seed: 1,
        };
        let (low, high) = bootstrap_difference(&pairs, 0.92, resampling).unwrap();
        assert!(
            (low + 0.111_111_111_111_111_1).abs() < 1e-9
                && (high - 0.645_833_333_333_333_4).abs() < 1e-9
        );
        let first: Vec<GameTally> = pairs.iter().map(|pair| pair.first).collect();
        let (low, high) = bootstrap_interval(&first, 0.9, resampling).unwrap();
        assert!(
            (low - 0.388_888_888_888_888_9).abs() < 1e-9
                && (high - 0.882_352_941_176_470_6).abs() < 1e-9
        );
        assert_eq!(bootstrap_interval(&[], 0.9, resampling), None);
    }

    /// If the sums are won and played episodes, the ratio is the pooled success rate.
    #[test]
    fn the_bootstrap_of_a_ratio_is_that_of_a_rate() {
        let first: Vec<GameTally> = pairs(&GAMES).iter().map(|pair| pair.first).collect();
        let sums: Vec<(f64, f64)> = first
            .iter()
            .map(|game| (f64::from(game.won), f64::from(game.played)))
            .collect();
        let resampling = Resampling {
            count: 500,
            seed: 2,
        };
        assert_eq!(
            bootstrap_ratio(&sums, 0.9, resampling),
            bootstrap_interval(&first, 0.9, resampling)
        );
        assert_eq!(bootstrap_ratio(&[], 0.9, resampling), None);
    }

    /// 134 games that were played once, against `scipy.stats.bootstrap` with 100 000 resamples. If
    /// there are only 10 000 resamples, an end differs by one game at most.
    #[test]
    fn the_bootstrap_against_scipy() {
        let first = "11101011110101111111110111110011010101101000111111100101111110111100111111101111111110111001100011111001011111111111101011110111111101";
        let second = "00111001111001010001010000010110100111001111111100101111011101111000001100110010001001101110110001111001100010000110000110110101110110";
        let pairs: Vec<GamePair> = first
            .bytes()
            .zip(second.bytes())
            .map(|(a, b)| GamePair {
                first: once(a),
                second: once(b),
            })
            .collect();
        let default = Resampling::default();
        assert_near(
            bootstrap_difference(&pairs, 0.95, default).unwrap(),
            (0.111_940_298_507_462_68, 0.335_820_895_522_388_1),
        );
        let first: Vec<GameTally> = pairs.iter().map(|pair| pair.first).collect();
        assert_near(
            bootstrap_interval(&first, 0.95, default).unwrap(),
            (0.671_641_791_044_776_2, 0.820_895_522_388_059_7),
        );
    }

    fn once(won: u8) -> GameTally {
        GameTally {
            won: u32::from(won == b'1'),
            played: 1,
        }
    }

    /// Asserts that each end differs by at most one of 134 games.
    #[track_caller]
    fn assert_near((low, high): (f64, f64), expected: (f64, f64)) {
        let game = 1.0 / 134.0 + 1e-9;
        assert!(
            (low - expected.0).abs() < game && (high - expected.1).abs() < game,
            "{low} {high}"
        );
    }

    /// A game is drawn with all its episodes. If every episode is copied three times, the interval is
    /// the same.
    #[test]
    fn repetitions_of_a_game_stay_together() {
        let once: Vec<GameTally> = (0..20)
            .map(|game| GameTally {
                won: game % 2,
                played: 1,
            })
            .collect();
        let thrice: Vec<GameTally> = once
            .iter()
            .map(|game| GameTally {
                won: 3 * game.won,
                played: 3,
            })
            .collect();
        let resampling = Resampling {
            count: 2000,
            seed: 3,
        };
        let (low, high) = bootstrap_interval(&once, 0.95, resampling).unwrap();
        let (low_of_three, high_of_three) = bootstrap_interval(&thrice, 0.95, resampling).unwrap();
        assert!((low - low_of_three).abs() < 1e-9 && (high - high_of_three).abs() < 1e-9);
        let (narrow, wide) = wilson_interval(30, 60, 0.95);
        assert!(
            high - low > 1.3 * (wide - narrow),
            "the interval if 60 episodes counted as 60 games"
        );
    }

    /// Roots of Connor's equation by scipy's `brentq`. The power of the exact test there is 0.76 to
    /// 0.77.
    #[test]
    fn minimum_detectable_difference_against_scipy() {
        let recorded = [
            (134, 0.25, 0.119_948_497_493_464_63),
            (200, 0.1, 0.062_276_798_776_992_92),
            (50, 0.4, 0.244_717_919_255_606_35),
            (400, 1.0, 0.139_666_805_801_014_15),
        ];
        for (n, share, expected) in recorded {
            let found = minimum_detectable_difference(n, share, 0.8, 0.05).unwrap();
            assert!(
                (found - expected).abs() < 1e-9,
                "{n} games, {share}: {found}"
            );
        }
        assert_eq!(
            minimum_detectable_difference(134, 0.0, 0.8, 0.05),
            None,
            "the policies never disagree"
        );
        assert_eq!(
            minimum_detectable_difference(134, 0.02, 0.8, 0.05),
            None,
            "not even if one policy won all three games"
        );
        assert_eq!(minimum_detectable_difference(3, 1.0, 0.8, 0.05), None);

        let differences: Vec<f64> = pairs(&GAMES)
            .iter()
            .map(|pair| pair.first.rate() - pair.second.rate())
            .collect();
        let found = minimum_detectable_mean(&differences, 0.8, 0.05).unwrap();
        assert!((found - 0.635_094_645_364_544_9).abs() < 1e-9, "{found}");
        assert_eq!(minimum_detectable_mean(&[0.5], 0.8, 0.05), None);
    }

    #[test]
    fn quantile_by_hand() {
        assert_eq!(quantile(&[4.0, 1.0, 3.0], 0.5), Some(3.0));
        assert_eq!(
            (quantile(&[7.0], 0.05), quantile(&[7.0], 0.95)),
            (Some(7.0), Some(7.0))
        );
        assert_eq!(
            (quantile(&[], 0.5), quantile(&[1.0, f64::NAN], 0.5)),
            (None, None)
        );
    }

    #[test]
    fn mean_by_hand() {
        assert_eq!(mean(&[1.0, 2.0, 6.0]), Some(3.0));
    }
}
