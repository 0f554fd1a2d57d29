//! The embedded interpreter: `glue.py` with its world. Python returns only `str` and `list[str]`;
//! its exceptions are converted to their tracebacks here.

use super::wire::{PythonKind, WorkerResult, WorkerStart};
use pyo3::prelude::*;
use pyo3::types::PyModule;
use std::ffi::CString;
use std::path::Path;

const GLUE: &str = include_str!("glue.py");

/// The observation, the status and the admissible commands, as `glue.py` returns them.
type GlueObservation = (String, String, Option<Vec<String>>);

/// A world in the interpreter of this process. A process has only one, because the translator of
/// the planner has global state.
pub(super) struct Interpreter {
    glue: Py<PyModule>,
    world: Py<PyAny>,
}

impl Interpreter {
    /// Starts Python, makes the packages importable and creates the world.
    pub(super) fn start(start: &WorkerStart) -> Result<Self, String> {
        Python::initialize();
        Python::attach(|py| {
            let glue = load_glue(py).map_err(|error| error.to_string())?;
            let world = create_world(&glue, start).map_err(|error| traceback(py, &glue, error))?;
            Ok(Self {
                glue: glue.unbind(),
                world,
            })
        })
    }

    pub(super) fn load(&mut self, game: &Path) -> Result<(), String> {
        self.call(|world| world.call_method1("load", (game.as_os_str(),)).map(drop))
    }

    pub(super) fn reset(&mut self) -> Result<WorkerResult, String> {
        self.call(|world| observed(&world.call_method0("reset")?))
    }

    pub(super) fn step(&mut self, command: &str) -> Result<WorkerResult, String> {
        self.call(|world| observed(&world.call_method1("step", (command,))?))
    }

    pub(super) fn close(&mut self) -> Result<(), String> {
        self.call(|world| world.call_method0("close").map(drop))
    }

    fn call<T>(&self, work: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<T>) -> Result<T, String> {
        Python::attach(|py| {
            work(self.world.bind(py)).map_err(|error| traceback(py, self.glue.bind(py), error))
        })
    }
}

fn load_glue(py: Python<'_>) -> PyResult<Bound<'_, PyModule>> {
    let code = CString::new(GLUE).expect("glue.py contains no zero byte");
    PyModule::from_code(py, &code, c"hearth/glue.py", c"hearth_glue")
}

fn create_world(glue: &Bound<'_, PyModule>, start: &WorkerStart) -> PyResult<Py<PyAny>> {
    glue.call_method1("prepare", (start.temporary.as_os_str(),))?;
    if let Some(folder) = &start.site_packages {
        glue.call_method1("enter", (folder.as_os_str(), start.isolated))?;
    }
    let world = match &start.world {
        PythonKind::TextWorld => glue.call_method0("TextWorldGames")?,
        PythonKind::Users(class) => glue.call_method1("UsersWorld", (class,))?,
    };
    Ok(world.unbind())
}

fn observed(result: &Bound<'_, PyAny>) -> PyResult<WorkerResult> {
    let (text, status, commands): GlueObservation = result.extract()?;
    let status = match status.as_str() {
        "won" => scenarios::Status::Won,
        "lost" => scenarios::Status::Lost,
        _ => scenarios::Status::Playing,
    };
    Ok(WorkerResult::Observed {
        text,
        status,
        commands,
    })
}

/// Returns the traceback of an exception, also of `SystemExit` and `KeyboardInterrupt`. If Python
/// cannot format it, returns the short message.
fn traceback(py: Python<'_>, glue: &Bound<'_, PyModule>, error: PyErr) -> String {
    let short = error.to_string();
    glue.call_method1("explain", (error.value(py), error.traceback(py)))
        .and_then(|text| text.extract())
        .unwrap_or(short)
}
