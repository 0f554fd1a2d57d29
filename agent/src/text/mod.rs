//! Text to token ids: the tokenizer, chat templates, and the frames around the turns of an episode.

pub mod action;
pub mod chat;
pub mod template;
mod template_guard;
pub mod tokenizer;
