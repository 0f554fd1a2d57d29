//! A game in progress: what a single environment and a game of a batch have in common.

use crate::game::PyGame;
use env_bridge::{GameState, NativeGame};
use pyo3::prelude::*;
use pyo3::types::PyList;
use std::sync::Arc;

/// A game and its current state.
pub(crate) struct RunningGame {
    pub(crate) game: Py<PyGame>,
    pub(crate) native: Arc<NativeGame>,
    pub(crate) state: GameState,
    /// Commands since the reset that changed or printed something.
    pub(crate) moves: u32,
}

impl RunningGame {
    /// Returns a game in its initial state.
    pub(crate) fn new(py: Python<'_>, game: Py<PyGame>) -> Self {
        let native = game.bind(py).get().native.clone();
        let state = native.initial_state();
        Self {
            game,
            native,
            state,
            moves: 0,
        }
    }

    /// Returns an independent copy.
    pub(crate) fn copy(&self, py: Python<'_>) -> Self {
        Self {
            game: self.game.clone_ref(py),
            native: self.native.clone(),
            state: self.state.clone(),
            moves: self.moves,
        }
    }

    /// Returns to the initial state, and the opening text.
    pub(crate) fn reset(&mut self) -> Result<String, String> {
        self.state = self.native.initial_state();
        self.moves = 0;
        self.native.opening(&self.state)
    }

    /// Plays a command and returns the text.
    pub(crate) fn play(&mut self, command: &str) -> Result<String, String> {
        let (text, changed) = self.native.play(&mut self.state, command)?;
        self.moves += u32::from(changed);
        Ok(text)
    }

    /// Returns the state and the number of moves, for [`Self::set_from_bytes`] in any process.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.moves.to_le_bytes().to_vec();
        bytes.extend(self.native.state_bytes(&self.state));
        bytes
    }

    /// Continues from the state that [`Self::to_bytes`] stored. If the bytes are damaged or belong to another game, it
    /// changes nothing and returns the reason.
    pub(crate) fn set_from_bytes(&mut self, bytes: &[u8]) -> Result<(), String> {
        let Some((moves, state)) = bytes.split_first_chunk() else {
            return Err("the snapshot is damaged".to_owned());
        };
        self.state = self.native.state_from_bytes(state)?;
        self.moves = u32::from_le_bytes(*moves);
        Ok(())
    }

    pub(crate) fn won(&self) -> bool {
        self.native.won(&self.state)
    }

    pub(crate) fn state_hash(&self) -> u64 {
        self.native.state_hash(&self.state)
    }

    /// Returns the admissible commands as a new list.
    pub(crate) fn admissible<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let commands = self.native.admissible(&self.state);
        self.game.bind(py).get().texts(py, commands)
    }
}
