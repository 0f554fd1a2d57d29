//! Minimal pairs: one history, and a last list with and without the object that the task needs.
//!
//! The list without the object is edited in the text: every object of the task's type is removed
//! from the last observation, in the format of the grammar. A list keeps the order of its objects,
//! and an object keeps its name wherever it is. So the edited text is what a world with these objects
//! elsewhere would write; a test with the native world compares both. Exchanging the object for
//! another one would need the object's identifier, because identifiers determine the order.
//!
//! If the object is alone in its list, the episode gives no pair. The list without it would be
//! `nothing`, and a policy can learn to go on after this word without reading any list.

use super::predictor::{TokenPrediction, TokenQuery};
use crate::learn::receptacle_dropout::listed;
use agent::text::chat::{PromptPosition, turn_tokens};
use agent::text::tokenizer::Tokenizer;
use scenarios::expert::{goal_object, listed_objects};
use scenarios::{ActionFormat, Trajectory, Turn};

/// The word that begins a command that takes an object.
const TAKE: &str = "take";

/// An episode of the expert up to its first `take`, and the same without the object.
#[derive(Debug, Clone, Copy)]
pub struct MinimalPair<'a> {
    episode: &'a Trajectory,
    /// Index of the turn that takes the object.
    turn: usize,
}

impl<'a> MinimalPair<'a> {
    /// Returns the pair of an episode. `None` if the expert's first `take` is a perturbed turn or
    /// there is none, if the observation before it does not list the object, or if it lists no object
    /// of another type.
    #[must_use]
    pub fn of(episode: &'a Trajectory) -> Option<Self> {
        let turn = episode
            .turns
            .iter()
            .position(|turn| turn.completion.starts_with("take "))?;
        let pair = Self { episode, turn };
        let object = pair.there().completion.strip_prefix("take ")?;
        let (object, _) = object.split_once(" from ")?;
        let listed = listed_objects(&pair.there().observation)?;
        let is_usable = !pair.there().perturbed
            && listed.iter().any(|name| name == object)
            && pair.absent_observation().is_some();
        is_usable.then_some(pair)
    }

    /// Returns the turns before the list.
    #[must_use]
    pub fn history(&self) -> &'a [Turn] {
        &self.episode.turns[..self.turn]
    }

    /// Returns the turn with the object: the observation with the list, and the expert's command.
    #[must_use]
    pub fn there(&self) -> &'a Turn {
        &self.episode.turns[self.turn]
    }

    /// Returns the observation without the objects of the task's type. `None` if the text has
    /// another form than the grammar's, or if no object would be left.
    #[must_use]
    pub fn absent_observation(&self) -> Option<String> {
        let wanted = goal_object(&self.episode.turns[0].observation)?;
        without_type(&self.there().observation, &wanted)
    }

    /// Returns the two queries of the pair.
    #[must_use]
    pub(super) fn queries(&self, tokenizer: &Tokenizer) -> PairQueries {
        let mut history = Vec::new();
        let mut position = PromptPosition::Opening;
        for turn in self.history() {
            let (observation, completion, next) =
                turn_tokens(tokenizer, turn, position, ActionFormat::Plain);
            history.extend(observation);
            history.extend(completion);
            position = next;
        }
        let without = Turn {
            observation: self
                .absent_observation()
                .expect("a pair has an observation without the object"),
            ..self.there().clone()
        };
        let (observation, command, _) =
            turn_tokens(tokenizer, self.there(), position, ActionFormat::Plain);
        let (absent, _, _) = turn_tokens(tokenizer, &without, position, ActionFormat::Plain);
        let verb = verb_tokens(tokenizer, &command);
        PairQueries {
            there: query(&history, &observation, &command),
            absent: query(&history, &absent, &command[..verb]),
            verb,
        }
    }
}

/// Returns the number of tokens at the start of the command that spell its verb. A token may also
/// contain the space after the verb.
fn verb_tokens(tokenizer: &Tokenizer, command: &[u32]) -> usize {
    (1..command.len())
        .find(|count| {
            tokenizer
                .decode(&command[..*count])
                .trim_start()
                .starts_with(TAKE)
        })
        .unwrap_or(command.len())
}

fn query(history: &[u32], observation: &[u32], predicted: &[u32]) -> TokenQuery {
    TokenQuery {
        tokens: [history, observation, predicted].concat(),
        from: history.len() + observation.len(),
    }
}

/// Returns the observation whose list has no object of this type. `None` if it has no list in the
/// grammar's format, or if no object would be left.
fn without_type(observation: &str, kind: &str) -> Option<String> {
    let all = listed_objects(observation)?;
    let kept: Vec<&str> = all
        .iter()
        .map(String::as_str)
        .filter(|name| name.rsplit_once(' ').is_none_or(|(other, _)| other != kind))
        .collect();
    if kept.is_empty() {
        return None;
    }
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let (before, after) = observation.rsplit_once(&format!("you see {}.", listed(&all)))?;
    Some(format!("{before}you see {}.{after}", listed(&kept)))
}

/// The two queries of a pair.
#[derive(Debug, Clone)]
pub(super) struct PairQueries {
    /// The list with the object; the whole command of the expert is predicted.
    pub(super) there: TokenQuery,
    /// The list without it; the verb is predicted.
    pub(super) absent: TokenQuery,
    /// Number of tokens of the verb.
    verb: usize,
}

/// What a policy does in a pair.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairScore {
    /// Probability that the command begins with `take` if the object is listed.
    pub there: f64,
    /// The same if it is not.
    pub absent: f64,
    /// Whether greedy play begins with `take` if the object is listed, and only then.
    pub distinguishes: bool,
    /// Whether greedy play writes the expert's command if the object is listed: name, number and
    /// receptacle.
    pub exact: bool,
}

impl PairQueries {
    /// Returns the number of tokens of the longer sequence.
    pub(super) fn longest(&self) -> usize {
        self.there.tokens.len().max(self.absent.tokens.len())
    }

    /// Scores the predictions for both queries.
    pub(super) fn score(&self, there: &[TokenPrediction], absent: &[TokenPrediction]) -> PairScore {
        let verb = &there[..self.verb];
        PairScore {
            there: probability(verb),
            absent: probability(absent),
            distinguishes: is_greedy(verb) && !is_greedy(absent),
            exact: is_greedy(there),
        }
    }
}

/// Returns the probability of all these tokens.
fn probability(predictions: &[TokenPrediction]) -> f64 {
    let sum: f64 = predictions.iter().map(|token| token.logprob).sum();
    sum.exp()
}

/// Returns whether greedy play writes these tokens.
fn is_greedy(predictions: &[TokenPrediction]) -> bool {
    predictions.iter().all(|token| token.is_top)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_object_of_the_type_is_removed_in_the_grammars_format() {
        for (before, after) in [
            (
                "You arrive at desk 1. On the desk 1, you see a bowl 1, a mug 2, a mug 1, and a pen 3.",
                Some("You arrive at desk 1. On the desk 1, you see a bowl 1, and a pen 3."),
            ),
            (
                "You open the safe 1. The safe 1 is open. In it, you see a mug 1, and a mugtree 1.",
                Some("You open the safe 1. The safe 1 is open. In it, you see a mugtree 1."),
            ),
            ("On the desk 1, you see a mug 1.", None),
            ("On the desk 1, you see nothing.", None),
            ("The fridge 1 is closed.", None),
            ("Nothing happens.", None),
        ] {
            assert_eq!(without_type(before, "mug").as_deref(), after, "{before}");
        }
    }
}
