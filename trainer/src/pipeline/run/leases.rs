//! Leases: a shard holds the games of its share as long as its store grows.
//!
//! If a store has not grown for the time of a lease, the shards that have played their own share play its missing
//! games, in small portions. An episode is its game and its seed, so an episode that two shards play is the same one,
//! and it is counted once. Each process measures the time by its own clock from when it first saw the store's size:
//! clocks of machines need not agree.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The sizes of other shards' stores, and when they were first seen.
#[derive(Debug, Default)]
pub(super) struct Leases {
    seen: BTreeMap<PathBuf, (u64, Instant)>,
}

impl Leases {
    /// Returns whether the store has had its present size for the time of a lease. A store that does not exist has
    /// size 0.
    pub(super) fn has_expired(&mut self, store: &Path, lease: Duration) -> bool {
        let size = std::fs::metadata(store).map_or(0, |data| data.len());
        let (last, since) = self
            .seen
            .entry(store.into())
            .or_insert_with(|| (size, Instant::now()));
        if *last != size {
            (*last, *since) = (size, Instant::now());
        }
        since.elapsed() >= lease
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_grows_keeps_its_lease() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("a.jsonl");
        let mut leases = Leases::default();
        let long = Duration::from_secs(3600);
        assert!(!leases.has_expired(&store, long), "the time begins now");
        assert!(leases.has_expired(&store, Duration::ZERO));
        let (size, since) = leases.seen[&store];
        assert_eq!(size, 0, "it does not exist");
        std::fs::write(&store, "a line").unwrap();
        assert!(!leases.has_expired(&store, long));
        let (grown, later) = leases.seen[&store];
        assert_eq!(grown, 6);
        assert!(later > since, "the time begins again");
        assert!(!leases.has_expired(&store, long));
        assert_eq!(leases.seen[&store], (grown, later), "the time goes on");
    }
}
