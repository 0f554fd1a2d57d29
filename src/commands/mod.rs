//! One module for each group of commands, and in it one file for each command.

pub(crate) mod data;
pub(crate) mod measure;
pub(crate) mod play;
pub(crate) mod tools;
pub(crate) mod train;
