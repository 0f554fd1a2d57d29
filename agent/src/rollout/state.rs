//! A state of a game that is being played, with the turns that led to it.

use crate::policy::Completion;
use crate::text::action;
use scenarios::{ActionFormat, Environment, Outcome, Turn};
use std::sync::Arc;

/// A state of a game, and the turns that led to it.
pub(super) struct RolloutState<S> {
    /// What the policy keeps of the episode.
    pub(super) episode: S,
    /// `None` while a worker uses it, and if it failed.
    pub(super) environment: Option<Box<dyn Environment>>,
    /// The last observation, which waits for a turn.
    pub(super) observation: String,
    /// [`Environment::state_hash`] after the last observation of the environment.
    pub(super) hash: Option<u64>,
    pub(super) turns: Vec<Arc<Turn>>,
}

impl<S> RolloutState<S> {
    /// Returns the state of an episode whose game is not open yet.
    pub(super) fn new(episode: S) -> Self {
        Self {
            episode,
            environment: None,
            observation: String::new(),
            hash: None,
            turns: Vec::new(),
        }
    }

    /// Returns a state after the same turns, with another episode state and environment.
    pub(super) fn fork(&self, episode: S, environment: Option<Box<dyn Environment>>) -> Self {
        Self {
            episode,
            environment,
            observation: self.observation.clone(),
            hash: self.hash,
            turns: self.turns.clone(),
        }
    }

    /// Builds the turn in which `completion` answers the last observation, and takes that
    /// observation.
    pub(super) fn turn(&mut self, completion: Completion, format: ActionFormat) -> Turn {
        let action = action::command(format, &completion.text, completion.ended);
        Turn {
            observation: std::mem::take(&mut self.observation),
            observation_tokens: completion.observation_tokens,
            completion: completion.text,
            completion_tokens: completion.tokens,
            logprobs: completion.logprobs,
            sampling_logprobs: completion.sampling_logprobs,
            action,
            perturbed: completion.perturbed,
            value: completion.value,
            after_value: completion.after_value,
            candidates: completion.candidates,
            state: self.hash,
            process_score: None,
            log_ratio: completion.log_ratio,
        }
    }

    /// Builds the same turn as one that was played before. If the environment does not repeat the
    /// observation of that turn, it returns an error.
    pub(super) fn repeated_turn(&self, turn: &Turn) -> Result<Turn, String> {
        if turn.observation != self.observation {
            return Err(format!(
                "before turn {}, played before, the world said {:?}, and now it says {:?}",
                self.turns.len(),
                turn.observation,
                self.observation
            ));
        }
        Ok(Turn {
            state: self.hash,
            process_score: None,
            ..turn.clone()
        })
    }
}

/// Why an episode cannot continue from a state.
pub(super) struct StateEnd {
    pub(super) outcome: Outcome,
    /// The reason, if the outcome is [`Outcome::EnvFailed`].
    pub(super) failure: Option<String>,
}

impl StateEnd {
    pub(super) fn failed(reason: String) -> Self {
        Self {
            outcome: Outcome::EnvFailed,
            failure: Some(reason),
        }
    }
}

impl From<Outcome> for StateEnd {
    fn from(outcome: Outcome) -> Self {
        Self {
            outcome,
            failure: None,
        }
    }
}

/// What an episode does after one of its states has ended or was evaluated.
pub(super) enum AfterState<S> {
    /// Nothing: other states of the episode are still being played.
    Wait,
    /// It continues from states 0 to `states` - 1, which are ready for the policy.
    Continue { states: usize },
    /// It is over, and this state is its result.
    End(Box<RolloutState<S>>, StateEnd),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_contains_the_observation_and_the_state_in_which_it_was_written() {
        let mut state = RolloutState::new(());
        state.observation = "You see a door.".into();
        state.hash = Some(7);
        let turn = state.turn(
            Completion::from_text(" open door ".into()),
            ActionFormat::Plain,
        );
        assert_eq!(
            (
                turn.observation.as_str(),
                turn.state,
                turn.action.as_deref()
            ),
            ("You see a door.", Some(7), Some("open door"))
        );
        assert!(state.observation.is_empty());
        let cut = Completion {
            ended: false,
            ..Completion::from_text("open door".into())
        };
        assert_eq!(
            state.turn(cut, ActionFormat::Plain).action,
            None,
            "a cut completion is malformed"
        );
    }
}
