//! A loaded game.

use crate::errors::{loading, unreadable};
use crate::process::{pool, world};
use env_bridge::{NativeGame, ObjectNames};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyList, PyString};
use rayon::prelude::*;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A game that is ready to be played. It does not change, and any number of `Env` share it.
#[pyclass(frozen, name = "Game", module = "hearth_world._native")]
pub struct PyGame {
    pub(crate) native: Arc<NativeGame>,
    path: Option<PathBuf>,
    /// The same, absolute: a process that restores a pickled game may have another current folder.
    file: Option<PathBuf>,
    /// The file's bytes, if the game has no path.
    bytes: Option<Vec<u8>>,
    /// The names that were given for ids.
    names: Option<HashMap<String, String>>,
    /// By command: its text as a Python string, made when it is needed first.
    commands: Vec<PyOnceLock<Py<PyString>>>,
}

impl PyGame {
    fn new(
        native: Arc<NativeGame>,
        path: Option<PathBuf>,
        bytes: Option<Vec<u8>>,
        names: Option<HashMap<String, String>>,
    ) -> Self {
        let commands = (0..native.command_count())
            .map(|_| PyOnceLock::new())
            .collect();
        let file = path
            .as_ref()
            .map(|path| std::path::absolute(path).unwrap_or_else(|_| path.clone()));
        Self {
            native,
            path,
            file,
            bytes,
            names,
            commands,
        }
    }

    /// Loads a game from the bytes of its file. `names` are ALFWorld's display names if it is `None`, else
    /// the ids with these names in their place.
    fn read(
        py: Python<'_>,
        path: Option<PathBuf>,
        bytes: Vec<u8>,
        names: Option<HashMap<String, String>>,
    ) -> PyResult<Self> {
        let place = path.clone().unwrap_or_else(|| PathBuf::from("<bytes>"));
        let native = py
            .detach(|| native(&place, &bytes, names.as_ref()))
            .map_err(|error| loading(&place, error))?;
        let bytes = path.is_none().then_some(bytes);
        Ok(Self::new(native, path, bytes, names))
    }

    /// Returns the texts of these commands as a new list.
    pub(crate) fn texts<'py>(
        &self,
        py: Python<'py>,
        commands: impl Iterator<Item = usize>,
    ) -> PyResult<Bound<'py, PyList>> {
        let texts: Vec<&Bound<'py, PyString>> = commands
            .map(|command| {
                self.commands[command]
                    .get_or_init(py, || {
                        PyString::new(py, self.native.command(command)).unbind()
                    })
                    .bind(py)
            })
            .collect();
        PyList::new(py, texts)
    }
}

/// Loads a game from the bytes of the file at `place`.
fn native(
    place: &Path,
    bytes: &[u8],
    names: Option<&HashMap<String, String>>,
) -> Result<Arc<NativeGame>, env_bridge::GameError> {
    let names = names.map_or(ObjectNames::Display, ObjectNames::Given);
    world().game_with_names(place, bytes, names)
}

/// Loads the game of a file, with ALFWorld's display names.
fn native_of_file(path: &Path) -> PyResult<Arc<NativeGame>> {
    let bytes = std::fs::read(path).map_err(|error| unreadable(path, &error))?;
    native(path, &bytes, None).map_err(|error| loading(path, error))
}

#[pymethods]
impl PyGame {
    /// Loads the game of a file. `names` gives each object id of the file another name; by default they are
    /// ALFWorld's display names, such as `mug 1`.
    ///
    /// Raises `FileNotFoundError` or `OSError` if the file cannot be read, and `GameError` if it is not a game.
    #[new]
    #[pyo3(signature = (path, *, names=None))]
    fn load(
        py: Python<'_>,
        path: PathBuf,
        names: Option<HashMap<String, String>>,
    ) -> PyResult<Self> {
        let bytes = std::fs::read(&path).map_err(|error| unreadable(&path, &error))?;
        Self::read(py, Some(path), bytes, names)
    }

