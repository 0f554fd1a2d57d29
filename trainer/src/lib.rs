//! Training of a policy on recorded episodes, and measurement of how well it plays.

pub mod error;
pub mod formats;
pub mod learn;
pub mod loss;
pub mod measure;
pub mod pipeline;
pub mod selftest;
pub mod statistics;
pub mod store;

pub use error::TrainerError;
