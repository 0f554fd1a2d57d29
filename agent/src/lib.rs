//! Language-model agents that act in text environments.
//!
//! An agent reads an observation, and its policy writes a completion that contains an action. This
//! crate has everything between the two texts, and the loop that plays whole episodes:
//!
//! | module | contains |
//! | --- | --- |
//! | [`text`] | the tokenizer, chat templates, and how turns become tokens |
//! | [`model`] | the configuration, weights, decoder, value network, adapters and model files |
//! | [`inference`] | the forward pass for generation, with a KV cache, on CPU or GPU |
//! | [`policy`] | what chooses an action: a model, a remote server, a script |
//! | [`rollout`] | the loop that plays episodes of a policy in environments |
//!
//! If an operation fails, it returns an [`AgentError`]. Training is in the crate `trainer`,
//! environments and trajectories are in the crate `scenarios`, and the CPU kernels are in the crate
//! `kernels`.

pub mod error;
mod files;
pub mod inference;
pub mod model;
pub mod policy;
pub mod rollout;
pub mod text;

pub use error::AgentError;
