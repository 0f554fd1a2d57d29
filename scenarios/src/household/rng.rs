//! SplitMix64 (Steele, Lea, Flood 2014): the same seed makes the same games whatever version of a library is around.

/// A stream of draws.
#[derive(Debug, Clone)]
pub(super) struct Rng(u64);

impl Rng {
    /// A stream of its own for every list of words.
    pub(super) fn new(words: &[u64]) -> Self {
        words
            .iter()
            .fold(Self(0x5EED), |mut rng, &word| Self(rng.next() ^ word))
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in `0..bound`; the bias of the modulus is below 2⁻⁵⁰ for the small bounds used here.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    /// Uniform in `low..=high`.
    pub(super) fn within(&mut self, (low, high): (usize, usize)) -> usize {
        low + self.below(high - low + 1)
    }

    pub(super) fn percent(&mut self, chance: u32) -> bool {
        self.below(100) < chance as usize
    }

    pub(super) fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.below(items.len()))
    }

    /// An index drawn in proportion to its weight; `None` when all weights are zero.
    pub(super) fn weighted(&mut self, weights: &[u32]) -> Option<usize> {
        let total: usize = weights.iter().map(|&weight| weight as usize).sum();
        let drawn = self.below(total);
        let mut passed = 0;
        weights.iter().position(|&weight| {
            passed += weight as usize;
            drawn < passed
        })
    }

    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        for end in (1..items.len()).rev() {
            items.swap(end, self.below(end + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_shares() {
        let mut rng = Rng::new(&[1]);
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
    fn a_shuffle_keeps_everything_and_words_tell_streams_apart() {
        let mut items: Vec<usize> = (0..50).collect();
        Rng::new(&[1, 2]).shuffle(&mut items);
        assert!(!items.is_sorted());
        items.sort_unstable();
        assert_eq!(items, (0..50).collect::<Vec<_>>());
        let first = |words: &[u64]| Rng::new(words).next();
        assert_ne!(first(&[1, 2]), first(&[2, 1]));
        assert_ne!(first(&[1]), first(&[1, 0]));
    }
}
