//! The commands that measure.

mod audit;
mod compare;
mod eval;
mod report;
mod verify;
