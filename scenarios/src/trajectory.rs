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
    /// Token ids of the completion as sampled, with the end-of-turn token if it was sampled. Only a
    /// [branch](Trajectory::branch) records them; empty otherwise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tokens: Vec<u32>,
    /// The discounted return of each continuation after this candidate, reward units: γ^(n−1) if it
    /// was won with n turns, this candidate's turn included, and 0 if it was not won. Only a
    /// [branch](Trajectory::branch) has continuations; empty otherwise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub returns: Vec<f64>,
}

impl Candidate {
    /// Returns the mean of the returns, reward units; `None` if there was no continuation.
    ///
    /// ```
    /// use scenarios::Candidate;
    ///
    /// let line = r#"{"completion": "look", "score": 0.0, "tokens": [7, 2], "returns": [0.5, 0.0]}"#;
    /// let candidate: Candidate = serde_json::from_str(line)?;
    /// assert_eq!(candidate.mean_return(), Some(0.25));
    /// # Ok::<(), serde_json::Error>(())
    /// ```
    #[must_use]
    pub fn mean_return(&self) -> Option<f64> {
        let count = self.returns.len();
        (count > 0).then(|| self.returns.iter().sum::<f64>() / count as f64)
    }

    /// Returns the number of continuations that were won.
    #[must_use]
    pub fn wins(&self) -> usize {
        self.returns.iter().filter(|value| **value > 0.0).count()
    }
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
    /// If it is set, the record is not an episode but a branch: the first turns of an episode, and
    /// a last turn whose [`Turn::candidates`] have [`Candidate::returns`]. The completion of the
    /// last turn is the one that the episode took; the outcome is always [`Outcome::Failure`] and
    /// has no meaning. No branch may be imitated or evaluated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<BranchInfo>,
}

/// Where a branch comes from, and what its returns are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BranchInfo {
    /// Name of the store that contains the episode, without its folder. Game, seed, repetition,
    /// policy and protocol of the record are those of the episode.
    pub source: String,
    /// Index of the turn in the episode whose state has several candidates.
    pub turn: usize,
    /// Hash of the weights of the policy that sampled the candidates and the continuations.
    pub policy: String,
    /// γ of the returns.
    pub discount: f64,
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

    /// Returns an error if a record is a branch, for readers that need episodes. The message names
    /// the game and what to do.
    ///
    /// # Errors
    /// If [`Trajectory::branch`] is set.
    pub fn check_episode(&self) -> Result<(), String> {
        match &self.branch {
            None => Ok(()),
            Some(branch) => Err(format!(
                "the record of {}, repetition {}, is a branch at turn {} of an episode of {}, not an episode\n\
                 hint: leave the store of `hearth branch` out",
                self.game, self.repetition, branch.turn, branch.source
            )),
        }
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

    /// If a candidate has no continuations, and a trajectory is no branch, both are written as
    /// before the fields existed.
    #[test]
    fn branches_and_returns_are_written_only_if_there_are_any() {
        let old = r#"{"completion":"look","score":0.5}"#;
        let candidate: Candidate = serde_json::from_str(old).unwrap();
        assert_eq!((candidate.mean_return(), candidate.wins()), (None, 0));
        assert_eq!(serde_json::to_string(&candidate).unwrap(), old);
        let continued = Candidate {
            tokens: vec![3, 2],
            returns: vec![0.25, 0.0, 1.0, 0.0],
            ..candidate
        };
        assert_eq!(continued.mean_return(), Some(0.3125));
        assert_eq!(continued.wins(), 2);
        let text = serde_json::to_string(&continued).unwrap();
        assert!(
            text.ends_with(r#","tokens":[3,2],"returns":[0.25,0.0,1.0,0.0]}"#),
            "{text}"
        );
        assert_eq!(serde_json::from_str::<Candidate>(&text).unwrap(), continued);
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

    /// Candidates of logs older than branch stores are read and written as before.
    #[test]
    fn a_candidate_has_tokens_and_returns_only_in_a_branch_store() {
        let old = r#"{"completion":"look","score":0.5,"after_value":0.25}"#;
        let candidate: Candidate = serde_json::from_str(old).unwrap();
        assert!(candidate.tokens.is_empty() && candidate.returns.is_empty());
        assert_eq!(serde_json::to_string(&candidate).unwrap(), old);
        let full = Candidate {
            tokens: vec![7, 1],
            returns: vec![0.95, 0.0],
            ..candidate
        };
        let text = serde_json::to_string(&full).unwrap();
        assert!(
            text.ends_with(r#","tokens":[7,1],"returns":[0.95,0.0]}"#),
            "{text}"
        );
        assert_eq!(serde_json::from_str::<Candidate>(&text).unwrap(), full);
    }
}
