//! What an agent learns from its own episodes, and how well it then plays.

pub mod error;
pub mod formats;
pub mod learn;
pub mod loss;
pub mod measure;
pub mod pipeline;
pub mod selftest;

pub use error::TrainerError;
