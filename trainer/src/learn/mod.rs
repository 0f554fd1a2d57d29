//! Training: from trajectories to batches, losses, gradients and a model.

pub mod batch;
pub mod checkpoint;
pub mod config;
pub mod metrics;
pub mod objective;
pub mod optimizer;
pub mod plan;
pub mod receptacle_dropout;
pub mod selection;
pub mod train;
