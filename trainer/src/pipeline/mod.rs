//! The collect, train, evaluate loop: the recipe, its stages, their manifests, shards and locks.

mod checkpoint;
pub mod folder;
pub mod lock;
pub mod manifest;
pub mod practice;
pub mod prepare;
pub mod recipe;
pub mod rescue_store;
pub mod rounds;
pub mod run;

pub mod shard;
pub mod stages;
pub mod status;
