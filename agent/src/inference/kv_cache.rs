//! KV caches, and the spans of tokens that a forward pass reads on top of them.

use super::cpu::{HostCache, HostPrefix, HostSpan};
use super::gpu::DeviceTrunk;
use super::pool::{CacheRows, DeviceSpan, FOREIGN_CACHE};

/// Keys and values of the tokens that were read so far.
///
/// A cache belongs to the trunk that first writes to it. If it is dropped, its memory is free again.
#[derive(Debug, Default)]
pub struct KvCache(CacheStorage);

#[derive(Debug, Default)]
enum CacheStorage {
    #[default]
    Empty,
    Host(HostCache),
    Device(CacheRows),
}

impl KvCache {
    /// Tokens that were read so far.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.0 {
            CacheStorage::Empty => 0,
            CacheStorage::Host(cache) => cache.len(),
            CacheStorage::Device(rows) => rows.len(),
        }
    }

    /// Whether no token was read yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends the cache of a candidate that was read on top of this one.
    ///
    /// # Panics
    /// If another trunk wrote the candidate's cache.
    pub fn append(&mut self, tail: Self) {
        match (&mut self.0, tail.0) {
            (_, CacheStorage::Empty) => {}
            (CacheStorage::Host(cache), CacheStorage::Host(tail)) => cache.append(tail),
            (CacheStorage::Device(rows), CacheStorage::Device(tail)) => rows.append(tail),
            (storage @ CacheStorage::Empty, tail) => *storage = tail,
            _ => panic!("{FOREIGN_CACHE}"),
        }
    }

    /// All tokens of this cache, as a prefix of a span.
    #[must_use]
    pub fn whole(&self) -> CachedPrefix<'_> {
        CachedPrefix {
            cache: self,
            tokens: self.len(),
        }
    }
}

/// The first tokens of a cache that precede a span. The span only reads them.
#[derive(Debug, Clone, Copy)]
pub struct CachedPrefix<'a> {
    /// The cache.
    pub cache: &'a KvCache,
    /// Number of its tokens that precede the span.
    pub tokens: usize,
}

/// New tokens of one sequence.
#[derive(Debug)]
pub struct Span<'a> {
    /// The tokens to read; at least one.
    pub tokens: &'a [u32],
    /// What precedes `cache`, in order.
    pub before: Vec<CachedPrefix<'a>>,
    /// The sequence's own cache; grows by `tokens`.
    pub cache: &'a mut KvCache,
}

impl<'a> Span<'a> {
    /// A span that nothing but its own cache precedes.
    pub fn new(tokens: &'a [u32], cache: &'a mut KvCache) -> Self {
        Self {
            tokens,
            before: Vec::new(),
            cache,
        }
    }

    /// The span for a trunk on the CPU.
    ///
    /// # Panics
    /// If a trunk on a device wrote one of the caches.
    pub(super) fn on_host(&mut self) -> HostSpan<'_> {
        let mut before = Vec::with_capacity(self.before.len());
        for prefix in &self.before {
            match &prefix.cache.0 {
                CacheStorage::Empty => {}
                CacheStorage::Host(cache) => before.push(HostPrefix {
                    cache,
                    tokens: prefix.tokens,
                }),
                CacheStorage::Device(_) => panic!("{FOREIGN_CACHE}"),
            }
        }
        if self.cache.is_empty() {
            self.cache.0 = CacheStorage::Host(HostCache::default());
        }
        let CacheStorage::Host(cache) = &mut self.cache.0 else {
            panic!("{FOREIGN_CACHE}")
        };
        HostSpan {
            tokens: self.tokens,
            before,
            cache,
        }
    }

    /// The span for `trunk`, on a device.
    ///
    /// # Panics
    /// If a trunk on the CPU wrote one of the caches.
    pub(super) fn on_device(&mut self, trunk: &DeviceTrunk) -> DeviceSpan<'_> {
        let mut before = Vec::with_capacity(self.before.len());
        for prefix in &self.before {
            match &prefix.cache.0 {
                CacheStorage::Empty => {}
                CacheStorage::Device(rows) => before.push(rows.first(prefix.tokens)),
                CacheStorage::Host(_) => panic!("{FOREIGN_CACHE}"),
            }
        }
        if self.cache.is_empty() {
            self.cache.0 = CacheStorage::Device(trunk.empty_cache());
        }
        let CacheStorage::Device(own) = &mut self.cache.0 else {
            panic!("{FOREIGN_CACHE}")
        };
        DeviceSpan {
            tokens: self.tokens,
            before,
            own,
        }
    }
}
