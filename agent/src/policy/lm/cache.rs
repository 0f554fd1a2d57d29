//! The cache budget and the prefix cache: how many tokens the KV caches of all episodes may hold,
//! and which prefixes several episodes share.
//!
//! A network reads the tokens of an episode into a [`NetworkContext`]: a shared prefix, then a KV
//! cache of the episode's own. A [`SharedPrefix`] can itself continue another one, so the caches of
//! a game form a tree.

use crate::inference::{CachedPrefix, KvCache, Span};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Number of prefixes that the prefix cache remembers.
const MAX_PREFIXES: usize = 64;

/// The number of tokens that the KV caches of all episodes may hold, and the number that they hold.
#[derive(Debug)]
pub(super) struct CacheBudget {
    /// Most tokens.
    pub(super) limit: usize,
    held: Arc<AtomicUsize>,
}

impl CacheBudget {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            held: Arc::default(),
        }
    }

    /// Returns the number of tokens that all leases hold now.
    pub(super) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Takes `tokens` tokens of the budget, even if the limit is then exceeded: admission checks
    /// the limit.
    pub(super) fn lease(&self, tokens: usize) -> BudgetLease {
        self.held.fetch_add(tokens, Ordering::Relaxed);
        BudgetLease {
            held: Arc::clone(&self.held),
            tokens,
        }
    }
}

/// A part of the cache budget. It is returned to the budget when the lease is dropped.
#[derive(Debug)]
pub(super) struct BudgetLease {
    held: Arc<AtomicUsize>,
    tokens: usize,
}

impl BudgetLease {
    pub(super) fn tokens(&self) -> usize {
        self.tokens
    }

    /// Changes the size of the lease.
    pub(super) fn set(&mut self, tokens: usize) {
        self.held.fetch_add(tokens, Ordering::Relaxed);
        self.held.fetch_sub(self.tokens, Ordering::Relaxed);
        self.tokens = tokens;
    }
}

impl Drop for BudgetLease {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// The KV cache of a prefix that several episodes share, and the hidden state at its end.
#[derive(Debug)]
pub(super) struct SharedPrefix {
    /// All tokens from the beginning of the sequence. Empty if the prefix is not in the prefix
    /// cache.
    pub(super) tokens: Vec<u32>,
    /// The prefix that this one continues.
    parent: Option<PrefixSlice>,
    /// The tokens after those of the parent.
    cache: KvCache,
    /// The hidden state after the last token, `[hidden]`.
    pub(super) last_state: Vec<f32>,
    _lease: BudgetLease,
}

impl SharedPrefix {
    /// Appends the caches that hold the first `tokens` tokens to `parts`.
    fn parts<'a>(&'a self, tokens: usize, parts: &mut Vec<CachedPrefix<'a>>) {
        let mut inherited = 0;
        if let Some(parent) = &self.parent {
            inherited = parent.tokens;
            parent.prefix.parts(tokens.min(inherited), parts);
        }
        if tokens > inherited {
            parts.push(CachedPrefix {
                cache: &self.cache,
                tokens: tokens - inherited,
            });
        }
    }

    /// Returns the first `tokens` tokens, as a slice of the prefix in whose own cache they end.
    pub(super) fn slice(self: &Arc<Self>, tokens: usize) -> PrefixSlice {
        match &self.parent {
            Some(parent) if tokens <= parent.tokens => parent.prefix.slice(tokens),
            _ => PrefixSlice {
                prefix: Arc::clone(self),
                tokens,
            },
        }
    }
}

/// The first tokens of a shared prefix.
#[derive(Debug, Clone)]
pub(super) struct PrefixSlice {
    prefix: Arc<SharedPrefix>,
    tokens: usize,
}

/// The tokens of an episode that one network has read.
#[derive(Debug, Default)]
pub(super) struct NetworkContext {
    /// The tokens before those of `cache`.
    shared: Option<PrefixSlice>,
    /// The episode's own KV cache.
    pub(super) cache: KvCache,
}

impl NetworkContext {
    /// Returns a context that contains a shared prefix and nothing else.
    pub(super) fn on(prefix: PrefixSlice) -> Self {
        Self {
            shared: Some(prefix),
            cache: KvCache::default(),
        }
    }

