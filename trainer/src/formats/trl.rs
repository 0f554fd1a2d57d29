//! Rows for the trainers of TRL (huggingface.co/docs/trl/dataset_formats, version 1.16), in its
//! conversational format.
//!
//! | trainer | dataset type | columns |
//! | --- | --- | --- |
//! | `SFTTrainer` | language modeling | `messages` |
//! | `DPOTrainer` | preference | `prompt`, `chosen`, `rejected` |
//! | `KTOTrainer` | unpaired preference | `prompt`, `completion`, `label` |
//!
//! `prompt`, `chosen`, `rejected` and `completion` are lists of messages. All except the prompt can
//! contain several turns. TRL then counts every token after the prompt, including observations. It
//! can mask all tokens except the assistant's only if the column is `messages`
//! (`assistant_only_loss`). The prompt of a pair is therefore everything that its two episodes
//! share, as in TRL's own `extract_prompt`. After the prompt, a trainer also learns from
//! observations.

use super::chat::{ChatMessage, ChatRole};
use serde::Serialize;

/// A row for `SFTTrainer`.
#[derive(Debug, Serialize)]
pub(super) struct TrlSftRow<'a> {
    pub(super) messages: &'a [ChatMessage],
}

/// A row for `DPOTrainer`.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct TrlDpoRow<'a> {
    prompt: &'a [ChatMessage],
    chosen: &'a [ChatMessage],
    rejected: &'a [ChatMessage],
}

impl<'a> TrlDpoRow<'a> {
    /// Returns the pair of a won and a lost episode of one game. The prompt ends with the last
    /// shared observation before the first difference. Returns `None` if an episode has no message
    /// after the prompt, or if the episodes share no observation.
    pub(super) fn new(won: &'a [ChatMessage], lost: &'a [ChatMessage]) -> Option<Self> {
        let shared = won.iter().zip(lost).take_while(|(a, b)| a == b).count();
        let prompt_end = won[..shared]
            .iter()
            .rposition(|message| message.role == ChatRole::User)?
            + 1;
        let chosen = &won[prompt_end..];
        let rejected = &lost[prompt_end..];
        (!chosen.is_empty() && !rejected.is_empty()).then_some(Self {
            prompt: &won[..prompt_end],
            chosen,
            rejected,
        })
    }
}

/// A row for `KTOTrainer`.
#[derive(Debug, Serialize)]
pub(super) struct TrlKtoRow<'a> {
    prompt: &'a [ChatMessage],
    completion: &'a [ChatMessage],
    label: bool,
}

impl<'a> TrlKtoRow<'a> {
    /// Returns the row of an episode. The prompt is the system message, if there is one, and the
    /// first observation.
    pub(super) fn new(messages: &'a [ChatMessage], won: bool) -> Self {
        let first_completion = messages
            .iter()
            .position(|message| message.role == ChatRole::Assistant)
            .unwrap_or(messages.len());
        let (prompt, completion) = messages.split_at(first_completion);
        Self {
            prompt,
            completion,
            label: won,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat(texts: &[&str]) -> Vec<ChatMessage> {
        let roles = [ChatRole::User, ChatRole::Assistant].into_iter().cycle();
        roles
            .zip(texts)
            .map(|(role, text)| ChatMessage::new(role, text))
            .collect()
    }

    /// If the completions differ first, the prompt ends with the observation before them. If the
    /// observations differ first, they are not part of the prompt.
    #[test]
    fn the_prompt_is_what_two_episodes_share() {
        let won = chat(&["opening", "look", "a room", "go east"]);
        let lost = chat(&["opening", "look", "a room", "go west", "a wall", "look"]);
        let pair = TrlDpoRow::new(&won, &lost).unwrap();
        assert_eq!(
            (pair.prompt, pair.chosen, pair.rejected),
            (&won[..3], &won[3..], &lost[3..])
        );

        let other = chat(&["opening", "look", "a dark room", "go west"]);
        let pair = TrlDpoRow::new(&won, &other).unwrap();
        assert_eq!(
            (pair.prompt, pair.chosen, pair.rejected),
            (&won[..1], &won[1..], &other[1..])
        );

        assert_eq!(
            TrlDpoRow::new(&won, &chat(&["another opening", "look"])),
            None
        );
        assert_eq!(
            TrlDpoRow::new(&won, &won[..3]),
            None,
            "the lost episode has no other completion"
        );
    }

    #[test]
    fn a_system_message_is_part_of_the_prompt() {
        let mut messages = chat(&["opening", "look"]);
        messages.insert(0, ChatMessage::new(ChatRole::System, "above"));
        let row = TrlKtoRow::new(&messages, true);
        assert_eq!(
            (row.prompt.len(), row.completion.len(), row.label),
            (2, 1, true)
        );
    }
}
