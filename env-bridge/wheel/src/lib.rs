//! The native world as a Python module, `hearth_world._native`. The Python package around it adds what is
//! easier to write there: the drop-in modules for `alfworld` and `textworld`, and the adapters.
//!
//! A method never panics for a bad argument: it raises an exception that names the argument. Work on a batch
//! releases the GIL.

mod batch;
mod env;
mod errors;
mod expert;
mod game;
mod order;
mod process;
mod running;
mod suite;

use pyo3::prelude::*;

/// Loading a game makes many small allocations. With this allocator it takes a fifth less time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The native world.
#[pymodule]
mod _native {
    #[pymodule_export]
    use super::batch::PyBatch;
    #[pymodule_export]
    use super::env::PyEnv;
    #[pymodule_export]
    use super::errors::GameError;
    #[pymodule_export]
    use super::expert::PyExpert;
    #[pymodule_export]
    use super::game::PyGame;
    #[pymodule_export]
    use super::order::GameOrder;
    #[pymodule_export]
    use super::process::_after_fork;
    #[pymodule_export]
    use super::suite::{generate, scan};
}
