//! What belongs to one process: the thread pool of batches, and the parsed domains and grammars.
//!
//! A forked child has neither the threads of its parent nor a way to release a lock that one of them held. So the
//! child gets a new pool and a new cache: the Python package calls `_after_fork` in every child.

use env_bridge::NativeWorld;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many forks may be nested. Below that depth, batches are played by the calling thread alone.
const FORKS: usize = 64;

#[derive(Default)]
struct ProcessState {
    world: NativeWorld,
    pool: OnceLock<ThreadPool>,
}

static GENERATION: AtomicUsize = AtomicUsize::new(0);
static PROCESSES: [OnceLock<ProcessState>; FORKS] = [const { OnceLock::new() }; FORKS];

fn process() -> &'static ProcessState {
    let generation = GENERATION.load(Ordering::Relaxed).min(FORKS - 1);
    PROCESSES[generation].get_or_init(ProcessState::default)
}

/// Returns the parsed domains and grammars of this process.
pub(crate) fn world() -> &'static NativeWorld {
    &process().world
}

/// Returns the thread pool of this process: one thread per core, or `RAYON_NUM_THREADS`. Returns `None` if
/// forks are nested so deep that the pool may be that of a parent, whose threads do not exist here.
pub(crate) fn pool() -> PyResult<Option<&'static ThreadPool>> {
    if GENERATION.load(Ordering::Relaxed) >= FORKS - 1 {
        return Ok(None);
    }
    let pool = &process().pool;
    if let Some(pool) = pool.get() {
        return Ok(Some(pool));
    }
    let built = ThreadPoolBuilder::new()
        .thread_name(|number| format!("hearth-world-{number}"))
        .build()
        .map_err(|error| PyRuntimeError::new_err(format!("no threads for a batch: {error}")))?;
    Ok(Some(pool.get_or_init(|| built)))
}

/// Must be called in the child after a fork, before anything else of this module.
#[pyfunction]
pub(crate) fn _after_fork() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}
