//! The mind: turns what a world says into what an agent does.
//!
//! [`decoder`] is the transformer that learns (on burn), [`generate`] the same transformer that plays (plain vectors,
//! or burn for a GPU; a cache for each episode), [`chat`] and [`tokenizer`] turn text into token ids, [`select`] chooses among candidates
//! by what a protocol says, [`search`] among what they lead to, [`guided`] lets the expert show a model the way back,
//! [`remote`] asks a server instead, and [`episode`] is the only rollout loop. Worlds are known here through
//! [`scenarios::Environment`] alone.

mod attention;
pub mod chat;
pub mod config;
pub mod decoder;
pub mod device;
pub mod episode;
pub mod error;
mod files;
pub mod fused;
pub mod generate;
pub mod gguf;
pub mod guided;
mod jinja;
mod kernel;
mod lanes;
pub mod limits;
pub mod lora;
mod matrix;
pub mod model;
pub mod model_player;
pub mod player;
pub mod remote;
pub mod rope;
pub mod sample;
pub mod search;
pub mod select;
pub mod template;
pub mod tokenizer;
pub mod weights;

pub use error::AgentError;
