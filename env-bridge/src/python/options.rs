//! The options of the worker processes.

use super::venv::Venv;
use super::wire::PythonKind;
use std::path::PathBuf;
use std::time::Duration;

/// How the worker processes are run.
#[derive(Debug, Clone)]
pub struct PythonOptions {
    /// The program that is started as `PROGRAM env-worker`: hearth itself.
    pub program: PathBuf,
    /// The world that the workers run.
    pub world: PythonKind,
    /// The venv with the packages. If `None`, the packages of the interpreter are used.
    pub venv: Option<Venv>,
    /// The number of worker processes, which is also the number of environments open at once.
    pub workers: usize,
    /// Time limit for starting Python and creating the world.
    pub start_limit: Duration,
    /// Time limit for loading a game, and for a reset.
    pub load_limit: Duration,
    /// Time limit for a command.
    pub step_limit: Duration,
    /// Limit of the resident memory in MiB. If a worker exceeds it, it ends at once and its episode
    /// is lost.
    pub memory_limit_mib: u64,
    /// If the resident memory of a worker exceeds this many MiB, the worker is replaced after its
    /// episode.
    pub recycle_above_mib: u64,
    /// After this many episodes of the whole pool, its oldest worker is replaced. Each worker
    /// therefore serves about this many episodes, and the total memory of the workers stays level.
    pub recycle_after: usize,
    /// The folder in which each worker gets a folder for temporary files.
    pub temporary: PathBuf,
}

impl PythonOptions {
    /// Returns the defaults for a world, with one worker.
    #[must_use]
    pub fn new(program: PathBuf, world: PythonKind) -> Self {
        Self {
            program,
            world,
            venv: None,
            workers: 1,
            start_limit: Duration::from_secs(120),
            load_limit: Duration::from_secs(120),
            step_limit: Duration::from_secs(60),
            memory_limit_mib: 2048,
            recycle_above_mib: 512,
            recycle_after: 25,
            temporary: std::env::temp_dir(),
        }
    }
}
