//! Best-of-K: which of a turn's candidates to act on.

use rand::{RngExt, SeedableRng, rngs::StdRng};
use scenarios::seed::mixed_seed;

/// The index of the highest score; the first of equals.
///
/// # Panics
/// When there is nothing to choose from.
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

/// For each item, the index of the first item equal to it.
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

/// What [`scenarios::Scorer::Random`] chooses sample `index` of a turn by: uniform in [0, 1), from the episode's seed
/// alone, and from no number that the sample itself was drawn by. The highest of K is each of them equally often, and the
/// first k of K candidates keep their numbers.
#[must_use]
pub fn draw(seed: u64, turn: u64, index: u64) -> f32 {
    const CHOICE: u64 = 0x6368_6F69_6365; // no turn has this number
    StdRng::seed_from_u64(mixed_seed(mixed_seed(seed, turn, index), CHOICE, 0)).random()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 3000 turns: each of three samples is the highest a thousand times, give or take three standard deviations of 26.
    #[test]
    fn a_random_choice_favours_nobody() {
        let chosen = |turn| best(&[0, 1, 2].map(|index| draw(7, turn, index)));
        let chosen: Vec<usize> = (0..3000).map(chosen).collect();
        for index in 0..3 {
            let times = chosen.iter().filter(|chosen| **chosen == index).count();
            assert!(times.abs_diff(1000) < 78, "{index}: {times}");
        }
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

    /// On a one-turn bandit with exact values, success with K candidates is 1 − (1−p)^K (fact T14).
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
