//! The keys and values of a sequence in one layer, in f32 or rounded to f16.

use crate::simd::{Simd, WIDTH};
use half::f16;

/// The keys and values of a sequence in one layer, in one number format: f32 by default.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerKv(pub(super) Formatted);

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Formatted {
    F32(KvNumbers<f32>),
    /// f16, given by its bits. What is larger than f16 can express becomes its largest number.
    F16(KvNumbers<u16>),
}

impl Default for LayerKv {
    fn default() -> Self {
        Self(Formatted::F32(KvNumbers::default()))
    }
}

impl LayerKv {
    /// Returns an empty cache that rounds to f16.
    #[must_use]
    pub fn f16() -> Self {
        Self(Formatted::F16(KvNumbers::default()))
    }

    /// Appends the keys and values of one token, `[kv]` each. The first allocation has room for `capacity` tokens.
    pub fn push(&mut self, keys: &[f32], values: &[f32], capacity: usize) {
        match &mut self.0 {
            Formatted::F32(numbers) => numbers.push(keys, values, capacity),
            Formatted::F16(numbers) => numbers.push(keys, values, capacity),
        }
    }

    /// Appends what follows.
    ///
    /// # Panics
    /// If the formats differ.
    pub fn append(&mut self, more: &Self) {
        match (&mut self.0, &more.0) {
            (Formatted::F32(numbers), Formatted::F32(more)) => numbers.append(more),
            (Formatted::F16(numbers), Formatted::F16(more)) => numbers.append(more),
            _ => panic!("the caches of a sequence have one format"),
        }
    }
}

/// Keys and values in one number format.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct KvNumbers<E> {
    /// `[blocks, kv]`: the numbers of sixteen tokens are adjacent.
    pub(super) keys: Vec<[E; WIDTH]>,
    /// `[tokens, kv]`.
    pub(super) values: Vec<E>,
    tokens: usize,
    /// Whether an infinity or a NaN was stored in a format that does not keep it. The results of attention are then NaN.
    pub(super) is_broken: bool,
}

impl<E> Default for KvNumbers<E> {
    fn default() -> Self {
        Self {
            keys: Vec::new(),
            values: Vec::new(),
            tokens: 0,
            is_broken: false,
        }
    }
}

impl<E: CacheNumber> KvNumbers<E> {
    fn push(&mut self, keys: &[f32], values: &[f32], capacity: usize) {
        self.is_broken |= !keys.iter().chain(values).all(E::has);
        reserve(&mut self.values, values.len(), capacity * values.len());
        self.values.extend(values.iter().map(E::from_f32));
        self.push_keys(keys.iter().map(E::from_f32), capacity);
    }

    fn push_keys(&mut self, keys: impl ExactSizeIterator<Item = E>, capacity: usize) {
        let block = self.tokens / WIDTH * keys.len();
        let lane = self.tokens % WIDTH;
        if lane == 0 {
            let capacity = capacity.div_ceil(WIDTH) * keys.len();
            reserve(&mut self.keys, keys.len(), capacity);
            self.keys
                .resize(block + keys.len(), [E::from_f32(&0.0); WIDTH]);
        }
        for (out, key) in self.keys[block..].iter_mut().zip(keys) {
            out[lane] = key;
        }
        self.tokens += 1;
    }

    fn append(&mut self, more: &Self) {
        let kv = more.keys.len() / more.tokens.div_ceil(WIDTH).max(1);
        for token in 0..more.tokens {
            let keys = more.keys[token / WIDTH * kv..][..kv]
                .iter()
                .map(|lanes| lanes[token % WIDTH]);
            self.push_keys(keys, more.tokens);
        }
        reserve(&mut self.values, more.values.len(), 0);
        self.values.extend_from_slice(&more.values);
        self.is_broken |= more.is_broken;
    }
}

/// A number format of keys and values.
pub(super) trait CacheNumber: Copy {
    /// The numbers of a cache that has this format.
    fn of(cache: &LayerKv) -> &KvNumbers<Self>;
    /// Whether the format has this number, or one near it.
    fn has(number: &f32) -> bool;
    fn from_f32(number: &f32) -> Self;
    fn to_f32(self) -> f32;
    fn load<S: Simd>(simd: S, numbers: &[Self; WIDTH]) -> S::Vector;
}

impl CacheNumber for f32 {
    fn of(cache: &LayerKv) -> &KvNumbers<Self> {
        match &cache.0 {
            Formatted::F32(numbers) => numbers,
            Formatted::F16(_) => panic!("the caches of a sequence have one format"),
        }
    }

    fn has(_: &f32) -> bool {
        true
    }

    #[inline(always)]
    fn from_f32(number: &f32) -> Self {
        *number
    }

    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }

    #[inline(always)]
    fn load<S: Simd>(simd: S, numbers: &[Self; WIDTH]) -> S::Vector {
        simd.load(numbers)
    }
}

/// f16, given by its bits.
impl CacheNumber for u16 {
    fn of(cache: &LayerKv) -> &KvNumbers<Self> {
        match &cache.0 {
            Formatted::F16(numbers) => numbers,
            Formatted::F32(_) => panic!("the caches of a sequence have one format"),
        }
    }

    fn has(number: &f32) -> bool {
        number.is_finite() // the vectors of kernels::simd read finite f16 only
    }

    fn from_f32(number: &f32) -> Self {
        let largest = f16::MAX.to_f32();
        f16::from_f32(number.clamp(-largest, largest)).to_bits()
    }

    fn to_f32(self) -> f32 {
        f16::from_bits(self).to_f32()
    }

    #[inline(always)]
    fn load<S: Simd>(simd: S, numbers: &[Self; WIDTH]) -> S::Vector {
        simd.load_f16(numbers)
    }
}

/// Reserves room for `more` items. The first allocation has room for `capacity` items. Later the
/// room grows by a quarter, so that at most a fifth of a cache is unused.
pub fn reserve<T>(items: &mut Vec<T>, more: usize, capacity: usize) {
    let length = items.len() + more;
    if length > items.capacity() {
        let room = length.max(items.len() + items.len() / 4).max(capacity);
        items.reserve_exact(room - items.len());
    }
}
