//! What the numbers are worth: intervals and paired tests for success counts.
//!
//! Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927); McNemar, "Note on
//! the sampling error of the difference between correlated proportions", Psychometrika 12 (1947), in the exact
//! binomial form. Knows nothing of games, only counts.

use statrs::distribution::{Binomial, ContinuousCDF, DiscreteCDF, Normal};
use statrs::statistics::{Data, OrderStatistics};

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
    assert!(0.0 < confidence && confidence < 1.0, "confidence {confidence} is not inside (0, 1)");
    if n == 0 {
        return (0.0, 1.0);
    }
    let z = Normal::standard().inverse_cdf(f64::midpoint(1.0, confidence));
    let n = f64::from(n);
    let rate = f64::from(successes) / n;
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

/// How many games only the first policy won, and how many only the second: the `(b, c)` of [`mcnemar_exact`].
///
/// # Panics
/// When the two did not play the same number of games.
#[must_use]
pub fn discordant(first: &[bool], second: &[bool]) -> (u32, u32) {
    assert_eq!(first.len(), second.len(), "paired counts need the same games");
    let count = |won: bool| first.iter().zip(second).map(|(&a, &b)| u32::from(a == won && b != won)).sum();
    (count(true), count(false))
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
            (106, 134, 0.95, 0.714_579_636_236_659_3, 0.851_287_851_435_996_2),
            (0, 20, 0.95, 0.0, 0.161_125_158_052_819_38),
            (20, 20, 0.95, 0.838_874_841_947_180_6, 1.0),
            (3, 10, 0.99, 0.079_566_316_523_065_73, 0.679_975_320_798_897_4),
            (1, 2, 0.90, 0.120_866_319_422_273_6, 0.879_133_680_577_726_3),
        ];
        for (successes, n, confidence, expected_low, expected_high) in recorded {
            let (low, high) = wilson_interval(successes, n, confidence);
            assert!((low - expected_low).abs() < 1e-9, "{successes}/{n}: {low}");
            assert!((high - expected_high).abs() < 1e-9, "{successes}/{n}: {high}");
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

    #[test]
    fn discordant_counts_each_side() {
        let first = [true, true, false, false, true];
        let second = [true, false, true, false, false];
        assert_eq!(discordant(&first, &second), (2, 1));
        assert_eq!(discordant(&second, &first), (1, 2));
    }

    /// Won: 3, 2, 2; lost: 1, 2. Of six pairs 3>1, 3>2, 2>1, 2>1 and two ties: (4 + 2·½)/6 = 5/6.
    #[test]
    fn area_under_curve_by_hand() {
        let values = [(3.0, true), (1.0, false), (2.0, true), (2.0, false), (2.0, true)];
        assert_eq!(area_under_curve(&values), Some(5.0 / 6.0));
        assert_eq!(area_under_curve(&values[..1]), None);
        assert_eq!(area_under_curve(&[]), None);
    }

    #[test]
    fn quantile_by_hand() {
        assert_eq!(quantile(&[4.0, 1.0, 3.0], 0.5), Some(3.0));
        assert_eq!((quantile(&[7.0], 0.05), quantile(&[7.0], 0.95)), (Some(7.0), Some(7.0)));
        assert_eq!((quantile(&[], 0.5), quantile(&[1.0, f64::NAN], 0.5)), (None, None));
    }

    #[test]
    fn mean_by_hand() {
        assert_eq!(mean(&[1.0, 2.0, 6.0]), Some(3.0));
    }
}
