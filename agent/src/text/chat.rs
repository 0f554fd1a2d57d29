//! How an episode becomes one growing list of token ids.
//!
//! `<|begin|> observation <|agent|> completion <|end|> observation <|agent|> completion <|end|> …`
//!
//! These are the frames of a decoder that hearth trained from scratch. If the model has a chat
//! template, its frames ([`crate::text::template`]) take their place. Each turn only appends: text
//! that is already in the list is never tokenized again. This module does not depend on models.
//!
//! ```
//! use agent::text::chat::{PromptPosition, observation_tokens};
//! use agent::text::tokenizer::Tokenizer;
//!
//! let tokenizer = Tokenizer::train(["You see a mug 1."].into_iter(), 300)?;
//! let ids = observation_tokens(&tokenizer, "You see a mug 1.", PromptPosition::Opening);
//! assert_eq!(tokenizer.decode(&ids), "<|begin|>You see a mug 1.<|agent|>");
//! # Ok::<(), agent::AgentError>(())
//! ```

use crate::text::action::command;
use crate::text::tokenizer::Tokenizer;
use scenarios::{ActionFormat, Trajectory, Turn};

/// The observation that replaces the environment's if a completion contains no command.
pub const MALFORMED_ANSWER: &str = "That was no command. Write one command on one line.";

/// Separates an observation from the list of admissible commands, if the protocol shows them.
pub const ADMISSIBLE_COMMANDS: &str = "\nAdmissible commands: ";

/// Returns an observation without the list of admissible commands, if it has one.
#[must_use]
pub fn without_admissible(observation: &str) -> &str {
    observation
        .split_once(ADMISSIBLE_COMMANDS)
        .map_or(observation, |(text, _)| text)
}

/// What comes before the observation of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PromptPosition {
    /// Nothing: it is the first of an episode.
    Opening,
    /// A completion that ended with `<|end|>`.
    AfterEnd,
    /// A completion that was cut off. The missing `<|end|>` is inserted as part of the observation,
    /// because the policy did not write it.
    AfterCut,
}

/// Token ids that bring an observation into the context, up to where the policy begins to write.
#[must_use]
pub fn observation_tokens(
    tokenizer: &Tokenizer,
    observation: &str,
    position: PromptPosition,
) -> Vec<u32> {
    let frames = tokenizer.frames();
    let before = match position {
        PromptPosition::Opening => frames.opening.clone(),
        PromptPosition::AfterEnd => frames.between.clone(),
        PromptPosition::AfterCut => format!("{}{}", frames.end, frames.between),
    };
    let observation = if frames.strips {
        observation.trim()
    } else {
        observation
    };
    tokenizer.encode_framed(&before, observation, &frames.answer)
}

/// Token ids of a completion that the policy did not write, such as an expert's command.
#[must_use]
pub fn completion_tokens(tokenizer: &Tokenizer, completion: &str) -> Vec<u32> {
    let mut tokens = tokenizer.encode(completion);
    tokens.push(tokenizer.end);
    tokens
}

/// Fills in the token ids of an episode that was played in text, such as a demonstration. The
/// log-probabilities become empty, because no policy sampled these tokens.
pub fn tokenize(tokenizer: &Tokenizer, trajectory: &mut Trajectory) {
    let mut position = PromptPosition::Opening;
    let format = trajectory.protocol.action_format;
    for turn in &mut trajectory.turns {
        (turn.observation_tokens, turn.completion_tokens, position) =
            turn_tokens(tokenizer, turn, position, format);
        turn.logprobs.clear();
    }
}

/// Token ids of a turn that was played in text: those of its observation, those of its completion,
/// and the position of the next turn. `format` is that of the episode.
#[must_use]
pub fn turn_tokens(
    tokenizer: &Tokenizer,
    turn: &Turn,
    position: PromptPosition,
    format: ActionFormat,
) -> (Vec<u32>, Vec<u32>, PromptPosition) {
    // If the text is a command but no action was recorded, the completion was cut off.
    let was_cut = turn.action.is_none() && command(format, &turn.completion, true).is_some();
    let observation = observation_tokens(tokenizer, &turn.observation, position);
    let mut completion = completion_tokens(tokenizer, &turn.completion);
    if was_cut {
        completion.pop();
    }
    (
        observation,
        completion,
        if was_cut {
            PromptPosition::AfterCut
        } else {
            PromptPosition::AfterEnd
        },
    )
}

/// Whether the ids of every completion spell its text in this tokenizer's vocabulary. False if an id
/// list is empty or comes from another tokenizer.
#[must_use]
pub fn is_tokenized_by(tokenizer: &Tokenizer, trajectory: &Trajectory) -> bool {
    trajectory.turns.iter().all(|turn| {
        let tokens = turn.completion_tokens.as_slice();
        let text = tokens.strip_suffix(&[tokenizer.end]).unwrap_or(tokens);
        !tokens.is_empty() && tokenizer.decode(text) == turn.completion
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_admissible_commands_are_no_part_of_the_text() {
        let shown = format!("Nothing happens.{ADMISSIBLE_COMMANDS}look, go to bed 1");
        assert_eq!(without_admissible(&shown), "Nothing happens.");
        assert_eq!(without_admissible("You see a bed 1."), "You see a bed 1.");
    }

    /// Whether a completion was cut is inferred from its text, in the format of its episode.
    #[test]
    fn only_a_completion_that_was_cut_has_no_end() {
        let tokenizer = Tokenizer::train(["go to desk 1"].into_iter(), 300).expect("trains");
        let ends = |completion: &str, action: Option<&str>, format| {
            let turn = Turn {
                completion: completion.into(),
                action: action.map(str::to_owned),
                ..Turn::default()
            };
            let (_, ids, _) = turn_tokens(&tokenizer, &turn, PromptPosition::Opening, format);
            ids.last() == Some(&tokenizer.end)
        };
        assert!(ends("look", Some("look"), ActionFormat::Plain));
        assert!(!ends("look", None, ActionFormat::Plain));
        assert!(
            ends("look", None, ActionFormat::React),
            "malformed, not cut"
        );
        assert!(!ends("Action: look", None, ActionFormat::React));
    }

    #[test]
    fn a_cut_completion_is_closed_by_the_next_observation() {
        let tokenizer = Tokenizer::train(["go to desk 1"].into_iter(), 300).expect("trains");
        let tokens = observation_tokens(&tokenizer, "x", PromptPosition::AfterCut);
        assert_eq!(
            (tokens[0], tokens[tokens.len() - 1]),
            (tokenizer.end, tokenizer.id("<|agent|>").expect("known"))
        );
    }
}
