//! The worlds: implementations of [`scenarios::Environment`] and [`scenarios::World`].
//!
//! - [`native`] plays any `game.tw-pddl` by interpreting the PDDL and the text grammar in it.
//! - `python`, if the feature of that name is enabled, plays games in Python worker processes.
//! - [`diff`] plays the same commands in two worlds and compares the responses.
//! - [`replay`] compares the native world with recorded play.
//! - [`translate`] plays games of one `ALFWorld` text version in the wording of the other.
//!
//! This crate does not depend on policies, tokens or training.

mod compare;
pub mod diff;
pub mod error;
pub mod native;
#[cfg(feature = "python")]
pub mod python;
pub mod replay;
pub mod translate;

pub use error::GameError;
pub use native::{
    FactObject, GameState, NativeEnvironment, NativeGame, NativeWorld, ObjectNames, Operator,
    StateFact, UnmetCondition,
};
pub use translate::Translating;
