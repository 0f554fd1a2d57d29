//! One running native game behind the trait [`Environment`].

use super::simulator::{GameState, NativeGame};
use scenarios::{Environment, EnvironmentError, Observation, Status};
use std::sync::Arc;

/// The observation after a command that is not admissible.
pub const NOTHING_HAPPENS: &str = "Nothing happens.";

/// One running native game.
#[derive(Debug, Clone)]
pub struct NativeEnvironment {
    game: Arc<NativeGame>,
    state: GameState,
}

impl NativeEnvironment {
    /// Returns an environment in the initial state of a game.
    #[must_use]
    pub fn new(game: Arc<NativeGame>) -> Self {
        let state = game.initial_state();
        Self { game, state }
    }

    /// Returns the game.
    #[must_use]
    pub fn game(&self) -> &Arc<NativeGame> {
        &self.game
    }

    /// Returns the current state.
    #[must_use]
    pub fn state(&self) -> &GameState {
        &self.state
    }

    /// Returns a copy of the current state, for [`Self::restore`].
    #[must_use]
    pub fn snapshot(&self) -> GameState {
        self.state.clone()
    }

    /// Sets the current state to a state of the same game. Play continues exactly as it did from
    /// that state.
    ///
    /// # Panics
    /// Panics if `state` belongs to another game.
    pub fn restore(&mut self, state: &GameState) {
        self.game.assert_own(state);
        self.state.clone_from(state);
    }

    fn observation(
        &self,
        command: &str,
        text: Result<String, String>,
    ) -> Result<Observation, EnvironmentError> {
        let text = text.map_err(|reason| EnvironmentError::Step {
            command: command.to_owned(),
            reason,
        })?;
        Ok(Observation {
            text,
            status: Status::of_goal(self.game.won(&self.state)),
        })
    }
}

impl NativeGame {
    /// Plays a command as `TextWorld` does: blanks around it do not count. Returns the text, and whether
    /// the command was admissible. If it was not, the text is [`NOTHING_HAPPENS`] and the state stays.
    ///
    /// # Errors
    /// Returns an error if the grammar has no text for the new state.
    ///
    /// # Panics
    /// Panics if `state` belongs to another game.
    pub fn play(&self, state: &mut GameState, command: &str) -> Result<(String, bool), String> {
        let index = self.command_index(command.trim_matches(is_blank));
        match index.and_then(|index| self.apply(state, index)) {
            None => Ok((NOTHING_HAPPENS.to_owned(), false)),
            Some(operator) => Ok((self.feedback(state, operator)?, true)),
        }
    }
}

impl Environment for NativeEnvironment {
    fn reset(&mut self) -> Result<Observation, EnvironmentError> {
        self.state = self.game.initial_state();
        self.observation("reset", self.game.opening(&self.state))
    }

    fn step(&mut self, command: &str) -> Result<Observation, EnvironmentError> {
        let played = self.game.play(&mut self.state, command);
        self.observation(command, played.map(|(text, _)| text))
    }

    fn admissible_commands(&mut self) -> Result<Vec<String>, EnvironmentError> {
        Ok(self
            .game
            .admissible_commands(&self.state)
            .map(str::to_owned)
            .collect())
    }

    /// See [`NativeGame::state_hash`].
    fn state_hash(&self) -> Option<u64> {
        Some(self.game.state_hash(&self.state))
    }

    /// See [`NativeGame::remaining`].
    fn remaining(&self) -> Option<usize> {
        Some(self.game.remaining(&self.state))
    }

    fn fork(&self) -> Option<Box<dyn Environment>> {
        Some(Box::new(self.clone()))
    }
}

/// Returns whether Python's `str.strip` removes this character.
pub(crate) fn is_blank(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}
