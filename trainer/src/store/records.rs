//! The records of several stores, read one at a time or in parallel blocks.

use super::part::{CompactedStore, Part, is_compacted};
use crate::error::TrainerError;
use rayon::ThreadPoolBuilder;
use rayon::prelude::*;
use scenarios::Trajectory;
use scenarios::store::{StoreLine, StoreLines, parse_line};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;

/// Bytes of lines that are parsed in parallel.
const BLOCK: usize = 4 << 20;

/// Frames that are decompressed and parsed in parallel.
const FRAMES: usize = 16;

/// Where a record is: its store, and its place in it. Eight bytes, so that the places of a large store fit into
/// memory.
///
/// The first ten bits are the index of the store. In a JSONL store the others are the offset of the line; in a
/// compacted store they are the part (14 bits), the frame (20 bits) and the offset in the frame (20 bits).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RecordPlace(u64);

const STORE_BITS: u32 = 10;
const PART_BITS: u32 = 14;
const FRAME_BITS: u32 = 20;
const WITHIN_BITS: u32 = 20;

impl RecordPlace {
    /// Returns the place of a line; `None` if a number is too large.
    fn of_line(store: usize, offset: u64) -> Option<Self> {
        let bits = 64 - STORE_BITS;
        (store >> STORE_BITS == 0 && offset >> bits == 0)
            .then(|| Self(((store as u64) << bits) | offset))
    }

    /// Returns the place of a line of a compacted store; `None` if a number is too large.
    fn of_row(store: usize, part: usize, frame: usize, within: usize) -> Option<Self> {
        let fits = part >> PART_BITS == 0 && frame >> FRAME_BITS == 0 && within >> WITHIN_BITS == 0;
        let inner = ((part as u64) << (FRAME_BITS + WITHIN_BITS))
            | ((frame as u64) << WITHIN_BITS)
            | within as u64;
        fits.then(|| Self::of_line(store, inner)).flatten()
    }

    fn store(self) -> usize {
        (self.0 >> (64 - STORE_BITS)) as usize
    }

    fn offset(self) -> u64 {
        self.0 & (u64::MAX >> STORE_BITS)
    }

    /// Returns part, frame and offset in the frame.
    fn row(self) -> (usize, usize, usize) {
        let bits = |shift: u32, count: u32| ((self.0 >> shift) & ((1 << count) - 1)) as usize;
        (
            bits(FRAME_BITS + WITHIN_BITS, PART_BITS),
            bits(WITHIN_BITS, FRAME_BITS),
            bits(0, WITHIN_BITS),
        )
    }
}

/// A record while a store is scanned.
pub struct StoredRecord<'a> {
    /// Where it is.
    pub place: RecordPlace,
    /// The line, with its newline.
    pub line: &'a [u8],
    /// The content of the line.
    pub trajectory: Trajectory,
}

/// What a scan read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScanCounts {
    /// Number of records.
    pub records: usize,
    /// The stores whose last line is torn, with its bytes. It is left out.
    pub torn: Vec<(PathBuf, usize)>,
}

/// Stores that are opened for reading.
#[derive(Debug)]
pub struct StoredRecords {
    stores: Vec<SourceStore>,
}

#[derive(Debug)]
enum SourceStore {
    Lines(PathBuf),
    Compacted(CompactedStore),
}

impl StoredRecords {
    /// Opens stores: JSONL files, and folders of compacted stores.
    ///
    /// # Errors
    /// If a compacted store cannot be opened, or there are more than 1023 stores.
    pub fn open(paths: &[PathBuf]) -> Result<Self, TrainerError> {
        if paths.len() >> STORE_BITS != 0 {
            let reason =
                "more than 1023 stores at once\nhint: `hearth store compact` makes one of them";
            return Err(TrainerError::Data(reason.into()));
        }
        let mut stores = Vec::new();
        for path in paths {
            stores.push(if is_compacted(path) {
                SourceStore::Compacted(CompactedStore::open(path)?)
            } else {
                SourceStore::Lines(path.clone())
            });
        }
        Ok(Self { stores })
    }

