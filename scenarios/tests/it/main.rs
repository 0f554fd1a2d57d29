//! Integration tests of the crate `scenarios`: the game generator, and suites on disk.

#![allow(
    clippy::unwrap_used,
    reason = "if a helper of a test panics, the test fails"
)]

mod household;
mod permute;
mod suite;
