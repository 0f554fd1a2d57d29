//! Checks that a store can be read as a whole, and that its index tells the truth.

use super::index::{Column, IndexEntry, identity};
use super::part::{CompactedStore, Part, is_compacted};
use super::records::StoredRecords;
use crate::error::TrainerError;
use scenarios::store::parse_line;
use serde::Serialize;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// Most problems that are listed.
const LISTED: usize = 20;

/// What a check of a store found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct StoreCheck {
    /// Records that were read.
    pub records: usize,
    /// Records that are the same as an earlier one: [`identity`].
    pub doubled: usize,
    /// Bytes of a torn last line. The next command that appends moves them aside.
    pub torn: usize,
    /// The first problems, each with its file and place.
    pub problems: Vec<String>,
    /// Number of problems.
    pub damaged: usize,
}

impl StoreCheck {
    fn note(&mut self, problem: impl ToString) {
        self.damaged += 1;
        if self.problems.len() < LISTED {
            self.problems.push(problem.to_string());
        }
    }
}

/// Reads every record of a store, and compares the index of each part with its records. A damaged frame does not
/// end the check of a compacted store.
///
/// # Errors
/// If the store cannot be opened.
pub fn check(store: &Path) -> Result<StoreCheck, TrainerError> {
    let mut check = StoreCheck::default();
    let mut known = HashSet::new();
    if is_compacted(store) {
        for part in CompactedStore::open(store)?.parts() {
            check_part(part, &mut known, &mut check);
        }
        return Ok(check);
    }
    std::fs::File::open(store).map_err(TrainerError::file(store))?;
    let paths = [PathBuf::from(store)];
    let scanned = StoredRecords::open(&paths)?.scan(
        |record| identity(&record.trajectory),
        |identity| {
            check.records += 1;
            check.doubled += usize::from(!known.insert(identity));
            Ok::<(), TrainerError>(())
        },
    );
    match scanned {
        Ok(counts) => check.torn = counts.torn.iter().map(|(_, bytes)| bytes).sum(),
        Err(problem) => check.note(problem),
    }
    Ok(check)
}

fn check_part(part: &Part, known: &mut HashSet<[u8; 16]>, check: &mut StoreCheck) {
    let at = part.path().display();
    match part.index().is_intact() {
        Ok(true) => {}
        Ok(false) => check.note(format!("{at}: the checksum of its index is wrong")),
        Err(error) => check.note(error),
    }
    let rows = match IndexedRows::read(part) {
        Ok(rows) => rows,
        Err(error) => return check.note(error),
    };
    let mut row = 0;
    for frame in 0..part.frames() {
        let lines = match part.frame(frame) {
            Ok(lines) => lines,
            Err(error) => {
                check.note(error);
                row = rows.first_after(frame);
                continue;
            }
        };
        let mut within = 0;
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            match parse_line(line) {
                Ok(record) => {
                    check.records += 1;
                    check.doubled += usize::from(!known.insert(identity(&record)));
                    if !rows.has(row, (frame, within, line.len()), &IndexEntry::new(&record)) {
                        check.note(format!(
                            "{at}: frame {frame}, byte {within}: the index differs from the record"
                        ));
                    }
                }
                Err(error) => check.note(format!("{at}: frame {frame}, byte {within}: {error}")),
            }
            within += line.len();
            row += 1;
        }
    }
    if row != rows.frames.len() {
        let records = rows.frames.len();
        check.note(format!("{at}: has {row} records, and its index {records}"));
    }
}

/// The columns of an index that are compared with the records.
struct IndexedRows {
    identities: Vec<[u8; 16]>,
    frames: Vec<u32>,
    places: Vec<u32>,
    lengths: Vec<u32>,
    turns: Vec<u32>,
    tokens: Vec<u32>,
    outcomes: Vec<u32>,
}

impl IndexedRows {
    fn read(part: &Part) -> Result<Self, TrainerError> {
        let index = part.index();
        Ok(Self {
            identities: index.identities()?,
            frames: index.column(Column::Frame)?,
            places: index.column(Column::Within)?,
            lengths: index.column(Column::Length)?,
            turns: index.column(Column::Turns)?,
            tokens: index.column(Column::Tokens)?,
            outcomes: index.column(Column::Outcome)?,
        })
    }

    /// Returns the first row after a frame.
    fn first_after(&self, frame: usize) -> usize {
        self.frames.partition_point(|of| *of as usize <= frame)
    }

    /// Returns whether a row is that of a record.
    fn has(
        &self,
        row: usize,
        (frame, within, length): (usize, usize, usize),
        entry: &IndexEntry,
    ) -> bool {
        row < self.frames.len()
            && self.identities[row] == entry.identity()
            && self.frames[row] as usize == frame
            && self.places[row] as usize == within
            && self.lengths[row] as usize == length
            && (self.turns[row], self.tokens[row], self.outcomes[row]) == entry.numbers()
    }
}
