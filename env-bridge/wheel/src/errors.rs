//! The exceptions of the module.

use env_bridge::GameError as NativeError;
use pyo3::exceptions::{PyFileNotFoundError, PyOSError, PyValueError};
use pyo3::{PyErr, create_exception};
use std::io::ErrorKind;
use std::path::Path;

create_exception!(
    hearth_world,
    GameError,
    PyValueError,
    "A file is not a game that can be played. The message has the file, the place in it and the reason."
);

/// Converts an error of loading a game.
pub(crate) fn loading(path: &Path, error: NativeError) -> PyErr {
    GameError::new_err(error.into_environment_error(path).to_string())
}

/// Returns the exception for a file that cannot be read, with the fix if the file is ALFWorld's.
pub(crate) fn unreadable(path: &Path, source: &std::io::Error) -> PyErr {
    if source.kind() != ErrorKind::NotFound {
        return PyOSError::new_err(format!("cannot read {}: {source}", path.display()));
    }
    let is_game = path
        .file_name()
        .is_some_and(|name| name == scenarios::suite::GAME);
    let hint = if is_game && path.with_file_name(scenarios::suite::TRAJ_DATA).exists() {
        "\nhint: this trial has no text game; `alfworld-download` fetches the games (json_2.1.1 or later)"
    } else {
        ""
    };
    PyFileNotFoundError::new_err(format!("there is no file {}{hint}", path.display()))
}
