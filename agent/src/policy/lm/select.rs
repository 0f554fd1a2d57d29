//! Best-of-K: which of the candidates of a turn to act on.

use rand::{RngExt, SeedableRng, rngs::StdRng};
use scenarios::seed::mixed_seed;

/// Takes the place of a turn number in the seed of [`random_score`]. No turn has this number.
const RANDOM_SCORES: u64 = 0x6368_6F69_6365;

/// Returns the index of the highest score. If several are equal, it returns the first.
///
/// ```
/// use agent::policy::lm::select::best;
/// assert_eq!(best(&[0.1, 0.7, 0.7]), 1);
/// ```
///
/// # Panics
/// Panics if `scores` is empty.
#[must_use]
pub fn best(scores: &[f32]) -> usize {
    assert!(!scores.is_empty(), "no candidate to choose from");
    (1..scores.len()).fold(0, |best, index| {
        if scores[index] > scores[best] {
            index
        } else {
            best
        }
    })
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

/// Returns the score of sample `index` under [`scenarios::Scorer::Random`]: uniform in [0, 1), from
/// the seed of the episode. It is independent of the random numbers that the sample was drawn with,
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
            chosen[best(&[0, 1, 2].map(|index| random_score(7, turn, index)))] += 1;
        }
        assert!(
            chosen.iter().all(|times| times.abs_diff(1000) < 78),
            "{chosen:?}"
        );
    }

    #[test]
    fn the_first_of_equal_scores_wins() {
        assert_eq!(best(&[0.1, 0.7, 0.7, -3.0]), 1);
        assert_eq!(best(&[f32::NAN, 0.2]), 0);
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
                    chance * f64::from(scores[best(&scores)])
                })
                .sum();
            assert!((success - (1.0 - (1.0 - p).powi(k))).abs() < 1e-12);
            assert!(success > last);
            last = success;
        }
    }
}
