//! What the numbers are worth: intervals and paired tests for success counts.
//!
//! Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927); McNemar, "Note on
//! the sampling error of the difference between correlated proportions", Psychometrika 12 (1947), in the exact
//! binomial form; Newcombe, "Improved confidence intervals for the difference between binomial proportions based on
//! paired data", Statistics in Medicine 17 (1998), method 10; Efron, "Bootstrap methods: another look at the
//! jackknife", Annals of Statistics 7 (1979), the percentile interval; Connor, "Sample size for testing differences in
//! proportions for the paired-sample design", Biometrics 43 (1987). Knows nothing of games, only counts.
//!
//! Episodes of one game are not independent, so what is resampled and paired is the game with all its episodes, a
//! [`Tally`].

use rand::{RngExt, SeedableRng, rngs::StdRng};
use statrs::distribution::{Binomial, ContinuousCDF, DiscreteCDF, Normal};
use statrs::statistics::{Data, OrderStatistics, Statistics};

/// The Wilson score interval `(low, high)` of a success rate, in [0, 1]; `(0, 1)` when nothing was tried.
///
/// ```
/// let (low, high) = trainer::statistics::wilson_interval(106, 134, 0.95);
/// assert_eq!(format!("{low:.3} {high:.3}"), "0.715 0.851");
/// ```
///
/// # Panics
/// When `successes` exceeds `n`, or `confidence` lies outside (0, 1).
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

/// The same of a rate in [0, 1] over `n` > 0 independent trials, whose successes need not be whole.
#[must_use]
pub fn wilson_of_rate(rate: f64, n: f64, confidence: f64) -> (f64, f64) {
    let z = Normal::standard().inverse_cdf(f64::midpoint(1.0, confidence));
    let scale = 1.0 + z * z / n;
    let centre = (rate + z * z / (2.0 * n)) / scale;
    let half = z / scale * (rate * (1.0 - rate) / n + z * z / (4.0 * n * n)).sqrt();
    ((centre - half).max(0.0), (centre + half).min(1.0))
}

/// Two-sided exact p-value of McNemar's test: of `b + c` games that only one of two policies won, how surprising is
/// a split as uneven as `b` to `c` if each side were equally likely. 1 when there is no such game.
#[must_use]
pub fn mcnemar_exact(b: u32, c: u32) -> f64 {
    let discordant = u64::from(b) + u64::from(c);
    if discordant == 0 {
        return 1.0;
    }
    let coin = Binomial::new(0.5, discordant).expect("a fair coin is a distribution");
    (2.0 * coin.cdf(u64::from(b.min(c)))).min(1.0)
}

/// The episodes of one game.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Episodes that were won.
    pub won: u32,
    /// Episodes that were played to an end.
    pub played: u32,
}

impl Tally {
    /// Share of episodes won.
    #[must_use]
    pub fn rate(self) -> f64 {
        f64::from(self.won) / f64::from(self.played)
    }
}

/// A game that two policies played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// The first policy's episodes.
    pub first: Tally,
    /// The second policy's.
    pub second: Tally,
}

/// How often and from which seed a bootstrap draws.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resampling {
    /// Resamples.
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

/// Share of all episodes that were won.
fn pooled_rate(tallies: impl Iterator<Item = Tally>) -> f64 {
    let (won, played) = tallies.fold((0.0, 0.0), |(won, played), tally| {
        (won + f64::from(tally.won), played + f64::from(tally.played))
    });
    won / played
}

/// How much more of its episodes the first policy won than the second, in [-1, 1].
///
/// # Panics
/// When there is no game, or one that a policy did not play.
#[must_use]
pub fn difference(pairs: &[Pair]) -> f64 {
    assert!(
        pairs
            .iter()
            .all(|pair| pair.first.played > 0 && pair.second.played > 0),
        "both played every game"
    );
    assert!(!pairs.is_empty(), "no game is no difference");
    pooled_rate(pairs.iter().map(|pair| pair.first))
        - pooled_rate(pairs.iter().map(|pair| pair.second))
}

/// The percentile bootstrap interval `(low, high)` of a success rate, resampled over games; `None` of no game.
///
/// Of games that all have the same share of wins it says `(share, share)`, which no one should believe.
#[must_use]
pub fn bootstrap_interval(
    games: &[Tally],
    confidence: f64,
    resampling: Resampling,
) -> Option<(f64, f64)> {
    let rate = |drawn: &[usize]| pooled_rate(drawn.iter().map(|game| games[*game]));
    bootstrap(games.len(), rate, confidence, resampling)
}

/// The percentile bootstrap interval `(low, high)` of [`difference`], resampled over games; `None` of no game.
#[must_use]
pub fn bootstrap_difference(
    pairs: &[Pair],
    confidence: f64,
    resampling: Resampling,
) -> Option<(f64, f64)> {
    let rate = |drawn: &[usize], of: fn(&Pair) -> Tally| {
        pooled_rate(drawn.iter().map(|game| of(&pairs[*game])))
    };
    let statistic =
        |drawn: &[usize]| rate(drawn, |pair| pair.first) - rate(drawn, |pair| pair.second);
    bootstrap(pairs.len(), statistic, confidence, resampling)
}

