//! The commands that measure.

mod audit;
mod compare;
mod eval;
mod reading;
mod report;
mod verify;
