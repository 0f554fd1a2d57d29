//! Training: from trajectories to batches, losses, gradients and a model.

pub mod checkpoint;
pub mod config;
pub mod critic;
pub mod data;
pub mod lineage;
pub mod metrics;
mod micro_batch;
mod networks;
pub mod objective;
pub mod optimizer;
pub mod parameters;
pub mod ranking;
pub mod ranks;
mod replicas;
pub mod train;
pub mod transfer;

pub use data::{batch, episodes, plan, receptacle_dropout, selection};
