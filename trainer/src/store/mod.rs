//! Stores that do not fit into memory: reading records one at a time, and compacted stores.
//!
//! A *compacted store* is a folder of parts. A part is two files that are never changed:
//!
//! - `part-000001.jsonl.zst`: the lines of up to 100 000 records, as they were, in zstd frames of about 256 KiB. A
//!   frame contains whole lines, so one record is read by decompressing one frame. `zstd -dc FOLDER/*.zst` prints
//!   all lines.
//! - `part-000001.index`: for each record its place and what selection needs (game, outcome, policy, iteration, …),
//!   column after column: [`index`].
//!
//! Both files are written under another name, flushed to the disk and renamed, the index last. A part without an
//! index is what an interrupted compaction left; it is not read, and the next compaction replaces it.

pub mod compact;
pub mod index;
pub mod select;
pub mod verify;

mod part;
mod records;

pub use part::{CompactedStore, is_compacted};
pub use records::{RecordPlace, ScanCounts, StoredRecord, StoredRecords};

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests;
