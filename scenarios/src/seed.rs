//! Random numbers that depend only on a seed: SplitMix64 (Steele, Lea, Flood 2014) and functions of
//! it.
//!
//! hearth implements SplitMix64 itself, so that a seed gives the same games, commands and hashes
//! even if a library changes its generator.

/// The increment of SplitMix64: 2⁶⁴ divided by the golden ratio.
const INCREMENT: u64 = 0x9E37_79B9_7F4A_7C15;

/// The output function of SplitMix64: returns a number in which every bit depends on all bits of
/// `z`.
#[must_use]
pub fn finish(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Returns the SplitMix64 output for `base` advanced by `steps` increments.
#[must_use]
pub fn spread(base: u64, steps: u64) -> u64 {
    finish(base.wrapping_add(steps.wrapping_mul(INCREMENT)))
}

/// Returns the seed of one candidate of one turn, derived from the seed of the episode.
#[must_use]
pub fn mixed_seed(seed: u64, turn: u64, candidate: u64) -> u64 {
    [turn, candidate].into_iter().fold(seed, |mixed, part| {
        finish(mixed ^ part.wrapping_add(1).wrapping_mul(INCREMENT))
    })
}

/// Returns a number that depends only on the seed and the word: FNV-1a over the bytes of the word,
/// then [`finish`].
pub(crate) fn of_word(seed: u64, word: &str) -> u64 {
    let hash = word
        .bytes()
        .fold(seed ^ 0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
    finish(hash)
}

/// A stream of random numbers.
#[derive(Debug, Clone)]
pub struct SplitMix64(pub u64);

impl SplitMix64 {
    /// Returns a stream for a list of numbers. Different lists give independent streams.
    #[must_use]
    pub fn new(words: &[u64]) -> Self {
        words
            .iter()
            .fold(Self(0x5EED), |mut rng, &word| Self(rng.next() ^ word))
    }

    /// Returns the next number, uniform in 64 bits.
    #[allow(
        clippy::should_implement_trait,
        reason = "an endless stream is not an iterator"
    )]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(INCREMENT);
        finish(self.0)
    }

    /// Returns a number, uniform in `0..bound`. If `bound` is 0, returns 0. The bias of the modulus
    /// is below 2⁻⁵⁰ for the small bounds used here.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    /// Returns a number, uniform in `low..=high`.
    pub fn within(&mut self, (low, high): (usize, usize)) -> usize {
        low + self.below(high - low + 1)
    }

    /// Returns true with this probability in percent.
    pub fn percent(&mut self, chance: u32) -> bool {
        self.below(100) < chance as usize
    }

    /// Returns a random item, or `None` if there are none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.below(items.len()))
    }

    /// Returns an index drawn in proportion to its weight, or `None` if all weights are zero.
    pub fn weighted(&mut self, weights: &[u32]) -> Option<usize> {
        let total: usize = weights.iter().map(|&weight| weight as usize).sum();
        let drawn = self.below(total);
        let mut passed = 0;
        weights.iter().position(|&weight| {
            passed += weight as usize;
            drawn < passed
        })
    }

    /// Shuffles the items in place (Fisher-Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for end in (1..items.len()).rev() {
            items.swap(end, self.below(end + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_drawn_in_proportion_to_their_weights() {
        let mut rng = SplitMix64::new(&[1]);
        let mut counts = [0; 3];
        for _ in 0..4000 {
            counts[rng.weighted(&[1, 0, 3]).unwrap()] += 1;
        }
        assert_eq!(counts[1], 0);
        assert!((900..1100).contains(&counts[0]), "{counts:?}");
        assert_eq!(rng.weighted(&[0, 0]), None);
        assert_eq!(rng.weighted(&[]), None);
    }

    #[test]
    fn a_shuffle_keeps_every_item_and_different_words_give_different_streams() {
        let mut items: Vec<usize> = (0..50).collect();
        SplitMix64::new(&[1, 2]).shuffle(&mut items);
        assert!(!items.is_sorted());
        items.sort_unstable();
        assert_eq!(items, (0..50).collect::<Vec<_>>());
        assert_ne!(
            SplitMix64::new(&[1, 2]).next(),
            SplitMix64::new(&[2, 1]).next()
        );
        assert_ne!(
            SplitMix64::new(&[1]).next(),
            SplitMix64::new(&[1, 0]).next()
        );
    }
}
