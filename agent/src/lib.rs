//! The mind: turns what a world says into what an agent does.

pub mod error;
mod files;
pub mod inference;
pub mod model;
pub mod policy;
pub mod rollout;
pub mod text;

pub use error::AgentError;
