//! The corridors of the crate `support`, for tests that include this file by its path. New tests
//! use the crate.

#[allow(
    unused_imports,
    unreachable_pub,
    reason = "every test takes what it needs"
)]
pub use support::corridor::*;
