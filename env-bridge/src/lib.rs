//! The worlds: what stands behind [`scenarios::Environment`].
//!
//! [`native`] plays any `game.tw-pddl` by interpreting the PDDL and the text grammar inside it; [`replay`] holds a
//! world against recorded play; [`translate`] plays games of one `ALFWorld` text version in the words of the other.
//! This crate knows nothing of policies, tokens or learning.

pub mod diff;
pub mod error;
pub mod native;
#[cfg(feature = "python")]
pub mod python;
pub mod replay;
pub mod translate;

pub use error::GameError;
pub use native::{GameState, NativeEnvironment, NativeGame, NativeWorld, Operator};
pub use translate::Translating;
