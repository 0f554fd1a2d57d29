//! Text to token ids: the tokenizer, chat templates, and the frames around the turns of an episode.

pub mod chat;
mod jinja;
pub mod template;
pub mod tokenizer;
