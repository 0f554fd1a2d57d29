//! Several games that are played at once.

use crate::env::PyEnv;
use crate::game::PyGame;
use crate::process::pool;
use crate::running::RunningGame;
use pyo3::exceptions::{PyIndexError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString};
use rayon::prelude::*;

/// Fewest games that are worth a thread of their own: a step takes about a microsecond.
const SHARE: usize = 16;

/// One game of a batch.
struct BatchSlot {
    running: RunningGame,
    /// Commands so far, those that the game does not know included.
    turns: u32,
    done: bool,
    text: String,
}

impl BatchSlot {
    fn new(py: Python<'_>, game: Py<PyGame>) -> Self {
        Self {
            running: RunningGame::new(py, game),
            turns: 0,
            done: false,
            text: String::new(),
        }
    }

    fn reset(&mut self) -> Result<(), String> {
        (self.turns, self.done) = (0, false);
        self.text = self.running.reset()?;
        Ok(())
    }

    /// Plays a command. A game that is over keeps its last result.
    fn step(&mut self, command: &str, limit: u32) -> Result<(), String> {
        if self.done {
            return Ok(());
        }
        self.text = self.running.play(command)?;
        self.turns += 1;
        self.done = self.running.won() || self.turns >= limit;
        Ok(())
    }
}

/// Several games that are played at once, on all cores and without the GIL. Every list of a call or a result has one
/// entry per game, in the order of the games.
#[pyclass(name = "Batch", module = "hearth_world._native")]
pub struct PyBatch {
    slots: Vec<BatchSlot>,
    limit: u32,
}

impl PyBatch {
    fn no_game(&self, index: usize) -> PyErr {
        let count = self.slots.len();
        PyIndexError::new_err(format!("there is no game {index}; the batch has {count}"))
    }

    fn failed(index: usize, reason: &str) -> PyErr {
        PyRuntimeError::new_err(format!(
            "game {index} of the batch has no text for its state: {reason}"
        ))
    }
}

/// Calls `act` for every slot with its index, on the thread pool if there are enough of them.
fn for_all(
    py: Python<'_>,
    slots: Vec<(usize, &mut BatchSlot)>,
    act: impl Fn(usize, &mut BatchSlot) -> Result<(), String> + Sync,
) -> PyResult<()> {
    let one =
        |(index, slot): (usize, &mut BatchSlot)| act(index, slot).map_err(|reason| (index, reason));
    let pool = if slots.len() < 2 * SHARE {
        None
    } else {
        pool()?
    };
    let result = py.detach(|| match pool {
        None => slots.into_iter().try_for_each(one),
        Some(pool) => pool.install(|| slots.into_par_iter().with_min_len(SHARE).try_for_each(one)),
    });
    result.map_err(|(index, reason)| PyBatch::failed(index, &reason))
}

#[pymethods]
impl PyBatch {
    /// Creates a batch. Each game is over when it is won or after `turn_limit` commands. Raises `ValueError` if `games`
    /// is empty.
    #[new]
    #[pyo3(signature = (games, turn_limit=None))]
    fn new(py: Python<'_>, games: Vec<Py<PyGame>>, turn_limit: Option<u32>) -> PyResult<Self> {
        if games.is_empty() {
            return Err(PyValueError::new_err("a batch needs at least one game"));
        }
        if turn_limit == Some(0) {
            return Err(PyValueError::new_err(
                "turn_limit must be at least 1, or None",
            ));
        }
        Ok(Self {
            slots: games
                .into_iter()
                .map(|game| BatchSlot::new(py, game))
                .collect(),
            limit: turn_limit.unwrap_or(u32::MAX),
        })
    }

    fn __len__(&self) -> usize {
        self.slots.len()
    }

    /// Starts the games with these indices, or all. Returns their opening texts, in the order of `indices`. Raises
    /// `IndexError` or `ValueError` for an index that is too large or named twice.
    #[pyo3(signature = (indices=None))]
    fn reset(&mut self, py: Python<'_>, indices: Option<Vec<usize>>) -> PyResult<Vec<String>> {
        let count = self.slots.len();
        let chosen = indices.unwrap_or_else(|| (0..count).collect());
        let mut is_chosen = vec![false; count];
        for index in &chosen {
            match is_chosen.get_mut(*index) {
                None => return Err(self.no_game(*index)),
                Some(flag) if *flag => {
                    return Err(PyValueError::new_err(format!(
                        "game {index} is named twice"
                    )));
                }
                Some(flag) => *flag = true,
            }
        }
        let slots = self
            .slots
            .iter_mut()
            .enumerate()
            .filter(|(index, _)| is_chosen[*index])
            .collect();
        for_all(py, slots, |_, slot| slot.reset())?;
        Ok(chosen
            .iter()
            .map(|index| self.slots[*index].text.clone())
            .collect())
    }

