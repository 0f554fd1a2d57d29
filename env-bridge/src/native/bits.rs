//! Bit sets, stored in slices of 64-bit words.

/// Returns the number of words that hold `bits` bits.
pub(crate) fn words_for(bits: usize) -> usize {
    bits.div_ceil(64)
}

/// Returns whether a bit is set.
#[inline]
pub(crate) fn bit(words: &[u64], index: u32) -> bool {
    words[(index >> 6) as usize] >> (index & 63) & 1 == 1
}

/// Sets or clears a bit.
#[inline]
pub(crate) fn set_bit(words: &mut [u64], index: u32, value: bool) {
    let word = &mut words[(index >> 6) as usize];
    let mask = 1 << (index & 63);
    if value { *word |= mask } else { *word &= !mask }
}

/// An iterator over the set bits of a word, lowest first.
pub(crate) struct Bits(pub(crate) u64);

impl Iterator for Bits {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let bit = self.0.trailing_zeros() as usize;
        self.0 &= self.0 - 1;
        Some(bit)
    }
}
