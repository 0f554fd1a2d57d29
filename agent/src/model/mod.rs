//! What a model is: its configuration, weights, decoder and adapters, and the files that hold them.

pub mod config;
pub mod decoder;
pub mod folder;
pub mod gguf;
pub mod lora;
pub mod rope;
pub mod weights;
