//! The best-of-K study: the success rate against K and against its cost for every scorer, and the
//! calibration of the values that select candidates.
//!
//! The functions read trajectories. They do not depend on how the episodes are played.

mod calibration;
mod rows;
mod setting;

#[cfg(test)]
mod tests;

pub use calibration::{
    CalibrationGroup, CalibrationRow, ValueEstimate, brier_score, calibration,
    expected_calibration_error, reliability,
};
pub use rows::{SweepTableRow, rows};
pub use setting::{SweepSetting, merge_attempts};
