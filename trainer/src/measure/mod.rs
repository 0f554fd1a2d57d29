//! Measurement: tables, statistics, comparisons, audits and replays of logged episodes.

pub mod audit;
pub mod branch;
pub mod card;
pub mod compare;
pub mod csv_file;
pub mod failures;
pub mod games;
pub mod play_notes;
pub mod protocol_line;
pub mod ranking;
pub mod reading;
pub mod rescue;
pub mod score;
pub mod sweep;
pub mod table;
pub mod verify;
