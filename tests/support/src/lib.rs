//! Shared by the tests of all crates: environments that are small enough to reason about, an HTTP
//! server on loopback, tiny models, and the folder with the real ALFWorld games.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

pub mod alfworld;
pub mod corridor;
#[cfg(feature = "agent")]
pub mod device;
#[cfg(feature = "agent")]
mod models;
pub mod server;

/// Reports that a test cannot run here. If `HEARTH_REQUIRE_ALL=1` is set, a skipped test is a
/// failure.
///
/// # Panics
/// Panics if `HEARTH_REQUIRE_ALL=1` is set.
pub fn skip(reason: &str) {
    assert!(
        std::env::var_os("HEARTH_REQUIRE_ALL").is_none_or(|value| value != "1"),
        "HEARTH_REQUIRE_ALL=1, and this test cannot run: {reason}"
    );
    eprintln!("skipped: {reason}");
}
