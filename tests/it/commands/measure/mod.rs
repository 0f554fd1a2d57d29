//! The commands that measure.

mod audit;
mod compare;
mod eval;
mod rank;
mod report;
mod verify;
