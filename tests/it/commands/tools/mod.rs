//! The tools.

mod model;
mod replay;