/// Quantiles of a statistic of `n` indices that are drawn from `0..n` with replacement.
fn bootstrap(
    n: usize,
    statistic: impl Fn(&[usize]) -> f64,
    confidence: f64,
    resampling: Resampling,
) -> Option<(f64, f64)> {
    let mut rng = StdRng::seed_from_u64(resampling.seed);
    let mut drawn = vec![0; n];
    let mut resample = || {
        drawn
            .iter_mut()
            .for_each(|index| *index = rng.random_range(0..n));
        statistic(&drawn)
    };
    let statistics: Vec<f64> = if n == 0 {
        Vec::new()
    } else {
        (0..resampling.count).map(|_| resample()).collect()
    };
    let tail = (1.0 - confidence) / 2.0;
    quantile(&statistics, tail).zip(quantile(&statistics, 1.0 - tail))
}

/// What two policies did on games that each played once: a 2 × 2 table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Paired {
    /// Games that both won.
    pub both: u32,
    /// Games that only the first won.
    pub first: u32,
    /// Games that only the second won.
    pub second: u32,
    /// Games that neither won.
    pub neither: u32,
}

/// Newcombe's score interval `(low, high)` of the difference of two success rates on the same games (method 10: Wilson's
/// intervals joined by the tables' correlation, with its continuity correction); `(-1, 1)` of no game. Unlike a
/// bootstrap it knows that a few games without a difference prove little.
///
/// # Panics
/// When `confidence` lies outside (0, 1).
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
    let (won_first, won_second) = (both + first, both + second);
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
    let away = |x: f64, y: f64| (x * x - 2.0 * correlation * x * y + y * y).max(0.0).sqrt();
    let difference = rates[0] - rates[1];
    let low = difference - away(rates[0] - low_1, high_2 - rates[1]);
    let high = difference + away(high_1 - rates[0], rates[1] - low_2);
    (low.max(-1.0), high.min(1.0))
}

/// The smallest difference of two success rates that a paired comparison of `n` games finds with probability `power`, at
/// a two-sided level `alpha`, where the policies disagree on a share ψ of the games; `None` where not even a
/// difference of all of ψ is found.
///
/// Solves Connor's `n = (z_{1-α/2} √ψ + z_power √(ψ − δ²))² / δ²` for δ. With x = δ/√ψ that is
/// `√n x − z_α = z_power √(1 − x²)`, a quadratic equation without ψ.
///
/// # Panics
/// When a share lies outside its range.
#[must_use]
pub fn minimum_detectable_difference(
    n: usize,
    discordant_share: f64,
    power: f64,
    alpha: f64,
) -> Option<f64> {
    assert!(
        (0.0..=1.0).contains(&discordant_share),
        "a share of {discordant_share}"
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

/// The same for games that were played several times, from each game's difference of win shares:
/// `δ = (z_{1-α/2} + z_power) s / √n`, the paired z test's; `None` of fewer than two games, or where none differs.
#[must_use]
pub fn minimum_detectable_mean(differences: &[f64], power: f64, alpha: f64) -> Option<f64> {
    let deviation = differences.std_dev();
    let (z_alpha, z_power) = critical(power, alpha);
    (deviation > 0.0).then(|| (z_alpha + z_power) * deviation / (differences.len() as f64).sqrt())
}

/// The normal quantiles of a two-sided level and of a power.
fn critical(power: f64, alpha: f64) -> (f64, f64) {
    assert!(
        0.0 < alpha && alpha < 1.0 && alpha / 2.0 < power && power < 1.0,
        "power {power} at level {alpha}"
    );
    (
        Normal::standard().inverse_cdf(1.0 - alpha / 2.0),
        Normal::standard().inverse_cdf(power),
    )
}

/// Arithmetic mean; `None` of nothing.
#[must_use]
pub fn mean(values: &[f64]) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
    let n = values.len() as f64;
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / n)
}

/// The quantile of values at a rank in [0, 1], between neighbours by the median-unbiased rule; `None` of nothing or of
/// what is not a number.
#[must_use]
pub fn quantile(values: &[f64], rank: f64) -> Option<f64> {
    let finite = !values.is_empty() && values.iter().all(|value| value.is_finite());
    finite.then(|| Data::new(values.to_vec()).quantile(rank))
}

