//! The transformer that plays.

mod host;

pub use host::*;
