//! The lesson: what an agent learns from its own episodes, and how well it then plays.
//!
//! [`batch`] lays trajectories out as tensors, [`loss`] holds one file an algorithm, [`train`] is the one training
//! loop, [`evaluate`] plays every game and counts, [`statistics`] says what the counts are worth, [`compare`] holds two
//! policies against each other, [`card`] says beside a number how it was made, [`failures`] why games were lost, [`audit`]
//! looks for leaks and cheats, [`process`] scores the turns of failed episodes, [`course`] runs collect → train →
//! evaluate from one recipe. [`verify`] replays what was logged, and [`formats`] writes and reads it as other tools do.

pub mod audit;
pub mod batch;
pub mod card;
pub mod checkpoint;
pub mod compare;
pub mod course;
pub mod error;
pub mod evaluate;
pub mod failures;
pub mod formats;
pub mod lab;
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
pub mod thinning;
pub mod train;
pub mod verify;

pub use error::TrainerError;
