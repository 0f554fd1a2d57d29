//! Measurement: tables, statistics, comparisons, audits and replays of logged episodes.

pub mod audit;
pub mod card;
pub mod compare;
pub mod csv_file;
pub mod failures;
pub mod games;
pub mod protocol_line;
pub mod score;
pub mod statistics;
pub mod sweep;
pub mod table;
pub mod verify;

// ALIAS: the old module name, for callers that are not renamed yet.
#[doc(hidden)]
pub mod evaluate {
    pub use super::csv_file::{read_csv, write_csv};
    pub use super::games::{GameRow, games};
    pub use super::protocol_line::{played_line, protocol_line};
    pub use super::table::{EvalRow as Row, Interval, table};
}
