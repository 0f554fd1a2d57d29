//! The integration tests of this crate in one binary: a module for each subject.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

// The corridor world that several test modules use.
#[path = "../corridor/mod.rs"]
mod corridor;

mod families;
mod gguf;
mod template;
mod text;
