//! The Python worlds: the games of ALFWorld and TextWorld, and classes of the user, each
//! environment in a process of its own.
//!
//! ```text
//! PythonWorld (pool) ── process ══ pipes, frames of JSON (wire) ══ worker ── interpreter (pyo3) ── glue.py ── world
//! ```
//!
//! The planner of ALFWorld is not thread-safe, can end its process, and leaks memory by design.
//! Python therefore never runs in the process of hearth. A worker is the same program, started
//! again as `hearth env-worker`. If a worker raises an exception, dies, hangs, writes invalid data
//! or uses too much memory, one episode is lost and the worker is replaced. If a worker has served
//! many episodes, it is replaced too. If hearth ends for any reason, its workers detect that their
//! pipes are closed, remove their temporary files and end.
//!
//! # A world of your own
//!
//! Any class with three methods, named as `FILE.py:CLASS` or `package.module:CLASS`:
//!
//! ```python
//! class World:
//!     def reset(self, game):    # the path of the task's game file; its content is yours
//!         return "You are in a room. Your task is to: leave.", "playing", ["open door", "look"]
//!     def step(self, command):  # "playing", "won" or "lost"; the list of commands may be left out
//!         return "You step outside.", "won", []
//!     def close(self):          # called before the worker ends
//!         pass
//! ```

mod interpreter;
mod options;
mod pool;
mod process;
mod venv;
mod wire;
mod worker;

pub use options::PythonOptions;
pub use pool::{PythonWorld, StartError, WorkerCounts};
pub use venv::{
    PYTHON_EXECUTABLE, PYTHON_LIBRARY, PYTHON_VERSION, Pin, REQUIREMENTS, Venv, VenvError, install,
    pinned,
};
pub use wire::PythonKind;
pub use worker::serve;

/// The loop of the worker over a PDDL game in plain Python. `hearth bench world` measures the
/// bridge against it.
pub const BARE_LOOP: &str = include_str!("bare.py");
