//! The problem: what a household game is, who may play it, and what is written down about it.
//!
//! [`Task`] is one game with its goal, [`Suite`] a named list of tasks, [`Environment`] the only door between a
//! world and a mind, [`Trajectory`] the record of one episode. [`household`] makes games of our own and [`expert`]
//! plays them from observations alone. This crate knows nothing of tensors, models or how a world computes its texts.

pub mod environment;
pub mod expert;
pub mod files;
pub mod household;
pub mod seed;
pub mod store;
pub mod suite;
pub mod task;
pub mod text_version;
pub mod trajectory;

pub use environment::{Environment, EnvironmentError, Observation, Status, World};
pub use suite::{Suite, SuiteError};
pub use task::{Split, Task, TaskType};
pub use text_version::TextVersion;
pub use trajectory::{
    Candidate, History, Outcome, Protocol, Scorer, Search, Spent, Trajectory, Turn, WeightFormat,
};
