//! Which episodes a training job reads, and how they become batches.

pub mod batch;
pub mod episodes;
pub mod plan;
pub mod receptacle_dropout;
pub mod selection;
pub mod short_first;
pub mod tensors;
