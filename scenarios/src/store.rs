//! Append-only store.
