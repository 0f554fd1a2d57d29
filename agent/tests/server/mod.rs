//! The HTTP server of the crate `support`, for tests that include this file by its path. New tests
//! use the crate.

#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    clippy::unwrap_used,
    reason = "every test takes what it needs, and may panic"
)]

#[path = "../../../tests/support/src/server.rs"]
mod inner;

pub use inner::{HttpReply as Said, HttpRequest as Heard, Server, friendly}; // ALIAS
