//! Tasks, environments, episode records and household games: the types that every other crate uses.
//!
//! [`Task`] is one game with its goal, and [`Suite`] is a named list of tasks. [`Environment`] is
//! the only interface between a policy and a simulator. [`Trajectory`] is the record of one
//! episode, and [`Protocol`] records how it was played. [`household`] generates games, and
//! [`expert`] plays them from observations alone.
//!
//! This crate does not depend on tensors, models or the way in which a simulator makes its texts.

pub mod environment;
pub mod expert;
pub mod files;
pub mod household;
pub mod protocol;
pub mod seed;
pub mod store;
pub mod suite;
pub mod task;
mod text_evidence;
pub mod text_version;
pub mod trajectory;

pub use environment::{Environment, EnvironmentError, Observation, Status, World};
pub use protocol::Thinking;
pub use protocol::{
    ActionFormat, DistinctBy, History, KvFormat, Malformed, Protocol, Scorer, Search, WeightFormat,
};
pub use suite::{Suite, SuiteError};
pub use task::{Split, Task, TaskType};
pub use text_version::TextVersion;
pub use trajectory::{BranchInfo, Candidate, Outcome, Spent, Trajectory, Turn};
