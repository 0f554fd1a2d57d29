//! Episodes in the file formats of other tools: [`export`] writes files that their trainers load, and [`import`] reads
//! published demonstrations.
//!
//! All of these formats are chats: observations are messages of the user, completions are messages of the assistant. This
//! module does not depend on an environment, so it cannot check an imported episode. [`crate::measure::verify`] replays
//! it in its game.

pub mod export;
pub mod import;

mod chat;
#[cfg(feature = "parquet")]
mod columns;
mod recorded;
mod sink;
mod trl;
mod verl;
#[cfg(feature = "parquet")]
mod verl_schema;

pub use sink::Sink;
