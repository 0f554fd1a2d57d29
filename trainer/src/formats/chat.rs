//! An episode as a chat, and the two common formats of chats.
//!
//! | format | a row |
//! | --- | --- |
//! | ShareGPT | `conversations`: `from` (`system`, `human`, `gpt`) and `value` |
//! | `OpenAI` | `messages`: `role` (`system`, `user`, `assistant`) and `content` |
//!
//! A row also contains columns about the episode. `FastChat` and LLaMA-Factory read the first format
//! (JSON or JSON lines). Most other trainers read the second (JSON lines). A chat ends with the
//! policy's last completion, because the last observation has no response.

use scenarios::{Outcome, Split, TaskType, Trajectory};
use serde::Serialize;

/// The author of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum ChatRole {
    System,
    User,
    Assistant,
}

/// A message of a chat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct ChatMessage {
    pub(super) role: ChatRole,
    pub(super) content: String,
}

impl ChatMessage {
    pub(super) fn new(role: ChatRole, content: &str) -> Self {
        Self {
            role,
            content: content.into(),
        }
    }
}

/// Returns the whole episode: the system message, if there is one, then observations and completions
/// in turn. If `instructions` is `None`, the system message is that of the episode's protocol.
pub(super) fn messages(episode: &Trajectory, instructions: Option<&str>) -> Vec<ChatMessage> {
    let instructions = instructions.or(episode.protocol.instructions.as_deref());
    let system = instructions.map(|text| ChatMessage::new(ChatRole::System, text));
    let turns = episode.turns.iter().flat_map(|turn| {
        [
            ChatMessage::new(ChatRole::User, &turn.observation),
            ChatMessage::new(ChatRole::Assistant, &turn.completion),
        ]
    });
    system.into_iter().chain(turns).collect()
}

/// The columns of a row about its episode.
#[derive(Debug, Serialize)]
pub(super) struct EpisodeColumns<'a> {
    game: &'a str,
    split: Split,
    task_type: Option<TaskType>,
    repetition: usize,
    policy: &'a str,
    outcome: Outcome,
    reward: f64,
}

impl<'a> EpisodeColumns<'a> {
    pub(super) fn new(episode: &'a Trajectory) -> Self {
        Self {
            game: &episode.game,
            split: episode.split,
            task_type: episode.task_type,
            repetition: episode.repetition,
            policy: &episode.policy,
            outcome: episode.outcome,
            reward: episode.outcome.reward(),
        }
    }
}

/// A row in the ShareGPT format.
#[derive(Debug, Serialize)]
pub(super) struct ShareGpt<'a> {
    id: String,
    conversations: Vec<ShareGptMessage<'a>>,
    #[serde(flatten)]
    about: EpisodeColumns<'a>,
}

#[derive(Debug, Serialize)]
struct ShareGptMessage<'a> {
    from: &'static str,
    value: &'a str,
}

impl<'a> ShareGpt<'a> {
    pub(super) fn new(episode: &'a Trajectory, messages: &'a [ChatMessage]) -> Self {
        Self {
            id: format!("{}#{}", episode.game, episode.repetition),
            conversations: messages.iter().map(ShareGptMessage::new).collect(),
            about: EpisodeColumns::new(episode),
        }
    }
}

impl<'a> ShareGptMessage<'a> {
    fn new(message: &'a ChatMessage) -> Self {
        Self {
            from: match message.role {
                ChatRole::System => "system",
                ChatRole::User => "human",
                ChatRole::Assistant => "gpt",
            },
            value: &message.content,
        }
    }
}

/// A row in the `OpenAI` format.
#[derive(Debug, Serialize)]
pub(super) struct OpenAi<'a> {
    pub(super) messages: &'a [ChatMessage],
    #[serde(flatten)]
    pub(super) about: EpisodeColumns<'a>,
}
