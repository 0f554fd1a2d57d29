//! Allocation of the rows of a device's KV-cache pool. A row holds the keys and values of one token,
//! in every layer. This module handles row numbers only, not their contents.

use std::sync::{Arc, Mutex, PoisonError};

/// The row that padding reads and writes. It is never allocated.
pub(super) const PADDING: u32 = 0;
/// The panic message if a cache is used with a trunk that did not write it.
pub(super) const FOREIGN_CACHE: &str = "the cache belongs to another trunk";

/// The free rows of a pool.
#[derive(Debug)]
pub(super) struct FreeRows(Mutex<FreeList>);

#[derive(Debug)]
struct FreeList {
    /// Rows that were returned; the last is allocated first.
    returned: Vec<u32>,
    /// The first row that was never allocated; all later rows are free too.
    fresh: u32,
}

impl Default for FreeRows {
    fn default() -> Self {
        Self(Mutex::new(FreeList {
            returned: Vec::new(),
            fresh: PADDING + 1,
        }))
    }
}

impl FreeRows {
    /// Rows that the pool must have: those that were ever allocated, and the row for padding.
    pub(super) fn pool_rows(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).fresh as usize
    }

    fn take(&self, count: usize, rows: &mut Vec<u32>) {
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = free.returned.len().saturating_sub(count);
        let reused = free.returned.len() - kept;
        rows.extend(free.returned.drain(kept..).rev());
        let fresh = free.fresh;
        free.fresh +=
            u32::try_from(count - reused).expect("a pool has fewer than four billion rows");
        rows.extend(fresh..free.fresh);
    }

    fn give_back(&self, rows: &[u32]) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .returned
            .extend(rows.iter().rev());
    }
}

/// The rows of a sequence's tokens, in order. They are free again if this is dropped.
#[derive(Debug)]
pub(super) struct CacheRows {
    numbers: Vec<u32>,
    /// The token ids.
    tokens: Vec<u32>,
    free: Arc<FreeRows>,
}

/// The first rows of a cache, and their token ids.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowSlice<'a> {
    pub(super) numbers: &'a [u32],
    pub(super) tokens: &'a [u32],
}

impl CacheRows {
    /// No rows, of the pool of `free`.
    pub(super) fn empty(free: &Arc<FreeRows>) -> Self {
        Self {
            numbers: Vec::new(),
            tokens: Vec::new(),
            free: Arc::clone(free),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }

    /// The row of each token.
    pub(super) fn numbers(&self) -> &[u32] {
        &self.numbers
    }

    /// The first `count` rows.
    pub(super) fn first(&self, count: usize) -> RowSlice<'_> {
        RowSlice {
            numbers: &self.numbers[..count],
            tokens: &self.tokens[..count],
        }
    }

    /// Whether they are rows of that pool.
    pub(super) fn belong_to(&self, free: &Arc<FreeRows>) -> bool {
        Arc::ptr_eq(&self.free, free)
    }

    /// Allocates rows for more tokens.
    pub(super) fn grow(&mut self, tokens: &[u32]) {
        self.free.take(tokens.len(), &mut self.numbers);
        self.tokens.extend_from_slice(tokens);
    }

    /// Takes over the rows of a tail. Nothing is copied on the device.
    pub(super) fn append(&mut self, mut tail: Self) {
        assert!(tail.belong_to(&self.free), "{FOREIGN_CACHE}");
        self.numbers.append(&mut tail.numbers);
        self.tokens.append(&mut tail.tokens);
    }
}

impl Drop for CacheRows {
    fn drop(&mut self) {
        self.free.give_back(&self.numbers);
    }
}

/// New tokens of one sequence.
pub(super) struct DeviceSpan<'a> {
    pub(super) tokens: &'a [u32],
    /// Pool rows of what precedes its own cache.
    pub(super) before: Vec<RowSlice<'a>>,
    /// Grows by the rows of `tokens`.
    pub(super) own: &'a mut CacheRows,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three rows and two. If the three are returned, they are allocated again, in order, before a
    /// fresh one.
    #[test]
    fn returned_rows_are_allocated_again() {
        let free = Arc::default();
        let mut first = CacheRows::empty(&free);
        let mut second = CacheRows::empty(&free);
        first.grow(&[0; 3]);
        second.grow(&[0; 2]);
        assert_eq!(
            (first.numbers(), second.numbers()),
            (&[1, 2, 3][..], &[4, 5][..])
        );
        drop(first);
        second.grow(&[0; 4]);
        assert_eq!(
            (second.numbers(), free.pool_rows()),
            (&[4, 5, 1, 2, 3, 6][..], 7)
        );
    }

    #[test]
    fn an_appended_tail_keeps_its_rows() {
        let free = Arc::default();
        let mut whole = CacheRows::empty(&free);
        let mut tail = CacheRows::empty(&free);
        tail.grow(&[0; 2]);
        whole.append(tail);
        let mut other = CacheRows::empty(&free);
        other.grow(&[0]);
        assert_eq!((whole.numbers(), other.numbers()), (&[1, 2][..], &[3][..]));
    }
}
