//! The simulator: a game ready to run, its states, and what a command does to them.
//!
//! A state consists of bits and counters. Every operator has a counter of its unmet conditions. If
//! an atom changes, only the operators that have it in a condition are updated, so that the
//! admissible commands are always known. The planner's truth and the facts that the texts read are
//! kept apart, because TextWorld writes every conditional effect into its facts, even if the
//! effect's condition does not hold.

mod atoms;
mod commands;
mod facts;
mod game;
mod game_text;
mod state;
mod stored;
mod transitions;
mod why;

pub use facts::{FactObject, StateFact, UnmetCondition};
pub use game::NativeGame;
pub use state::{GameState, Operator};
