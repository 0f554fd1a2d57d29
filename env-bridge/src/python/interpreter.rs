//! The embedded interpreter: `glue.py` with its world. Python hands back only str and list[str]; its exceptions end
//! here as their tracebacks.

use super::wire::{PythonKind, Said, Start};
use pyo3::prelude::*;
use pyo3::types::PyModule;
use std::ffi::CString;
use std::path::Path;

const GLUE: &str = include_str!("glue.py");

/// What `glue.py` calls an observation.
type Told = (String, String, Option<Vec<String>>);

/// A world inside the interpreter of this process. One a process: the planner's translator has global state.
pub(super) struct Interpreter {
    glue: Py<PyModule>,
    world: Py<PyAny>,
}

impl Interpreter {
    /// Starts Python, enters the packages and makes the world.
    pub(super) fn start(start: &Start) -> Result<Self, String> {
        Python::initialize();
        Python::attach(|py| {
            let glue = glue(py).map_err(|error| error.to_string())?;
            let world = || -> PyResult<Py<PyAny>> {
                glue.call_method1("prepare", (start.temporary.as_os_str(),))?;
                if let Some(folder) = &start.site_packages {
                    glue.call_method1("enter", (folder.as_os_str(), start.alone))?;
                }
                let world = match &start.world {
                    PythonKind::TextWorld => glue.call_method0("TextWorldGames")?,
                    PythonKind::Users(place) => glue.call_method1("UsersWorld", (place,))?,
                };
                Ok(world.unbind())
            };
            let world = world().map_err(|error| explain(py, &glue, error))?;
            Ok(Self {
                glue: glue.unbind(),
                world,
            })
        })
    }

    pub(super) fn load(&mut self, game: &Path) -> Result<(), String> {
        self.call(|world| world.call_method1("load", (game.as_os_str(),)).map(drop))
    }

    pub(super) fn reset(&mut self) -> Result<Said, String> {
        self.call(|world| told(&world.call_method0("reset")?))
    }

    pub(super) fn step(&mut self, command: &str) -> Result<Said, String> {
        self.call(|world| told(&world.call_method1("step", (command,))?))
    }

    pub(super) fn close(&mut self) -> Result<(), String> {
        self.call(|world| world.call_method0("close").map(drop))
    }

    fn call<T>(&self, work: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<T>) -> Result<T, String> {
        Python::attach(|py| {
            work(self.world.bind(py)).map_err(|error| explain(py, self.glue.bind(py), error))
        })
    }
}

/// What is installed, by package name; empty where it is not.
pub(super) fn glue(py: Python<'_>) -> PyResult<Bound<'_, PyModule>> {
    let code = CString::new(GLUE).expect("the glue holds no zero byte");
    PyModule::from_code(py, &code, c"hearth/glue.py", c"hearth_glue")
}

fn told(answer: &Bound<'_, PyAny>) -> PyResult<Said> {
    let (text, status, commands): Told = answer.extract()?;
    let status = match status.as_str() {
        "won" => scenarios::Status::Won,
        "lost" => scenarios::Status::Lost,
        _ => scenarios::Status::Playing,
    };
    Ok(Said::Told {
        text,
        status,
        commands,
    })
}

/// The traceback of an exception, SystemExit and KeyboardInterrupt included.
fn explain(py: Python<'_>, glue: &Bound<'_, PyModule>, error: PyErr) -> String {
    let short = error.to_string();
    let full = glue
        .call_method1("explain", (error.value(py), error.traceback(py)))
        .and_then(|text| text.extract());
    full.unwrap_or(short)
}