/// Area under the ROC curve: how often a value of a won trajectory exceeds one of a lost trajectory, ties counting half
/// (Mann & Whitney, Annals of Mathematical Statistics 18, 1947). `None` where one side is missing.
#[must_use]
pub fn area_under_curve(values: &[(f64, bool)]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let won = sorted.iter().filter(|(_, won)| *won).count() as f64;
    let lost = sorted.len() as f64 - won;
    let (mut below, mut pairs) = (0.0, 0.0);
    for ties in sorted.chunk_by(|a, b| a.0 == b.0) {
        let won_here = ties.iter().filter(|(_, won)| *won).count() as f64;
        let lost_here = ties.len() as f64 - won_here;
        pairs += won_here * (below + 0.5 * lost_here);
        below += lost_here;
    }
    (won > 0.0 && lost > 0.0).then(|| pairs / (won * lost))
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
    fn no_trial_says_nothing() {
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

    /// The first case is printed in Newcombe's paper, the others recorded from `tests/oracle/measures.py`.
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

    /// Six games: won and played by the first policy, then by the second.
    const GAMES: [(u32, u32, u32, u32); 6] = [
        (3, 3, 1, 3),
        (2, 3, 2, 3),
        (0, 3, 1, 3),
        (3, 3, 0, 3),
        (1, 2, 0, 3),
        (2, 3, 3, 3),
    ];

    fn pairs(games: &[(u32, u32, u32, u32)]) -> Vec<Pair> {
        let pair = |&(a, n, b, m): &_| Pair {
            first: Tally { won: a, played: n },
            second: Tally { won: b, played: m },
        };
        games.iter().map(pair).collect()
    }

    /// 11/17 − 7/18. The ends are those of the exact distribution, all 6⁶ resamples of `tests/oracle/measures.py`, at
    /// levels where its steps are wide beside the noise of so many draws.
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
        let first: Vec<Tally> = pairs.iter().map(|pair| pair.first).collect();
        let (low, high) = bootstrap_interval(&first, 0.9, resampling).unwrap();
        assert!(
            (low - 0.388_888_888_888_888_9).abs() < 1e-9
                && (high - 0.882_352_941_176_470_6).abs() < 1e-9
        );
        assert_eq!(bootstrap_interval(&[], 0.9, resampling), None);
    }

    /// 134 games, each once, against `scipy.stats.bootstrap` with 100 000 resamples; 10 000 draws put an end off by one
    /// game at most.
    #[test]
    fn the_bootstrap_against_scipy() {
        let first = "11101011110101111111110111110011010101101000111111100101111110111100111111101111111110111001100011111001011111111111101011110111111101";
        let second = "00111001111001010001010000010110100111001111111100101111011101111000001100110010001001101110110001111001100010000110000110110101110110";
        let once = |won: u8| Tally {
            won: u32::from(won == b'1'),
            played: 1,
        };
        let games = first.bytes().zip(second.bytes());
        let pairs: Vec<Pair> = games
            .map(|(a, b)| Pair {
                first: once(a),
                second: once(b),
            })
            .collect();
        let near = |(low, high): (f64, f64), expected: (f64, f64)| {
            let game = 1.0 / 134.0 + 1e-9;
            assert!(
                (low - expected.0).abs() < game && (high - expected.1).abs() < game,
                "{low} {high}"
            );
        };
        let default = Resampling::default();
        near(
            bootstrap_difference(&pairs, 0.95, default).unwrap(),
            (0.111_940_298_507_462_68, 0.335_820_895_522_388_1),
        );
        let first: Vec<Tally> = pairs.iter().map(|pair| pair.first).collect();
        near(
            bootstrap_interval(&first, 0.95, default).unwrap(),
            (0.671_641_791_044_776_2, 0.820_895_522_388_059_7),
        );
    }

    /// A game with all its episodes is drawn or not: three copies of every episode tell no more than one.
    #[test]
    fn repetitions_of_a_game_stay_together() {
        let once: Vec<Tally> = (0..20)
            .map(|game| Tally {
                won: game % 2,
                played: 1,
            })
            .collect();
        let thrice: Vec<Tally> = once
            .iter()
            .map(|game| Tally {
                won: 3 * game.won,
                played: 3,
            })
            .collect();
        let interval = |games: &[Tally]| {
            bootstrap_interval(
                games,
                0.95,
                Resampling {
                    count: 2000,
                    seed: 3,
                },
            )
            .unwrap()
        };
        let ((low, high), (low_of_three, high_of_three)) = (interval(&once), interval(&thrice));
        assert!((low - low_of_three).abs() < 1e-9 && (high - high_of_three).abs() < 1e-9);
        let (narrow, wide) = wilson_interval(30, 60, 0.95);
        assert!(
            high - low > 1.3 * (wide - narrow),
            "what counting 60 episodes as 60 games would say"
        );
    }

    /// Roots of Connor's equation by scipy's `brentq`; the exact test's power there is 0.76 to 0.77.
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
            "policies that never disagree"
        );
        assert_eq!(
            minimum_detectable_difference(134, 0.02, 0.8, 0.05),
            None,
            "not even if one won all three games"
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

    /// Won: 3, 2, 2; lost: 1, 2. Of six pairs 3>1, 3>2, 2>1, 2>1 and two ties: (4 + 2·½)/6 = 5/6.
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