    /// Returns the number of tokens read, the shared ones included.
    pub(super) fn len(&self) -> usize {
        self.shared_tokens() + self.cache.len()
    }

    /// Returns the number of tokens in the shared prefix.
    pub(super) fn shared_tokens(&self) -> usize {
        self.shared.as_ref().map_or(0, |shared| shared.tokens)
    }

    /// Returns all caches of the context in order, to read a candidate after them.
    pub(super) fn parts(&self) -> Vec<CachedPrefix<'_>> {
        let mut parts = shared_parts(self.shared.as_ref());
        parts.push(self.cache.whole());
        parts
    }

    /// Returns the span of the tokens of `sequence` that were not read yet. There must be at least
    /// one.
    pub(super) fn unread<'a>(&'a mut self, sequence: &'a [u32]) -> Span<'a> {
        let tokens = &sequence[self.len()..];
        Span {
            tokens,
            before: shared_parts(self.shared.as_ref()),
            cache: &mut self.cache,
        }
    }

    /// Returns a context with the same shared prefix and another cache after it. The cache of
    /// `self` must be empty.
    pub(super) fn fork(&self, cache: KvCache) -> Self {
        Self {
            shared: self.shared.clone(),
            cache,
        }
    }

    /// Turns all that was read into a shared prefix, on which this context then continues.
    pub(super) fn publish(
        &mut self,
        budget: &CacheBudget,
        tokens: Vec<u32>,
        last_state: Vec<f32>,
    ) -> Arc<SharedPrefix> {
        let read = self.len();
        let cache = std::mem::take(&mut self.cache);
        let lease = budget.lease(cache.len());
        let prefix = Arc::new(SharedPrefix {
            tokens,
            parent: self.shared.take(),
            cache,
            last_state,
            _lease: lease,
        });
        self.shared = Some(PrefixSlice {
            prefix: Arc::clone(&prefix),
            tokens: read,
        });
        prefix
    }
}

fn shared_parts(shared: Option<&PrefixSlice>) -> Vec<CachedPrefix<'_>> {
    let mut parts = Vec::new();
    if let Some(slice) = shared {
        slice.prefix.parts(slice.tokens, &mut parts);
    }
    parts
}

/// One prefix as the policy and, if there is one, the value network have read it.
#[derive(Debug)]
pub(super) struct PrefixPair {
    pub(super) policy: Arc<SharedPrefix>,
    pub(super) value: Option<Arc<SharedPrefix>>,
}

/// The prefixes that later episodes can start from.
#[derive(Debug, Default)]
pub(super) struct PrefixCache(Vec<PrefixPair>);

impl PrefixCache {
    /// Returns the prefix that has the most first tokens in common with `sequence`, and the number
    /// of these tokens. If several have equally many, it returns the newest.
    pub(super) fn closest(&self, sequence: &[u32]) -> Option<(usize, &PrefixPair)> {
        self.0
            .iter()
            .map(|pair| (common_tokens(&pair.policy.tokens, sequence), pair))
            .max_by_key(|(common, _)| *common)
    }

    /// Adds a prefix. If the cache is full, the oldest is evicted.
    pub(super) fn insert(&mut self, pair: PrefixPair) {
        if self.0.len() >= MAX_PREFIXES {
            self.0.remove(0);
        }
        self.0.push(pair);
    }

