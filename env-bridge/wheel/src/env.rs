//! One running game.

use crate::game::PyGame;
use env_bridge::native::NOTHING_HAPPENS;
use env_bridge::{GameState, NativeGame};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString};
use std::sync::Arc;

/// One running game. The texts, the admissible commands and whether the game is won equal those of TextWorld
/// with ALFWorld's demangler.
#[pyclass(name = "Env", module = "hearth_world._native")]
pub struct PyEnv {
    game: Py<PyGame>,
    native: Arc<NativeGame>,
    state: GameState,
    moves: u32,
}

/// The result of a command: the text, and whether it changed or printed something.
pub(crate) fn play(
    native: &NativeGame,
    state: &mut GameState,
    command: &str,
) -> Result<(String, bool), String> {
    // Python's `str.strip`, as TextWorld does before it looks for the command.
    let command =
        command.trim_matches(|c: char| c.is_whitespace() || ('\x1c'..='\x1f').contains(&c));
    let index = native.command_index(command);
    match index.and_then(|index| native.apply(state, index)) {
        None => Ok((NOTHING_HAPPENS.to_owned(), false)),
        Some(operator) => Ok((native.feedback(state, operator)?, true)),
    }
}

impl PyEnv {
    /// Returns an environment of a game in one of its states.
    pub(crate) fn with_state(
        py: Python<'_>,
        game: &Py<PyGame>,
        state: GameState,
        moves: u32,
    ) -> Self {
        Self {
            game: game.clone_ref(py),
            native: game.bind(py).get().native.clone(),
            state,
            moves,
        }
    }
}

fn no_text(reason: String) -> PyErr {
    PyRuntimeError::new_err(format!("the game has no text for this state: {reason}"))
}

#[pymethods]
impl PyEnv {
    /// Creates an environment in the initial state of a game. `reset` returns the opening text.
    #[new]
    fn new(py: Python<'_>, game: Py<PyGame>) -> Self {
        let native = game.bind(py).get().native.clone();
        let state = native.initial_state();
        Self {
            game,
            native,
            state,
            moves: 0,
        }
    }

    /// The game.
    #[getter]
    fn game(&self, py: Python<'_>) -> Py<PyGame> {
        self.game.clone_ref(py)
    }

    /// Whether the goal holds.
    #[getter]
    fn won(&self) -> bool {
        self.native.won(&self.state)
    }

    /// The number of commands since the reset that changed or printed something.
    #[getter]
    fn moves(&self) -> u32 {
        self.moves
    }

    /// Returns to the initial state. Returns the opening text.
    fn reset(&mut self) -> PyResult<String> {
        self.state = self.native.initial_state();
        self.moves = 0;
        self.native.opening(&self.state).map_err(no_text)
    }

    /// Plays a command. Returns the text and whether the goal holds. If the command is not admissible, the text is
    /// `Nothing happens.` and the state stays.
    fn step(&mut self, command: &Bound<'_, PyString>) -> PyResult<(String, bool)> {
        // A text that is not Unicode is no command of any game.
        let command = &command.to_string_lossy();
        let (text, changed) = play(&self.native, &mut self.state, command).map_err(no_text)?;
        self.moves += u32::from(changed);
        Ok((text, self.native.won(&self.state)))
    }

    /// Returns the admissible commands, sorted, as a new list.
    fn admissible<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.game
            .bind(py)
            .get()
            .texts(py, self.native.admissible(&self.state))
    }

    /// Returns an independent copy in the same state, in about half a microsecond.
    fn clone(&self, py: Python<'_>) -> Self {
        Self {
            game: self.game.clone_ref(py),
            native: self.native.clone(),
            state: self.state.clone(),
            moves: self.moves,
        }
    }

    fn __copy__(&self, py: Python<'_>) -> Self {
        self.clone(py)
    }

    fn __deepcopy__(&self, py: Python<'_>, _memo: &Bound<'_, PyAny>) -> Self {
        self.clone(py)
    }

    /// Returns the state as bytes, for `restore` of any environment of the same game in any process.
    fn snapshot<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let mut bytes = self.moves.to_le_bytes().to_vec();
        bytes.extend(self.native.state_bytes(&self.state));
        PyBytes::new(py, &bytes)
    }

    /// Continues from a snapshot. Raises `ValueError` if it is damaged or of another game.
    fn restore(&mut self, snapshot: &[u8]) -> PyResult<()> {
        let Some((moves, state)) = snapshot.split_first_chunk() else {
            return Err(PyValueError::new_err("the snapshot is damaged"));
        };
        self.state = self
            .native
            .state_from_bytes(state)
            .map_err(PyValueError::new_err)?;
        self.moves = u32::from_le_bytes(*moves);
        Ok(())
    }

    /// Returns a number that depends only on the facts of the state: equal in every process for equal states of a game.
    fn state_hash(&self) -> u64 {
        self.native.state_hash(&self.state)
    }

    /// Returns how many commands a plan to the goal needs: 0 if it holds, `None` if it is out of reach. It reads the
    /// hidden state.
    fn remaining(&self, py: Python<'_>) -> Option<usize> {
        let remaining = py.detach(|| self.native.remaining(&self.state));
        (remaining != usize::MAX).then_some(remaining)
    }

    /// Returns the commands of a plan to the goal, or `None` if the search finds none. It reads the hidden state.
    fn plan(&self, py: Python<'_>) -> Option<Vec<String>> {
        let plan = py.detach(|| self.native.plan(&self.state))?;
        Some(plan.into_iter().map(str::to_owned).collect())
    }

    /// Returns the facts as tuples (predicate, [(object, type), ...]). The prefix `not_` marks a fact that a command made
    /// false, as in TextWorld.
    fn facts(&self) -> Vec<(String, Vec<(String, String)>)> {
        let facts = self.native.facts(&self.state).into_iter();
        facts
            .map(|fact| {
                let prefix = if fact.made_false { "not_" } else { "" };
                let objects = fact.objects.iter();
                (
                    format!("{prefix}{}", fact.predicate),
                    objects
                        .map(|object| (object.name.to_owned(), object.type_name.to_owned()))
                        .collect(),
                )
            })
            .collect()
    }

    /// Returns the reasons why a command would give `Nothing happens.`, one sentence each; an empty list if it is
    /// admissible. They name facts of the hidden state.
    fn why(&self, command: &Bound<'_, PyString>) -> Vec<String> {
        self.native.why(&self.state, &command.to_string_lossy())
    }

    #[allow(clippy::type_complexity, reason = "what pickle expects")]
    fn __reduce__<'py>(
        slf: &Bound<'py, Self>,
    ) -> PyResult<(Bound<'py, PyAny>, (Py<PyGame>,), Bound<'py, PyBytes>)> {
        let py = slf.py();
        let env = slf.borrow();
        Ok((
            slf.get_type().into_any(),
            (env.game.clone_ref(py),),
            env.snapshot(py),
        ))
    }

    fn __setstate__(&mut self, snapshot: &[u8]) -> PyResult<()> {
        self.restore(snapshot)
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!(
            "Env({}, moves={})",
            self.game.bind(py).repr()?,
            self.moves
        ))
    }
}
