//! What a chat template renders: messages, and the texts of special tokens.

use serde::Serialize;

/// The author of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions before all turns.
    System,
    /// The environment.
    User,
    /// The policy.
    Assistant,
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Message {
    /// The author.
    pub role: Role,
    /// The text.
    pub content: String,
}

impl Message {
    /// A message of the system, the environment or the policy.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self {
            role,
            content: content.into(),
        }
    }
}

/// The texts of a tokenizer's special tokens. If one is `None`, it is undefined in the template, as
/// in transformers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Begins a text.
    pub bos: Option<String>,
    /// Ends a text.
    pub eos: Option<String>,
    /// Replaces what the vocabulary lacks.
    pub unk: Option<String>,
    /// Fills up a batch.
    pub pad: Option<String>,
    /// All other special tokens of the tokenizer. Only [`super::TurnFrames::derive`] reads them, to
    /// find the end of a turn.
    pub others: Vec<String>,
}
