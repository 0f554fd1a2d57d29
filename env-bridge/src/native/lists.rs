//! A list of lists, stored in one vector.

/// A list of lists, stored end to end.
#[derive(Debug)]
pub(crate) struct Lists<T> {
    /// The start of every list in `items`, then the length of `items`.
    starts: Vec<u32>,
    items: Vec<T>,
}

impl<T> Default for Lists<T> {
    fn default() -> Self {
        Self {
            starts: vec![0],
            items: Vec::new(),
        }
    }
}

impl<T> Lists<T> {
    /// Builds the lists from the start of every list, the total length, and all items.
    pub(crate) fn from_parts(starts: Vec<u32>, items: Vec<T>) -> Self {
        Self { starts, items }
    }

    /// Appends one list.
    pub(crate) fn push(&mut self, items: impl IntoIterator<Item = T>) {
        self.items.extend(items);
        self.starts.push(self.items.len() as u32);
    }

    /// Returns the number of lists.
    pub(crate) fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// Returns one list.
    #[inline]
    pub(crate) fn get(&self, index: usize) -> &[T] {
        &self.items[self.starts[index] as usize..self.starts[index + 1] as usize]
    }
}
