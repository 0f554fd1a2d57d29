//! The lesson: what an agent learns from its own episodes, and how well it then plays.
//!
//! [`batch`] lays trajectories out as tensors, [`loss`] holds one file an algorithm, [`train`] is the one training
//! loop, [`evaluate`] plays every game once and counts, [`process`] scores the turns of failed episodes, [`course`] runs
//! collect → train → evaluate from one recipe. [`verify`] replays what was logged, and [`formats`] writes and reads it as
//! other tools do.

pub mod batch;
pub mod checkpoint;
pub mod course;
pub mod error;
pub mod evaluate;
pub mod formats;
pub mod lock;
pub mod loss;
pub mod metrics;
pub mod mixture;
pub mod objective;
pub mod optimizer;
pub mod plan;
pub mod process;
pub mod recipe;
pub mod selftest;
pub mod shard;
pub mod stage;
pub mod statistics;
pub mod status;
pub mod steps;
pub mod train;
pub mod verify;

pub use error::TrainerError;
