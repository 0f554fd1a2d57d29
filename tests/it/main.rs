//! The integration tests of the binary: every command from end to end, runs that are interrupted,
//! Python worlds, files of an earlier version, and the structure of the repository.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod binary;
mod commands;
mod old_version;
#[cfg(feature = "python")]
mod python;
mod repository;
mod runs;
mod tiny;
