//! The integration tests of this crate in one binary: a module for each subject.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod families;
mod frames;
mod gguf;
mod play;
mod template;
mod text;
