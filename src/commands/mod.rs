//! The commands: one module per group of `hearth --help`, and one file per command.

pub(crate) mod data;
pub(crate) mod measure;
pub(crate) mod play;
pub(crate) mod tools;
pub(crate) mod train;
