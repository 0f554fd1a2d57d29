//! Commands that measure.

pub(crate) mod audit;
pub(crate) mod compare;
pub(crate) mod eval;
pub(crate) mod rank;
pub(crate) mod reading;
pub(crate) mod report;
pub(crate) mod sweep;
pub(crate) mod verify;
