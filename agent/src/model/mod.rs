//! Models: their configuration, weights, decoder and adapters, and the files that contain them.
//!
//! | module | contains |
//! | --- | --- |
//! | [`config`] | the sizes of a decoder, as in `config.json` |
//! | [`rope`] | the frequencies of the rotary position embedding and their scaling |
//! | [`reading`] | what hearth's own family adds to the Llama layout |
//! | [`initial`] | the weights of a decoder before its first update |
//! | [`weights`] | named tensors in host memory, and safetensors files |
//! | [`folder`] | a model folder, or a GGUF file, as one value |
//! | [`gguf`] | the reader of GGUF files |
//! | [`decoder`] | the transformer that is trained, and the value network |
//! | [`parameters`] | loading weights into these networks and reading them back |
//! | [`checkpointing`] | their forward and backward pass with activation checkpointing |
//! | [`lora`] | LoRA adapters on these networks |
//! | [`value_heads`] | the heads of a value network and their tensors |
//! | [`peft`] | adapters in PEFT's files, and merging them into weights |

pub mod checkpointing;
pub mod config;
pub mod decoder;
pub mod folder;
pub mod gguf;
pub mod initial;
pub mod lora;
pub mod parameters;
pub mod peft;
pub mod reading;
pub mod rope;
mod source;
pub mod value_heads;
pub mod weights;
