//! The record of one episode: [`Turn`]s and an [`Outcome`], with the token ids as they were
//! sampled.

use crate::protocol::{Protocol, is_default};
use crate::task::{Split, TaskType};
use serde::{Deserialize, Serialize};

/// Why an episode ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The goal was reached.
    Success,
    /// The game was lost, or the policy ended the episode before the goal was reached.
    Failure,
    /// The turn limit was reached.
    TurnLimit,
    /// The next turn did not fit into the context.
    ContextLimit,
    /// The environment or the policy's server failed. The episode is not evidence about the policy.
    EnvFailed,
}

impl Outcome {
    /// The name in logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::TurnLimit => "turn_limit",
            Self::ContextLimit => "context_limit",
            Self::EnvFailed => "env_failed",
        }
    }

    /// Returns the terminal reward: 1 for success, else 0.
    #[must_use]
    pub fn reward(self) -> f64 {
        f64::from(u8::from(self == Self::Success))
    }
}

/// One alternative of a best-of-K turn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// The sampled text, without the end-of-turn token.
    pub completion: String,
    /// The score for the selection, higher is better: see [`crate::Scorer`]. NaN if the value
    /// network returned NaN; in JSON this is null.
    #[serde(deserialize_with = "null_is_nan")]
    pub score: f32,
    /// How many of the K samples count as equal to it: see [`crate::DistinctBy`].
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub count: usize,
    /// ln π of the whole completion, including its end-of-turn token, under the untempered policy,
    /// nats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logprob: Option<f32>,
    /// ln π − ln π_ref of the whole completion, nats, if a reference policy scored it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_ratio: Option<f32>,
    /// U after it, reward units, if a value network scored it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_value: Option<f32>,
}

fn one() -> usize {
    1
}

/// Reads a number. JSON has no NaN: it is written as null.
fn null_is_nan<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<f32, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f32::NAN))
}

fn is_one(count: &usize) -> bool {
    *count == 1
}

/// An observation and the completion that answers it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Turn {
    /// Text from the environment.
    pub observation: String,
    /// Token ids that the observation adds to the context, up to the first token of the completion.
    pub observation_tokens: Vec<u32>,
    /// Everything the policy wrote in this turn, without the end-of-turn token.
    pub completion: String,
    /// Token ids of the completion as sampled, with the end-of-turn token if it was sampled. If the
    /// policy writes text or its server returns no ids, this and `observation_tokens` are empty.
    pub completion_tokens: Vec<u32>,
    /// ln π(token | context), nats, of each completion token under the untempered policy; empty if
    /// they are not available. If a server returns logprobs without ids, they cover every token
    /// that it sampled, including those of a stop text.
    pub logprobs: Vec<f32>,
    /// The same under the distribution that was sampled from: with temperature, top-k, top-p and
    /// min-p. Empty if that is the untempered policy, or if nothing was sampled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sampling_logprobs: Vec<f32>,
    /// The command in the completion; `None` if the completion was malformed.
    pub action: Option<String>,
    /// Whether the expert's action was perturbed, so that the log shows how to recover from it. If
    /// this is true, imitation must leave the turn out.
    #[serde(default, alias = "astray", skip_serializing_if = "is_default")]
    pub perturbed: bool,
    /// V before the completion, reward units, if a value network scored the episode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f32>,
    /// U after the completion, reward units, if a value network scored the episode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_value: Option<f32>,
    /// The distinct alternatives of a best-of-K turn; empty for K = 1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<Candidate>,
    /// [`crate::Environment::state_hash`] of the state in which the observation was made and the
    /// completion written. In JSON it has 16 hex digits, because many JSON readers lose the last
    /// bits of such numbers. `None` if the environment provides no hash.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "hex_digits")]
    pub state: Option<u64>,
    /// The process score of the turn, reward units: 1/n for each turn of the longest prefix of a
    /// failed episode of n turns that could still be won, else 0. `None` if no score was computed,
    /// and in an episode that was won.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process_score: Option<f64>,
    /// ln π − ln π_ref of the whole completion, nats, if a reference policy scored it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_ratio: Option<f32>,
}