    /// Evicts all prefixes. The memory of a prefix is free when no episode continues on it.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

fn common_tokens(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inference::PolicyInference;
    use crate::inference::device::Backend;
    use crate::model::config::DecoderConfig;
    use crate::model::weights::Weights;
    use scenarios::WeightFormat;

    fn network() -> PolicyInference {
        let config = DecoderConfig {
            vocab_size: 11,
            hidden_size: 8,
            intermediate_size: 12,
            num_hidden_layers: 2,
            num_attention_heads: 2,
            num_key_value_heads: 1,
            max_position_embeddings: 32,
            ..DecoderConfig::default()
        };
        let mut weights = Weights::random(&config, 5);
        PolicyInference::from_weights(&config, &mut weights, WeightFormat::Exact, &Backend::Cpu)
            .unwrap()
    }

    fn read(network: &PolicyInference, context: &mut NetworkContext, sequence: &[u32]) -> Vec<f32> {
        network.trunk.last_states(&mut [context.unread(sequence)])
    }

    fn unread_prefix(budget: &CacheBudget, tokens: &[u32]) -> PrefixPair {
        PrefixPair {
            policy: NetworkContext::default().publish(budget, tokens.to_vec(), Vec::new()),
            value: None,
        }
    }

    #[test]
    fn a_lease_returns_its_tokens_when_it_is_dropped() {
        let budget = CacheBudget::new(100);
        let mut first = budget.lease(30);
        let second = budget.lease(50);
        assert_eq!(budget.held(), 80);
        first.set(10);
        assert_eq!((first.tokens(), budget.held()), (10, 60));
        drop(second);
        assert_eq!(budget.held(), 10);
        drop(first);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn the_closest_prefix_has_the_most_tokens_in_common() {
        let budget = CacheBudget::new(100);
        let mut cache = PrefixCache::default();
        assert!(cache.closest(&[1, 2]).is_none());
        for tokens in [&[1, 2, 3][..], &[1, 2, 4, 5], &[9], &[1, 2, 4, 6]] {
            cache.insert(unread_prefix(&budget, tokens));
        }
        let (common, pair) = cache.closest(&[1, 2, 3, 4]).unwrap();
        assert_eq!((common, &pair.policy.tokens[..]), (3, &[1, 2, 3][..]));
        let (common, pair) = cache.closest(&[1, 2, 4]).unwrap();
        assert_eq!(
            (common, &pair.policy.tokens[..]),
            (3, &[1, 2, 4, 6][..]),
            "of two that are equally close, the newest"
        );
    }

    #[test]
    fn a_full_prefix_cache_evicts_the_oldest() {
        let budget = CacheBudget::new(100);
        let mut cache = PrefixCache::default();
        for token in 0..=MAX_PREFIXES as u32 {
            cache.insert(unread_prefix(&budget, &[token]));
        }
        let common = |token| cache.closest(&[token]).unwrap().0;
        assert_eq!((common(0), common(1), common(64)), (0, 1, 1));
        assert_eq!(cache.0.len(), MAX_PREFIXES);
    }

    /// One context reads four tokens and publishes them, reads two more and publishes again. The
    /// prefix of six tokens then continues that of four, and each slice is held by the prefix in
    /// whose cache it ends.
    #[test]
    fn a_prefix_continues_another_and_slices_end_in_the_right_one() {
        let network = network();
        let budget = CacheBudget::new(100);
        let tokens = [1, 2, 3, 4, 5, 6];
        let mut context = NetworkContext::default();
        read(&network, &mut context, &tokens[..4]);
        let short = context.publish(&budget, tokens[..4].to_vec(), Vec::new());
        read(&network, &mut context, &tokens);
        let long = context.publish(&budget, tokens.to_vec(), Vec::new());
        assert_eq!((context.len(), context.shared_tokens()), (6, 6));
        assert_eq!(budget.held(), 6);
        for (length, holder) in [(3, &short), (4, &short), (5, &long), (6, &long)] {
            let slice = long.slice(length);
            assert!(Arc::ptr_eq(&slice.prefix, holder), "{length}");
            let parts: Vec<usize> = shared_parts(Some(&slice))
                .iter()
                .map(|part| part.tokens)
                .collect();
            assert_eq!(parts.iter().sum::<usize>(), length);
        }
        drop((context, long));
        assert_eq!(budget.held(), 4, "the short prefix is still in use");
        drop(short);
        assert_eq!(budget.held(), 0);
    }

    /// The hidden state after the last token has the same bits, whether the sequence was read in
    /// one piece or after any slice of a shared prefix.
    #[test]
    fn a_shared_prefix_changes_no_number() {
        let network = network();
        let budget = CacheBudget::new(100);
        let tokens = [1, 2, 3, 4, 5, 6];
        let whole = read(&network, &mut NetworkContext::default(), &tokens);
        let mut context = NetworkContext::default();
        read(&network, &mut context, &tokens[..4]);
        let prefix = context.publish(&budget, tokens[..4].to_vec(), Vec::new());
        for length in 1..=4 {
            let mut other = NetworkContext::on(prefix.slice(length));
            assert_eq!(read(&network, &mut other, &tokens), whole, "{length}");
            assert_eq!((other.len(), other.cache.len()), (6, 6 - length));
        }
    }
}
