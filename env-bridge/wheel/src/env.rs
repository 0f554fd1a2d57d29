//! One running game.

use crate::game::PyGame;
use crate::running::RunningGame;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString};

/// One running game. The texts, the admissible commands and whether the game is won equal those of TextWorld
/// with ALFWorld's demangler.
#[pyclass(name = "Env", module = "hearth_world._native")]
pub struct PyEnv {
    pub(crate) running: RunningGame,
}

fn no_text(reason: String) -> PyErr {
    PyRuntimeError::new_err(format!("the game has no text for this state: {reason}"))
}

#[pymethods]
impl PyEnv {
    /// Creates an environment in the initial state of a game. `reset` returns the opening text.
    #[new]
    fn new(py: Python<'_>, game: Py<PyGame>) -> Self {
        Self {
            running: RunningGame::new(py, game),
        }
    }

    /// The game.
    #[getter]
    fn game(&self, py: Python<'_>) -> Py<PyGame> {
        self.running.game.clone_ref(py)
    }

    /// Whether the goal holds.
    #[getter]
    fn won(&self) -> bool {
        self.running.won()
    }

    /// The number of commands since the reset that changed or printed something.
    #[getter]
    fn moves(&self) -> u32 {
        self.running.moves
    }

    /// Returns to the initial state. Returns the opening text.
    fn reset(&mut self) -> PyResult<String> {
        self.running.reset().map_err(no_text)
    }

    /// Plays a command. Returns the text and whether the goal holds. If the command is not admissible, the text is
    /// `Nothing happens.` and the state stays.
    fn step(&mut self, command: &Bound<'_, PyString>) -> PyResult<(String, bool)> {
        // A text that is not Unicode is no command of any game.
        let text = self.running.play(&command.to_string_lossy());
        Ok((text.map_err(no_text)?, self.running.won()))
    }

    /// Returns the admissible commands, sorted, as a new list.
    fn admissible<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.running.admissible(py)
    }

    /// Returns an independent copy in the same state, in less than a microsecond.
    fn clone(&self, py: Python<'_>) -> Self {
        Self {
            running: self.running.copy(py),
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
        PyBytes::new(py, &self.running.to_bytes())
    }

    /// Continues from a snapshot. Raises `ValueError` if it is damaged or of another game.
    fn restore(&mut self, snapshot: &[u8]) -> PyResult<()> {
        let restored = self.running.set_from_bytes(snapshot);
        restored.map_err(PyValueError::new_err)
    }

    /// Returns a number that depends only on the facts of the state: equal in every process for equal states of a game.
    fn state_hash(&self) -> u64 {
        self.running.state_hash()
    }

    /// Returns how many commands a plan to the goal needs: 0 if it holds, `None` if it is out of reach. It reads the
    /// hidden state.
    fn remaining(&self, py: Python<'_>) -> Option<usize> {
        let RunningGame { native, state, .. } = &self.running;
        let remaining = py.detach(|| native.remaining(state));
        (remaining != usize::MAX).then_some(remaining)
    }

    /// Returns the commands of a plan to the goal, or `None` if the search finds none. It reads the hidden state.
    fn plan(&self, py: Python<'_>) -> Option<Vec<String>> {
        let RunningGame { native, state, .. } = &self.running;
        let plan = py.detach(|| native.plan(state))?;
        Some(plan.into_iter().map(str::to_owned).collect())
    }

    /// Returns the facts as tuples (predicate, [(object, type), ...]). The prefix `not_` marks a fact that a command made
    /// false, as in TextWorld.
    fn facts(&self) -> Vec<(String, Vec<(String, String)>)> {
        let RunningGame { native, state, .. } = &self.running;
        let facts = native.facts(state).into_iter();
        facts
            .map(|fact| {
                let objects = fact.objects.iter();
                (
                    fact.listed_predicate(),
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
        let RunningGame { native, state, .. } = &self.running;
        native.why(state, &command.to_string_lossy())
    }

    #[allow(clippy::type_complexity, reason = "what pickle expects")]
    fn __reduce__<'py>(
        slf: &Bound<'py, Self>,
    ) -> PyResult<(Bound<'py, PyAny>, (Py<PyGame>,), Bound<'py, PyBytes>)> {
        let py = slf.py();
        let env = slf.borrow();
        Ok((
            slf.get_type().into_any(),
            (env.running.game.clone_ref(py),),
            env.snapshot(py),
        ))
    }

    fn __setstate__(&mut self, snapshot: &[u8]) -> PyResult<()> {
        self.restore(snapshot)
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!(
            "Env({}, moves={})",
            self.running.game.bind(py).repr()?,
            self.running.moves
        ))
    }
}
