//! Who holds which rows of a device's pool of keys and values. A row holds those of one token, in every layer. Knows
//! nothing of what stands in them.

use std::sync::{Arc, Mutex, PoisonError};

/// The row that padding reads and writes; nobody holds it.
pub(super) const PADDING: u32 = 0;

/// The rows that are free.
#[derive(Debug)]
pub(super) struct Free(Mutex<Left>);

#[derive(Debug)]
struct Left {
    /// Rows that came back; the last goes out first.
    returned: Vec<u32>,
    /// The first row that was never given out; all behind it are free too.
    fresh: u32,
}

impl Default for Free {
    fn default() -> Self {
        Self(Mutex::new(Left {
            returned: Vec::new(),
            fresh: PADDING + 1,
        }))
    }
}

impl Free {
    /// Rows that the pool must have: those that were ever given out, and that of padding.
    pub(super) fn reach(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).fresh as usize
    }

    fn take(&self, count: usize, rows: &mut Vec<u32>) {
        let mut left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = left.returned.len().saturating_sub(count);
        let again = left.returned.len() - kept;
        rows.extend(left.returned.drain(kept..).rev());
        let fresh = left.fresh;
        left.fresh +=
            u32::try_from(count - again).expect("a pool has fewer than four billion rows");
        rows.extend(fresh..left.fresh);
    }

    fn give_back(&self, rows: &[u32]) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .returned
            .extend(rows.iter().rev());
    }
}

/// The rows of a sequence's tokens, in order; free again when they are dropped.
#[derive(Debug)]
pub(super) struct Rows {
    numbers: Vec<u32>,
    free: Arc<Free>,
}

impl Rows {
    pub(super) fn none_of(free: &Arc<Free>) -> Self {
        Self {
            numbers: Vec::new(),
            free: Arc::clone(free),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }

    pub(super) fn numbers(&self) -> &[u32] {
        &self.numbers
    }

    /// Whether they are rows of that pool.
    pub(super) fn are_of(&self, free: &Arc<Free>) -> bool {
        Arc::ptr_eq(&self.free, free)
    }

    /// Rows for so many more tokens.
    pub(super) fn grow(&mut self, tokens: usize) {
        self.free.take(tokens, &mut self.numbers);
    }

    /// Takes the rows of a tail over; nothing is copied on the device.
    pub(super) fn append(&mut self, mut tail: Self) {
        assert!(tail.are_of(&self.free), "{}", super::FOREIGN);
        self.numbers.append(&mut tail.numbers);
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        self.free.give_back(&self.numbers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three rows and two; the three come back and are used again, in order, before a fresh one.
    #[test]
    fn rows_that_come_back_go_out_again() {
        let free = Arc::default();
        let (mut first, mut second) = (Rows::none_of(&free), Rows::none_of(&free));
        first.grow(3);
        second.grow(2);
        assert_eq!(
            (first.numbers(), second.numbers()),
            (&[1, 2, 3][..], &[4, 5][..])
        );
        drop(first);
        second.grow(4);
        assert_eq!(
            (second.numbers(), free.reach()),
            (&[4, 5, 1, 2, 3, 6][..], 7)
        );
    }

    #[test]
    fn rows_of_a_tail_change_hands() {
        let free = Arc::default();
        let (mut whole, mut tail) = (Rows::none_of(&free), Rows::none_of(&free));
        tail.grow(2);
        whole.append(tail);
        let mut other = Rows::none_of(&free);
        other.grow(1);
        assert_eq!((whole.numbers(), other.numbers()), (&[1, 2][..], &[3][..]));
    }
}