    /// Puts another game in one place. `reset([index])` starts it.
    fn load(&mut self, py: Python<'_>, index: usize, game: Py<PyGame>) -> PyResult<()> {
        if index >= self.slots.len() {
            return Err(self.no_game(index));
        }
        self.slots[index] = BatchSlot::new(py, game);
        Ok(())
    }

    /// Plays one command in each game; `None` plays none. Returns three lists: texts, whether the goal holds, whether the
    /// game is over. A game that is over keeps its last result. Raises `ValueError` for another number of commands.
    fn step(
        &mut self,
        py: Python<'_>,
        commands: Vec<Option<Bound<'_, PyString>>>,
    ) -> PyResult<(Vec<String>, Vec<bool>, Vec<bool>)> {
        if commands.len() != self.slots.len() {
            return Err(PyValueError::new_err(format!(
                "{} commands for {} games; there must be one per game",
                commands.len(),
                self.slots.len()
            )));
        }
        // A text that is not Unicode is no command of any game.
        let commands: Vec<Option<String>> = commands
            .iter()
            .map(|command| {
                command
                    .as_ref()
                    .map(|text| text.to_string_lossy().into_owned())
            })
            .collect();
        let limit = self.limit;
        let slots = self.slots.iter_mut().enumerate().collect();
        for_all(py, slots, |index, slot| match &commands[index] {
            Some(command) => slot.step(command, limit),
            None => Ok(()),
        })?;
        let texts = self.slots.iter().map(|slot| slot.text.clone()).collect();
        let won = self.slots.iter().map(|slot| slot.running.won()).collect();
        let done = self.slots.iter().map(|slot| slot.done).collect();
        Ok((texts, won, done))
    }

    /// Returns a new sorted list of the admissible commands of each game.
    fn admissible<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyList>>> {
        self.slots
            .iter()
            .map(|slot| slot.running.admissible(py))
            .collect()
    }

    /// The games.
    #[getter]
    fn games(&self, py: Python<'_>) -> Vec<Py<PyGame>> {
        self.slots
            .iter()
            .map(|slot| slot.running.game.clone_ref(py))
            .collect()
    }

    /// The number of commands of each game since its reset.
    #[getter]
    fn turns(&self) -> Vec<u32> {
        self.slots.iter().map(|slot| slot.turns).collect()
    }

    /// The number of commands of each game since its reset that changed or printed something.
    #[getter]
    fn moves(&self) -> Vec<u32> {
        self.slots.iter().map(|slot| slot.running.moves).collect()
    }

    /// The `state_hash` of each game.
    fn state_hashes(&self) -> Vec<u64> {
        self.slots
            .iter()
            .map(|slot| slot.running.state_hash())
            .collect()
    }

    #[allow(clippy::type_complexity, reason = "what pickle expects")]
    fn __reduce__<'py>(
        slf: &Bound<'py, Self>,
    ) -> (
        Bound<'py, PyAny>,
        (Vec<Py<PyGame>>, Option<u32>),
        Vec<(Bound<'py, PyBytes>, u32, bool, String)>,
    ) {
        let (py, batch) = (slf.py(), slf.borrow());
        let limit = (batch.limit != u32::MAX).then_some(batch.limit);
        let slots = batch.slots.iter();
        (
            slf.get_type().into_any(),
            (batch.games(py), limit),
            slots
                .map(|slot| {
                    let state = PyBytes::new(py, &slot.running.to_bytes());
                    (state, slot.turns, slot.done, slot.text.clone())
                })
                .collect(),
        )
    }

    fn __setstate__(&mut self, slots: Vec<(Vec<u8>, u32, bool, String)>) -> PyResult<()> {
        if slots.len() != self.slots.len() {
            return Err(PyValueError::new_err(format!(
                "{} states for {} games",
                slots.len(),
                self.slots.len()
            )));
        }
        for (slot, (state, turns, done, text)) in self.slots.iter_mut().zip(slots) {
            let restored = slot.running.set_from_bytes(&state);
            restored.map_err(PyValueError::new_err)?;
            (slot.turns, slot.done, slot.text) = (turns, done, text);
        }
        Ok(())
    }

    /// Returns an `Env` in the state of one game.
    fn env(&self, py: Python<'_>, index: usize) -> PyResult<PyEnv> {
        let Some(slot) = self.slots.get(index) else {
            return Err(self.no_game(index));
        };
        Ok(PyEnv {
            running: slot.running.copy(py),
        })
    }
}
