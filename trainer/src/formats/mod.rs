//! Episodes as other tools write and read them: [`export`] writes what their trainers load, [`import`] reads what others
//! have published as demonstrations.
//!
//! All of these forms are chats: the world speaks as the user, the policy as the assistant. Knows no world: whether what
//! was imported is true is for [`crate::measure::verify`] to say.

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
