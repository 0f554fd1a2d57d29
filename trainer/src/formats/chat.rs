//! An episode as a chat, and the two forms in which chats are kept everywhere.
//!
//! | form | a row |
//! | --- | --- |
//! | ShareGPT | `conversations`: `from` (`system`, `human`, `gpt`) and `value` |
//! | `OpenAI` | `messages`: `role` (`system`, `user`, `assistant`) and `content` |
//!
//! with what is known of the episode beside it. `FastChat` and LLaMA-Factory read the first (JSON, or JSON lines), everyone
//! the second (JSON lines). A chat ends with the policy's last completion: what the world said to it has no answer.

use scenarios::{Outcome, Split, TaskType, Trajectory};
use serde::Serialize;

/// Who says something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Role {
    System,
    User,
    Assistant,
}

/// What somebody says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Message {
    pub(super) role: Role,
    pub(super) content: String,
}

impl Message {
    pub(super) fn new(role: Role, content: &str) -> Self {
        Self {
            role,
            content: content.into(),
        }
    }
}

/// The whole episode: what stands above it, where something does, then observations and completions in turn.
pub(super) fn messages(episode: &Trajectory, instructions: Option<&str>) -> Vec<Message> {
    let instructions = instructions.or(episode.protocol.instructions.as_deref());
    let above = instructions.map(|text| Message::new(Role::System, text));
    let turns = episode.turns.iter().flat_map(|turn| {
        [
            Message::new(Role::User, &turn.observation),
            Message::new(Role::Assistant, &turn.completion),
        ]
    });
    above.into_iter().chain(turns).collect()
}

/// What is known of an episode, for the row's other columns.
#[derive(Debug, Serialize)]
pub(super) struct About<'a> {
    game: &'a str,
    split: Split,
    task_type: Option<TaskType>,
    repetition: usize,
    policy: &'a str,
    outcome: Outcome,
    reward: f64,
}

impl<'a> About<'a> {
    pub(super) fn new(episode: &'a Trajectory) -> Self {
        let Trajectory {
            game,
            split,
            task_type,
            repetition,
            policy,
            outcome,
            ..
        } = episode;
        let reward = episode.outcome.reward();
        Self {
            game,
            split: *split,
            task_type: *task_type,
            repetition: *repetition,
            policy,
            outcome: *outcome,
            reward,
        }
    }
}

/// A row of ShareGPT's form.
#[derive(Debug, Serialize)]
pub(super) struct ShareGpt<'a> {
    id: String,
    conversations: Vec<Said<'a>>,
    #[serde(flatten)]
    about: About<'a>,
}

#[derive(Debug, Serialize)]
struct Said<'a> {
    from: &'static str,
    value: &'a str,
}

impl<'a> ShareGpt<'a> {
    pub(super) fn new(episode: &'a Trajectory, messages: &'a [Message]) -> Self {
        let said = |Message { role, content }: &'a Message| {
            let from = match role {
                Role::System => "system",
                Role::User => "human",
                Role::Assistant => "gpt",
            };
            Said {
                from,
                value: content,
            }
        };
        let id = format!("{}#{}", episode.game, episode.repetition);
        Self {
            id,
            conversations: messages.iter().map(said).collect(),
            about: About::new(episode),
        }
    }
}

/// A row of `OpenAI`'s form.
#[derive(Debug, Serialize)]
pub(super) struct OpenAi<'a> {
    pub(super) messages: &'a [Message],
    #[serde(flatten)]
    pub(super) about: About<'a>,
}
