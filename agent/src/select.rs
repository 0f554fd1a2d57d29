//! Best-of-K: which of a turn's candidates to act on.

/// The index of the highest score; the first of equals.
///
/// # Panics
/// When there is nothing to choose from.
#[must_use]
pub fn best(scores: &[f32]) -> usize {
    assert!(!scores.is_empty(), "no candidate to choose from");
    (1..scores.len()).fold(0, |best, index| if scores[index] > scores[best] { index } else { best })
}

/// For each item, the index of the first item equal to it.
#[must_use]
pub fn first_equals<T: PartialEq>(items: &[T]) -> Vec<usize> {
    items.iter().map(|item| items.iter().position(|other| other == item).expect("an item equals itself")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
                    let scores: Vec<f32> = (0..k).map(|i| f32::from(u8::from(bits >> i & 1 == 1))).collect();
                    let chance: f64 = scores.iter().map(|s| if *s > 0.0 { p } else { 1.0 - p }).product();
                    chance * f64::from(scores[best(&scores)])
                })
                .sum();
            assert!((success - (1.0 - (1.0 - p).powi(k))).abs() < 1e-12);
            assert!(success > last);
            last = success;
        }
    }
}
