//! Best-of-K: which of the candidates of a turn to act on.

use rand::{RngExt, SeedableRng, rngs::StdRng};
use scenarios::seed::mixed_seed;

/// Takes the place of a turn number in the seed of [`random_score`]. No turn has this number.
const RANDOM_SCORES: u64 = 0x6368_6F69_6365;

/// Returns the index of the highest score. If several are equal, it returns the first. NaN is lower
/// than every number. If all scores are NaN, or if there are none, it returns `None`.
///
/// ```
/// use agent::policy::lm::select::best;
/// assert_eq!(best(&[0.1, 0.7, 0.7]), Some(1));
/// assert_eq!(best(&[f32::NAN, -3.0]), Some(1));
/// assert_eq!(best(&[f32::NAN]), None);
/// ```
#[must_use]
pub fn best(scores: &[f32]) -> Option<usize> {
    let numbers = scores
        .iter()
        .enumerate()
        .filter(|(_, score)| !score.is_nan());
    numbers
        .reduce(|best, other| if other.1 > best.1 { other } else { best })
        .map(|(index, _)| index)
}

/// Returns, for each item, the index of the first item that is equal to it.
#[must_use]
pub fn first_equals<T: PartialEq>(items: &[T]) -> Vec<usize> {
    items
        .iter()
        .map(|item| {
            items
                .iter()
                .position(|other| other == item)
                .expect("an item equals itself")
        })
        .collect()
}

/// Returns the random score of sample `index`: uniform in [0, 1), from the seed of the episode. Under
/// [`scenarios::Scorer::Random`] a distinct candidate has the highest score of its samples, under
/// [`scenarios::Scorer::Distinct`] that of its first sample. The score is independent of the random numbers that the sample was drawn with,
/// so each of K samples has the highest score equally often, and the scores of the first k samples
/// do not depend on K.
#[must_use]
pub fn random_score(seed: u64, turn: u64, index: u64) -> f32 {
    StdRng::seed_from_u64(mixed_seed(mixed_seed(seed, turn, index), RANDOM_SCORES, 0)).random()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Over 3000 turns, each of three samples has the highest score a thousand times, within three
    /// standard deviations of 26.
    #[test]
    fn random_scores_are_uniform_over_the_samples() {
        let mut chosen = [0_usize; 3];
        for turn in 0..3000 {
            let scores = [0, 1, 2].map(|index| random_score(7, turn, index));
            chosen[best(&scores).unwrap()] += 1;
        }
        assert!(
            chosen.iter().all(|times| times.abs_diff(1000) < 78),
            "{chosen:?}"
        );
    }

    #[test]
    fn the_first_of_equal_scores_wins() {
        assert_eq!(best(&[0.1, 0.7, 0.7, -3.0]), Some(1));
    }

    /// In every order, a NaN is never taken if there is a number, minus infinity included.
    #[test]
    fn a_nan_never_wins_over_a_number() {
        let nan = f32::NAN;
        assert_eq!(best(&[nan, 0.2]), Some(1));
        assert_eq!(best(&[0.2, nan]), Some(0));
        assert_eq!(best(&[nan, 0.2, nan, 0.3, nan]), Some(3));
        assert_eq!(best(&[-nan, f32::NEG_INFINITY, nan]), Some(1));
        assert_eq!(best(&[nan, -nan]), None);
        assert_eq!(best(&[]), None);
    }

    #[test]
    fn repeated_candidates_are_scored_once() {
        assert_eq!(first_equals(&["a", "b", "a", "c", "b"]), [0, 1, 0, 3, 1]);
    }

    /// On a one-turn bandit with exact values, the success rate with K candidates is 1 − (1−p)^K
    /// (fact T14).
    #[test]
    fn exact_values_never_hurt_with_more_candidates() {
        let p: f64 = 0.3;
        let mut last = 0.0;
        for k in 1..=5 {
            let draws = 0..1_u32 << k;
            let success: f64 = draws
                .map(|bits| {
                    let scores: Vec<f32> = (0..k)
                        .map(|i| f32::from(u8::from(bits >> i & 1 == 1)))
                        .collect();
                    let chance: f64 = scores
                        .iter()
                        .map(|s| if *s > 0.0 { p } else { 1.0 - p })
                        .product();
                    chance * f64::from(scores[best(&scores).unwrap()])
                })
                .sum();
            assert!((success - (1.0 - (1.0 - p).powi(k))).abs() < 1e-12);
            assert!(success > last);
            last = success;
        }
    }
}
