//! The collect, train, evaluate loop: the recipe, its stages, their manifests, shards and locks.

pub mod lock;
pub mod manifest;
mod old_names;
pub mod recipe;
pub mod run;
pub mod shard;
pub mod stages;
pub mod status;
