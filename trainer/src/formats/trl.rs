//! Rows for the trainers of TRL (huggingface.co/docs/trl/dataset_formats, version 1.16), all in its conversational format.
//!
//! | trainer | type there | columns |
//! | --- | --- | --- |
//! | `SFTTrainer` | language modeling | `messages` |
//! | `DPOTrainer` | preference | `prompt`, `chosen`, `rejected` |
//! | `KTOTrainer` | unpaired preference | `prompt`, `completion`, `label` |
//!
//! A prompt, a choice and a completion are each a list of messages, and the two last may go on for several turns. TRL then
//! counts every token after the prompt, the world's words too: it has a mask for the assistant's alone with `messages` only
//! (`assistant_only_loss`). So a pair's prompt is all that its two episodes share, as TRL's own `extract_prompt` has it;
//! beyond that, whoever trains there learns from the world's words as well.

use super::chat::{Message, Role};
use serde::Serialize;

/// A row for `SFTTrainer`.
#[derive(Debug, Serialize)]
pub(super) struct Sft<'a> {
    pub(super) messages: &'a [Message],
}

/// A row for `DPOTrainer`.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Dpo<'a> {
    prompt: &'a [Message],
    chosen: &'a [Message],
    rejected: &'a [Message],
}

impl<'a> Dpo<'a> {
    /// A won and a lost episode of one game; `None` where one of them does not go on from what they share, which is what
    /// the world said last before the policy first wrote something else.
    pub(super) fn new(won: &'a [Message], lost: &'a [Message]) -> Option<Self> {
        let shared = won.iter().zip(lost).take_while(|(a, b)| a == b).count();
        let asked = won[..shared]
            .iter()
            .rposition(|message| message.role == Role::User)?
            + 1;
        let (chosen, rejected) = (&won[asked..], &lost[asked..]);
        (!chosen.is_empty() && !rejected.is_empty()).then_some(Self {
            prompt: &won[..asked],
            chosen,
            rejected,
        })
    }
}

/// A row for `KTOTrainer`.
#[derive(Debug, Serialize)]
pub(super) struct Kto<'a> {
    prompt: &'a [Message],
    completion: &'a [Message],
    label: bool,
}

impl<'a> Kto<'a> {
    /// The opening and what stands above it are the prompt.
    pub(super) fn new(messages: &'a [Message], won: bool) -> Self {
        let opening = messages
            .iter()
            .position(|message| message.role == Role::Assistant)
            .unwrap_or(messages.len());
        let (prompt, completion) = messages.split_at(opening);
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

    fn chat(texts: &[&str]) -> Vec<Message> {
        let roles = [Role::User, Role::Assistant].into_iter().cycle();
        roles
            .zip(texts)
            .map(|(role, text)| Message::new(role, text))
            .collect()
    }

    /// Two episodes part where the policy first writes something else, or where the world does, whose words are then no
    /// prompt yet.
    #[test]
    fn what_two_episodes_share_is_the_prompt() {
        let won = chat(&["opening", "look", "a room", "go east"]);
        let lost = chat(&["opening", "look", "a room", "go west", "a wall", "look"]);
        let pair = Dpo::new(&won, &lost).unwrap();
        assert_eq!(
            (pair.prompt, pair.chosen, pair.rejected),
            (&won[..3], &won[3..], &lost[3..])
        );

        let other = chat(&["opening", "look", "a dark room", "go west"]);
        let pair = Dpo::new(&won, &other).unwrap();
        assert_eq!(
            (pair.prompt, pair.chosen, pair.rejected),
            (&won[..1], &won[1..], &other[1..])
        );

        assert_eq!(Dpo::new(&won, &chat(&["another opening", "look"])), None);
        assert_eq!(
            Dpo::new(&won, &won[..3]),
            None,
            "nothing was written instead"
        );
    }

    #[test]
    fn a_system_message_is_part_of_the_prompt() {
        let mut messages = chat(&["opening", "look"]);
        messages.insert(0, Message::new(Role::System, "above"));
        let row = Kto::new(&messages, true);
        assert_eq!(
            (row.prompt.len(), row.completion.len(), row.label),
            (2, 1, true)
        );
    }
}
