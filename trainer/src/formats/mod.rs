//! Episodes in the formats of other tools: [`export`] writes what other trainers load, and
//! [`import`] reads published demonstrations.
//!
//! All formats are chats: the environment is the user and the policy is the assistant. This module
//! does not play games. [`crate::measure::verify`] checks if an imported episode can be replayed.

pub mod export;
pub mod import;

mod chat;
#[cfg(feature = "parquet")]
mod columns;
mod recorded;
mod records;
mod sink;
mod trl;
mod verl;
#[cfg(feature = "parquet")]
mod verl_schema;

pub use sink::Sink;
