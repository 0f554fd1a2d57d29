//! The commands that measure.

mod audit;
mod compare;
mod eval;
mod rank;
mod reading;
mod report;
mod verify;
