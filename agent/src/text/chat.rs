//! How an episode becomes one growing list of token ids.
//!
//! `<|begin|> observation <|agent|> completion <|end|> observation <|agent|> completion <|end|> …`
//!
//! in a decoder that was made here; in others the frames of their chat template ([`crate::text::template`]) take these places.
//! Every turn only appends: nothing that stands is tokenized again. Knows nothing of models.

use crate::text::tokenizer::Tokenizer;
use scenarios::{Trajectory, Turn};

/// What the world answers, in place of the game, to a completion without a command.
pub const MALFORMED_ANSWER: &str = "That was no command. Write one command on one line.";

/// Where a turn's observation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The first of an episode.
    Opening,
    /// After a completion that ended with `<|end|>`.
    AfterEnd,
    /// After a completion that was cut off; the missing `<|end|>` is put in, as the world's, not the policy's.
    AfterCut,
}

/// Token ids that bring an observation into the context, up to where the policy begins to write.
#[must_use]
pub fn observation_tokens(tokenizer: &Tokenizer, observation: &str, place: Place) -> Vec<u32> {
    let frames = tokenizer.frames();
    let before = match place {
        Place::Opening => frames.opening.clone(),
        Place::AfterEnd => frames.between.clone(),
        Place::AfterCut => format!("{}{}", frames.end, frames.between),
    };
    let observation = if frames.strips {
        observation.trim()
    } else {
        observation
    };
    tokenizer.encode_framed(&before, observation, &frames.answer)
}

/// Token ids of a completion that somebody else wrote, such as an expert's command.
#[must_use]
pub fn completion_tokens(tokenizer: &Tokenizer, completion: &str) -> Vec<u32> {
    let mut tokens = tokenizer.encode(completion);
    tokens.push(tokenizer.end);
    tokens
}

/// The command in a completion: all of it, stripped; `None` when it is empty, longer than a line, or holds a special
/// token.
#[must_use]
pub fn parse_command(completion: &str) -> Option<&str> {
    let command = completion.trim();
    let framed = ["<|", "<s>", "</s>"]
        .iter()
        .any(|token| command.contains(token));
    (!command.is_empty() && !command.contains('\n') && !framed).then_some(command)
}

/// Fills in the token ids of an episode that was played in text, such as a demonstration. Log-probabilities are emptied:
/// nobody sampled these tokens.
pub fn tokenize(tokenizer: &Tokenizer, trajectory: &mut Trajectory) {
    let mut place = Place::Opening;
    for turn in &mut trajectory.turns {
        (turn.observation_tokens, turn.completion_tokens, place) =
            turn_tokens(tokenizer, turn, place);
        turn.logprobs.clear();
    }
}

/// The command of a completion; `None` in one that was cut off too.
#[must_use]
pub fn command(completion: &str, ended: bool) -> Option<&str> {
    if ended {
        parse_command(completion)
    } else {
        None
    }
}

/// Token ids of a turn that was played in text, of its observation and of its completion, and where the next one stands.
#[must_use]
pub fn turn_tokens(
    tokenizer: &Tokenizer,
    turn: &Turn,
    place: Place,
) -> (Vec<u32>, Vec<u32>, Place) {
    // A completion that reads as a command and was none did not end by itself.
    let was_cut = turn.action.is_none() && parse_command(&turn.completion).is_some();
    let observation = observation_tokens(tokenizer, &turn.observation, place);
    let mut completion = completion_tokens(tokenizer, &turn.completion);
    if was_cut {
        completion.pop();
    }
    (
        observation,
        completion,
        if was_cut {
            Place::AfterCut
        } else {
            Place::AfterEnd
        },
    )
}

/// Whether the ids of every completion spell its text in this tokenizer's vocabulary: not those of another's, and none
/// missing.
#[must_use]
pub fn is_tokenized_by(tokenizer: &Tokenizer, trajectory: &Trajectory) -> bool {
    let spelled =
        |tokens: &[u32]| tokenizer.decode(tokens.strip_suffix(&[tokenizer.end]).unwrap_or(tokens));
    trajectory.turns.iter().all(|turn| {
        !turn.completion_tokens.is_empty() && spelled(&turn.completion_tokens) == turn.completion
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_one_line_without_frames() {
        assert_eq!(parse_command(" go to desk 1 "), Some("go to desk 1"));
        assert_eq!(parse_command("  \n "), None);
        assert_eq!(parse_command("look\nlook"), None);
        assert_eq!(parse_command("look<|agent|>"), None);
    }

    #[test]
    fn a_cut_completion_is_closed_by_the_world() {
        let tokenizer = Tokenizer::train(["go to desk 1"].into_iter(), 300).expect("trains");
        let tokens = observation_tokens(&tokenizer, "x", Place::AfterCut);
        assert_eq!(
            (tokens[0], tokens[tokens.len() - 1]),
            (tokenizer.end, tokenizer.id("<|agent|>").expect("known"))
        );
    }
}
