//! Tests of paired differences: over games by random signs, over runs by Student's t.

use super::{Resampling, mean};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use statrs::distribution::{ContinuousCDF, StudentsT};

/// Returns the two-sided p-value of the sign-flip permutation test (Fisher 1935) of paired
/// differences: the share of random signs whose sum is as far from 0 as the observed one. The
/// observed signs are one of the draws, so the result is at least 1/(1 + draws). Returns `None` if
/// there is no difference.
#[must_use]
pub fn sign_flip_test(differences: &[f64], resampling: Resampling) -> Option<f64> {
    if differences.is_empty() {
        return None;
    }
    let observed = differences.iter().sum::<f64>().abs();
    // Sums of the same numbers in another order may differ in the last bits.
    let reached = observed - 1e-9 * observed.max(1.0);
    let mut rng = StdRng::seed_from_u64(resampling.seed);
    let as_far = (0..resampling.count)
        .filter(|_| {
            let sum: f64 = differences
                .iter()
                .map(|difference| {
                    if rng.random::<bool>() {
                        *difference
                    } else {
                        -difference
                    }
                })
                .sum();
            sum.abs() >= reached
        })
        .count();
    Some((1 + as_far) as f64 / (1 + resampling.count) as f64)
}

/// Returns the two-sided p-value of the paired t-test (Student 1908): whether the mean of the
/// differences is 0. Returns `None` if there are fewer than two differences, or if all are equal.
#[must_use]
pub fn paired_t_test(differences: &[f64]) -> Option<f64> {
    let centre = mean(differences)?;
    let n = differences.len() as f64;
    let squares: f64 = differences.iter().map(|x| (x - centre).powi(2)).sum();
    let freedom = n - 1.0;
    if freedom < 1.0 || squares == 0.0 {
        return None;
    }
    let t = centre / (squares / freedom / n).sqrt();
    let student = StudentsT::new(0.0, 1.0, freedom).ok()?;
    Some(2.0 * student.cdf(-t.abs()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    /// With one degree of freedom p = 1 − 2/π atan t, with two p = 1 − t/√(2 + t²). The differences
    /// (1, 3) have t = 2, and (1, 2, 3) have t = 2√3.
    #[test]
    fn t_tests_by_hand() {
        let p = paired_t_test(&[1.0, 3.0]).unwrap();
        let expected = 1.0 - 2.0 / std::f64::consts::PI * 2.0_f64.atan();
        assert!((p - expected).abs() < 1e-9, "{p}");
        let p = paired_t_test(&[-1.0, -2.0, -3.0]).unwrap();
        let t = 2.0 * 3.0_f64.sqrt();
        assert!((p - (1.0 - t / (2.0 + t * t).sqrt())).abs() < 1e-9, "{p}");
        assert_eq!(paired_t_test(&[1.0]), None);
        assert_eq!(paired_t_test(&[0.5, 0.5]), None);
    }

    /// Of the eight signs of (1, 2, 4), only two reach |7|; of (1, -1, 0), every one reaches 0.
    #[test]
    fn random_signs_by_hand() {
        let p = sign_flip_test(&[1.0, 2.0, 4.0], Resampling::default()).unwrap();
        assert!((p - 0.25).abs() < 0.02, "{p}");
        let p = sign_flip_test(&[1.0, -1.0, 0.0], Resampling::default());
        assert_eq!(p, Some(1.0));
        let far = sign_flip_test(&[1.0; 40], Resampling::default()).unwrap();
        assert!((far - 1.0 / 10_001.0).abs() < 1e-12, "{far}");
        assert_eq!(sign_flip_test(&[], Resampling::default()), None);
    }
}
