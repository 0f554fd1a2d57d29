//! The collect, train, evaluate loop: the recipe, its stages, their manifests, shards and locks.

mod continued;
pub mod folder;
pub mod lock;
pub mod manifest;
pub mod practice;
pub mod prepare;
pub mod recipe;
pub mod rescue_store;
pub mod rounds;
pub mod run;
mod sampling;
pub mod shard;
pub mod stages;
pub mod status;