    /// Applies `read` to every record, in parallel, and `take` to its results, one after another in the order of
    /// the stores. At most a few MiB of lines are in memory at the same time.
    ///
    /// # Errors
    /// If a record cannot be read, or `take` returns an error.
    pub fn scan<T: Send, E: From<TrainerError>>(
        &self,
        read: impl Fn(StoredRecord<'_>) -> T + Sync,
        mut take: impl FnMut(T) -> Result<(), E>,
    ) -> Result<ScanCounts, E> {
        let mut counts = ScanCounts::default();
        for (number, store) in self.stores.iter().enumerate() {
            match store {
                SourceStore::Lines(path) => {
                    scan_lines(number, path, &read, &mut take, &mut counts)?;
                }
                SourceStore::Compacted(store) => {
                    for (part_number, part) in store.parts().iter().enumerate() {
                        let place = (number, part_number);
                        counts.records += scan_part(place, part, &read, &mut take)?;
                    }
                }
            }
        }
        Ok(counts)
    }

    /// Passes the texts of all records to `work`: observations and completions, in the order of the stores. They are
    /// read while `work` runs.
    ///
    /// # Errors
    /// If a record cannot be read.
    pub fn with_texts<R>(
        &self,
        work: impl FnOnce(&mut (dyn Iterator<Item = String> + Send)) -> R,
    ) -> Result<R, TrainerError> {
        // Threads of its own: `work` may block those of the common pool while it waits for a text.
        let pool = ThreadPoolBuilder::new()
            .build()
            .map_err(|e| TrainerError::Data(format!("no threads to read stores: {e}")))?;
        let (sender, receiver) = sync_channel::<Trajectory>(256);
        std::thread::scope(|scope| {
            let reader = scope.spawn(move || {
                pool.install(|| {
                    self.scan(
                        |record| record.trajectory,
                        |trajectory| {
                            // If `work` has ended, the rest is read for nothing.
                            let _ = sender.send(trajectory);
                            Ok::<(), TrainerError>(())
                        },
                    )
                })
            });
            let mut texts = receiver
                .into_iter()
                .flat_map(|trajectory| trajectory.turns)
                .flat_map(|turn| [turn.observation, turn.completion]);
            let result = work(&mut texts);
            drop(texts);
            reader
                .join()
                .expect("reading does not panic")
                .map(|_| result)
        })
    }

    /// Reads one record.
    ///
    /// # Errors
    /// If it cannot be read, or the store has changed.
    pub fn read(&self, place: RecordPlace) -> Result<Trajectory, TrainerError> {
        match &self.stores[place.store()] {
            SourceStore::Lines(path) => {
                let line = line_at(path, place.offset()).map_err(TrainerError::file(path))?;
                let at = format!("byte {}", place.offset());
                parse_line(scenarios::files::without_mark(&line))
                    .map_err(|e| TrainerError::content(path, format!("{at}: {e}")))
            }
            SourceStore::Compacted(store) => {
                let (part, frame, within) = place.row();
                let part = &store.parts()[part];
                let line = part.line(frame, within)?;
                parse_line(&line).map_err(|e| {
                    let reason = format!("frame {frame}, byte {within}: {e}");
                    TrainerError::content(part.path(), reason)
                })
            }
        }
    }
}

/// Returns the line that begins at an offset of a file.
fn line_at(path: &Path, offset: u64) -> std::io::Result<Vec<u8>> {
    let mut reader = BufReader::with_capacity(1 << 16, File::open(path)?);
    reader.seek(SeekFrom::Start(offset))?;
    let mut line = Vec::new();
    reader.read_until(b'\n', &mut line)?;
    Ok(line)
}

fn too_large(path: &Path) -> TrainerError {
    TrainerError::content(path, "is larger than the places of records can name")
}

fn scan_lines<T: Send, E: From<TrainerError>>(
    store: usize,
    path: &Path,
    read: &(impl Fn(StoredRecord<'_>) -> T + Sync),
    take: &mut impl FnMut(T) -> Result<(), E>,
    counts: &mut ScanCounts,
) -> Result<(), E> {
    let mut lines = StoreLines::open(path).map_err(TrainerError::from)?;
    loop {
        let mut block: Vec<StoreLine> = Vec::new();
        let mut bytes = 0;
        while bytes < BLOCK {
            let Some(line) = lines.next().transpose().map_err(TrainerError::from)? else {
                break;
            };
            bytes += line.bytes.len();
            block.push(line);
        }
        if block.is_empty() {
            return Ok(());
        }
        let results: Vec<Result<Option<T>, TrainerError>> = block
            .par_iter()
            .map(|line| {
                let Some(trajectory) = line.trajectory(path)? else {
                    return Ok(None);
                };
                Ok(Some(read(StoredRecord {
                    place: RecordPlace::of_line(store, line.offset)
                        .ok_or_else(|| too_large(path))?,
                    line: &line.bytes,
                    trajectory,
                })))
            })
            .collect();
        for (line, result) in block.iter().zip(results) {
            match result? {
                Some(result) => {
                    counts.records += 1;
                    take(result)?;
                }
                None => counts.torn.push((path.into(), line.bytes.len())),
            }
        }
    }
}

fn scan_part<T: Send, E: From<TrainerError>>(
    (store, number): (usize, usize),
    part: &Part,
    read: &(impl Fn(StoredRecord<'_>) -> T + Sync),
    take: &mut impl FnMut(T) -> Result<(), E>,
) -> Result<usize, E> {
    let frames: Vec<usize> = (0..part.frames()).collect();
    let mut records = 0;
    for frames in frames.chunks(FRAMES) {
        let results: Vec<Result<Vec<T>, TrainerError>> = frames
            .par_iter()
            .map(|frame| records_of(store, number, part, *frame, read))
            .collect();
        for result in results {
            for result in result? {
                records += 1;
                take(result)?;
            }
        }
    }
    if records != part.index().records() {
        let reason = format!(
            "has {records} records, and its index names {}",
            part.index().records()
        );
        return Err(TrainerError::content(part.path(), reason).into());
    }
    Ok(records)
}

/// Applies `read` to the records of a frame.
fn records_of<T>(
    store: usize,
    number: usize,
    part: &Part,
    frame: usize,
    read: &impl Fn(StoredRecord<'_>) -> T,
) -> Result<Vec<T>, TrainerError> {
    let lines = part.frame(frame)?;
    let mut results = Vec::new();
    let mut within = 0;
    for line in lines.split_inclusive(|byte| *byte == b'\n') {
        let trajectory = parse_line(line).map_err(|e| {
            let reason = format!("frame {frame}, byte {within}: {e}");
            TrainerError::content(part.path(), reason)
        })?;
        let place = RecordPlace::of_row(store, number, frame, within);
        results.push(read(StoredRecord {
            place: place.ok_or_else(|| too_large(part.path()))?,
            line,
            trajectory,
        }));
        within += line.len();
    }
    Ok(results)
}
