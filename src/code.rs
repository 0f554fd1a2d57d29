//! The version of the code that runs.

/// The version of the package and the git commit, as recorded in the outputs of a run.
pub(crate) const CODE: &str = concat!(env!("CARGO_PKG_VERSION"), "+", env!("HEARTH_COMMIT"));
