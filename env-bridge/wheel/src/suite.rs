//! Games in folders: the list of a suite, and new games.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use scenarios::Suite;
use scenarios::household::{self, GenerateOptions};
use std::path::PathBuf;

/// Returns the games of a suite as tuples (id, split, task type or None, path), and the games that cannot be used
/// as tuples (path, reason).
#[pyfunction]
#[allow(clippy::type_complexity, reason = "two plain lists for Python")]
pub(crate) fn scan(
    py: Python<'_>,
    path: PathBuf,
) -> PyResult<(
    Vec<(String, &'static str, Option<&'static str>, PathBuf)>,
    Vec<(PathBuf, String)>,
)> {
    let suite = py
        .detach(|| Suite::open(&path))
        .map_err(|error| PyValueError::new_err(error.to_string()))?;
    let games = suite.tasks.into_iter();
    let faults = suite.faults.into_iter().chain(suite.left_out);
    Ok((
        games
            .map(|task| {
                (
                    task.id,
                    task.split.name(),
                    task.task_type.map(|kind| kind.name()),
                    task.path,
                )
            })
            .collect(),
        faults.map(|fault| (fault.path, fault.reason)).collect(),
    ))
}

/// Writes new household games into a folder and returns the number of games.
#[pyfunction]
#[pyo3(signature = (folder, *, train, valid_train, valid_seen, valid_unseen, seed))]
pub(crate) fn generate(
    py: Python<'_>,
    folder: PathBuf,
    train: usize,
    valid_train: usize,
    valid_seen: usize,
    valid_unseen: usize,
    seed: u64,
) -> PyResult<usize> {
    let options = GenerateOptions {
        train,
        valid_train,
        seen: valid_seen,
        unseen: valid_unseen,
        seed,
        ..GenerateOptions::default()
    };
    py.detach(|| household::generate(&folder, &options))
        .map_err(|error| PyValueError::new_err(error.to_string()))?;
    Ok(train + valid_train + valid_seen + valid_unseen)
}
