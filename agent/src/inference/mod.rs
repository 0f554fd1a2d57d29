//! The transformer at play: the decoder of [`crate::model::decoder`] with a KV cache for each
//! episode. The cache is kept from turn to turn, so that every token is read exactly once.
//!
//! Sequences of any lengths are read together as [`Span`]s without padding. A span can follow caches
//! that other spans share: the K candidates of a turn read the episode's cache and write only their
//! own, and episodes that begin with the same text share the cache of that text. This module works on
//! token ids only.
//!
//! There are two implementations: `cpu` uses the kernels of this workspace, and `gpu` uses burn. On
//! the CPU, a row's numbers are equal to the bit, whichever other spans are read with it, wherever a
//! sequence was cut, and for every number of threads. On a GPU they are equal up to rounding: if a
//! product has another shape, its sums may be in another order.

mod cpu;
pub mod device;
mod gpu;
mod kv_cache;
mod layer;
pub mod limits;
mod networks;
mod pool;
pub mod sample;
mod trunk;

pub use self::kv_cache::{CachedPrefix, KvCache, Span};
pub use self::networks::{PolicyInference, ValueInference};
pub use self::trunk::Trunk;

/// Runs a job on a thread of the pool. If a job starts parallel work many times, as a forward pass
/// does, this avoids waking the pool each time from a thread outside of it.
pub fn on_all_threads<R: Send>(job: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| job())
}