    /// Loads the games of many files, on all cores and without the GIL. If a path occurs several times, its places share
    /// one game. Raises what `Game(path)` raises for the first file that is no game.
    #[staticmethod]
    fn load_many(py: Python<'_>, paths: Vec<PathBuf>) -> PyResult<Vec<Py<Self>>> {
        let mut different: Vec<&PathBuf> = paths.iter().collect();
        different.sort_unstable();
        different.dedup();
        let pool = if different.len() > 1 { pool()? } else { None };
        let load = |path: &&PathBuf| native_of_file(path);
        let loaded: Vec<PyResult<Arc<NativeGame>>> = py.detach(|| match pool {
            None => different.iter().map(load).collect(),
            Some(pool) => pool.install(|| different.par_iter().map(load).collect()),
        });
        let mut games: HashMap<&PathBuf, PyResult<Py<Self>>> = HashMap::new();
        for (path, native) in different.into_iter().zip(loaded) {
            let game = native
                .and_then(|native| Py::new(py, Self::new(native, Some(path.clone()), None, None)));
            games.insert(path, game);
        }
        paths
            .iter()
            .map(|path| match &games[path] {
                Ok(game) => Ok(game.clone_ref(py)),
                Err(error) => Err(error.clone_ref(py)),
            })
            .collect()
    }

    /// Loads a game from the bytes of its file.
    #[staticmethod]
    #[pyo3(signature = (data, *, names=None))]
    fn from_bytes(
        py: Python<'_>,
        data: Vec<u8>,
        names: Option<HashMap<String, String>>,
    ) -> PyResult<Self> {
        Self::read(py, None, data, names)
    }

    /// Restores a pickled game.
    #[staticmethod]
    fn _restored(
        py: Python<'_>,
        path: Option<PathBuf>,
        data: Option<Vec<u8>>,
        names: Option<HashMap<String, String>>,
    ) -> PyResult<Self> {
        match (path, data) {
            (Some(path), _) => Self::load(py, path, names),
            (None, data) => Self::read(py, None, data.unwrap_or_default(), names),
        }
    }

    /// The file, or `None` if the game was loaded from bytes.
    #[getter]
    fn path(&self) -> Option<PathBuf> {
        self.path.clone()
    }

    /// The task sentence, or `None` if the grammar has none.
    #[getter]
    fn task(&self) -> Option<String> {
        self.native.task_sentence()
    }

    /// The plan in the file, or `None`.
    #[getter]
    fn walkthrough(&self) -> Option<Vec<String>> {
        self.native.walkthrough().map(<[String]>::to_vec)
    }

    /// The command templates of the grammar, sorted.
    #[getter]
    fn command_templates(&self) -> Vec<String> {
        self.native.command_templates().map(str::to_owned).collect()
    }

    /// Every command that is admissible in some state, sorted.
    #[getter]
    fn commands<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.texts(py, 0..self.commands.len())
    }

    /// The names of all objects.
    #[getter]
    fn objects(&self) -> Vec<String> {
        self.native.object_names().map(str::to_owned).collect()
    }

    /// The id and the type of every object that an initial fact contains.
    #[getter]
    fn entities(&self) -> Vec<(String, String)> {
        let entities = self.native.mentioned_objects();
        entities
            .map(|(id, kind)| (id.to_owned(), kind.to_owned()))
            .collect()
    }

    /// The names of `entities`, in the same order.
    #[getter]
    fn entity_names(&self) -> Vec<String> {
        self.native.mentioned_names().map(str::to_owned).collect()
    }

    #[allow(clippy::type_complexity, reason = "what pickle expects")]
    fn __reduce__<'py>(
        slf: &Bound<'py, Self>,
    ) -> PyResult<(
        Bound<'py, PyAny>,
        (
            Option<PathBuf>,
            Option<Bound<'py, PyBytes>>,
            Option<HashMap<String, String>>,
        ),
    )> {
        let game = slf.get();
        let bytes = game
            .bytes
            .as_ref()
            .map(|bytes| PyBytes::new(slf.py(), bytes));
        Ok((
            slf.get_type().getattr("_restored")?,
            (game.file.clone(), bytes, game.names.clone()),
        ))
    }

    fn __repr__(&self) -> String {
        match &self.path {
            Some(path) => format!("Game({:?})", path.display().to_string()),
            None => "Game.from_bytes(...)".to_owned(),
        }
    }
}