/// A 64-bit number as 16 hex digits.
mod hex_digits {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(
        number: &Option<u64>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match number {
            Some(number) => serializer.collect_str(&format_args!("{number:016x}")),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<u64>, D::Error> {
        let Some(text) = Option::<String>::deserialize(deserializer)? else {
            return Ok(None);
        };
        let is_hex = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u64::from_str_radix(&text, 16).ok().filter(|_| is_hex);
        number
            .map(Some)
            .ok_or_else(|| D::Error::custom(format!("state {text:?} is not 16 hex digits")))
    }
}

/// The record of one episode. A store holds one as a line of JSON.
///
/// ```
/// use scenarios::Trajectory;
///
/// let line = r#"{"format": 1, "game": "train/a", "game_hash": "00", "split": "train",
///     "task_type": null, "repetition": 0, "seed": 7, "policy": "expert",
///     "protocol": {"turn_limit": 40, "context_limit": 0, "completion_limit": 24,
///         "temperature": 0.0, "best_of": 1, "admissible_shown": false, "history": "full",
///         "malformed": "wasted_turn"},
///     "turns": [{"observation": "You see a door.", "observation_tokens": [],
///         "completion": "open door", "completion_tokens": [], "logprobs": [],
///         "action": "open door"}],
///     "last_observation": "You are outside.", "outcome": "success", "reward": 1.0,
///     "seconds": 0.1}"#;
/// let trajectory: Trajectory = serde_json::from_str(line)?;
/// assert!(trajectory.is_won());
/// assert_eq!(trajectory.outcome.reward(), 1.0);
/// assert_eq!((trajectory.turns.len(), trajectory.malformed_turns()), (1, 0));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trajectory {
    /// Version of the log format.
    pub format: u32,
    /// [`crate::Task::id`] of the game.
    pub game: String,
    /// SHA-256 of the game file.
    pub game_hash: String,
    /// The split of the game.
    pub split: Split,
    /// The task type, if it is known.
    pub task_type: Option<TaskType>,
    /// The index of the repetition of this game, from 0.
    pub repetition: usize,
    /// Seed of this episode's sampling.
    pub seed: u64,
    /// Hash of the policy's weights, or its name (`expert`, `person`).
    pub policy: String,
    /// Hash of the value network's weights, if one scored the episode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_policy: Option<String>,
    /// How it was played.
    pub protocol: Protocol,
    /// The turns, in order.
    pub turns: Vec<Turn>,
    /// The text of the environment after the last completion; empty if the environment failed.
    pub last_observation: String,
    /// Why the episode ended.
    pub outcome: Outcome,
    /// The terminal reward of the outcome, for readers of the log; every earlier reward is 0.
    #[serde(default)]
    pub reward: f64,
    /// The error message, if the environment or the policy's server failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// Wall-clock seconds from reset to end.
    pub seconds: f64,
    /// What the episode cost, including candidates that were not executed.
    #[serde(default, skip_serializing_if = "is_default")]
    pub spent: Spent,
}

/// The cost of an episode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Spent {
    /// Number of completions.
    pub completions: usize,
    /// Number of tokens in these completions.
    pub tokens: usize,
    /// Number of commands that the environment and its copies executed.
    pub commands: usize,
}

impl Trajectory {
    /// The log format that this code writes.
    pub const FORMAT: u32 = 1;

    /// Returns true if the episode was won.
    #[must_use]
    pub fn is_won(&self) -> bool {
        self.outcome == Outcome::Success
    }

    /// Returns the number of turns without a command.
    #[must_use]
    pub fn malformed_turns(&self) -> usize {
        self.turns
            .iter()
            .filter(|turn| turn.action.is_none())
            .count()
    }

    /// Returns the number of tokens in the whole episode.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.turns
            .iter()
            .map(|turn| turn.observation_tokens.len() + turn.completion_tokens.len())
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_is_named_as_it_is_logged() {
        use Outcome::{ContextLimit, EnvFailed, Failure, Success, TurnLimit};
        for outcome in [Success, Failure, TurnLimit, ContextLimit, EnvFailed] {
            assert_eq!(
                serde_json::to_string(&outcome).unwrap(),
                format!("{:?}", outcome.name())
            );
        }
    }

    #[test]
    fn a_score_that_is_not_a_number_is_written_as_null_and_read_back() {
        let text = r#"{"completion":"look","score":null}"#;
        let candidate: Candidate = serde_json::from_str(text).unwrap();
        assert!(candidate.score.is_nan());
        assert_eq!(serde_json::to_string(&candidate).unwrap(), text);
    }

    /// Logs older than states and scores are read. If a turn has neither, it is written as before.
    #[test]
    fn the_state_of_a_turn_is_sixteen_hex_digits_or_absent() {
        let old = r#"{"observation":"o","observation_tokens":[],"completion":"look","completion_tokens":[],"logprobs":[],"action":"look"}"#;
        let turn: Turn = serde_json::from_str(old).unwrap();
        assert_eq!((turn.state, turn.process_score), (None, None));
        assert_eq!(serde_json::to_string(&turn).unwrap(), old);
        let full = Turn {
            state: Some(0xab_cdef_0123),
            process_score: Some(0.25),
            ..turn
        };
        let text = serde_json::to_string(&full).unwrap();
        assert!(
            text.ends_with(r#","state":"000000abcdef0123","process_score":0.25}"#),
            "{text}"
        );
        assert_eq!(serde_json::from_str::<Turn>(&text).unwrap(), full);
        for wrong in [
            "\"abcdef0123\"",
            "\"000000abcdefg123\"",
            "\"+00000abcdef0123\"",
            "7",
        ] {
            let text = text.replace("\"000000abcdef0123\"", wrong);
            assert!(serde_json::from_str::<Turn>(&text).is_err(), "{wrong}");
        }
    }
}
