//! Tools for models, worlds and this machine.

pub(crate) mod doctor;
pub(crate) mod model;
pub(crate) mod world;
