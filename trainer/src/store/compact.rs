//! Compaction: the records of stores become new parts of a compacted store.

use super::index::{IndexBuilder, IndexEntry, LinePlace};
use super::part::{CompactedStore, is_compacted, part_files};
use super::records::{StoredRecord, StoredRecords};
use super::select::{Selection, iteration_of};
use crate::error::TrainerError;
use rayon::prelude::*;
use scenarios::files;
use serde::Serialize;
use std::collections::HashSet;
use std::fs::{self, File, TryLockError};
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// When parts and frames end.
#[derive(Debug, Clone, Copy)]
pub(super) struct PartSizes {
    /// Most records of a part.
    pub(super) records: usize,
    /// A part ends when its data file has this many bytes.
    pub(super) bytes: u64,
    /// A frame ends when its lines have this many bytes.
    pub(super) frame: usize,
}

const SIZES: PartSizes = PartSizes {
    records: 100_000,
    bytes: 256 << 20,
    frame: 256 << 10,
};

/// Frames that are compressed in parallel.
const FRAMES: usize = 16;

/// The level of zstd if none is given: its own default.
pub const LEVEL: i32 = 3;

/// What a compaction did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CompactionCounts {
    /// Records of the stores that were read.
    pub read: usize,
    /// Records that were written.
    pub written: usize,
    /// Records that were left out, because an equal one is there: [`super::index::identity`].
    pub doubled: usize,
    /// Records that the selection left out.
    pub not_selected: usize,
    /// Bytes of the written lines.
    pub bytes: u64,
    /// Bytes of the new parts, with their indices.
    pub compressed: u64,
    /// Number of new parts.
    pub parts: usize,
    /// The stores whose last line is torn, with its bytes. It is left out.
    pub torn: Vec<(PathBuf, usize)>,
}

/// Writes the selected records of stores into new parts of the folder `out`. The stores stay as they are. If this is
/// interrupted, the finished parts stay, and the same call writes the rest.
///
/// # Errors
/// If a store cannot be read, the parts cannot be written, another process writes to the folder, or the folder has
/// other files.
pub fn compact(
    stores: &[PathBuf],
    selection: &Selection,
    level: i32,
    out: &Path,
) -> Result<CompactionCounts, TrainerError> {
    compact_into(stores, selection, PartWriter::new(out, level, SIZES))
}

/// The same, with other sizes of parts.
pub(super) fn compact_into(
    stores: &[PathBuf],
    selection: &Selection,
    mut writer: PartWriter<'_>,
) -> Result<CompactionCounts, TrainerError> {
    let out = writer.out;
    check_folder(out)?;
    fs::create_dir_all(out).map_err(TrainerError::file(out))?;
    let _lock = lock(out)?;
    writer.open()?;
    let mut counts = CompactionCounts::default();
    for store in stores {
        if is_same_folder(store, out) {
            let reason = "is read and written by the same compaction\nhint: choose another --out";
            return Err(TrainerError::content(store, reason));
        }
        let iteration = iteration_of(store);
        let source = source_name(store);
        let scanned = StoredRecords::open(std::slice::from_ref(store))?.scan(
            |StoredRecord {
                 line, trajectory, ..
             }| {
                selection.has(&trajectory, iteration).then(|| {
                    (
                        files::without_mark(line).to_vec(),
                        IndexEntry::new(&trajectory),
                    )
                })
            },
            |selected| match selected {
                Some((line, entry)) => writer.push(&line, entry, &source, iteration),
                None => {
                    counts.not_selected += 1;
                    Ok(())
                }
            },
        )?;
        counts.read += scanned.records;
        counts.torn.extend(scanned.torn);
    }
    writer.finish_part()?;
    Ok(CompactionCounts {
        written: writer.written,
        doubled: writer.doubled,
        bytes: writer.bytes,
        compressed: writer.compressed,
        parts: writer.parts,
        ..counts
    })
}

fn is_same_folder(store: &Path, out: &Path) -> bool {
    match (fs::canonicalize(store), fs::canonicalize(out)) {
        (Ok(store), Ok(out)) => store == out,
        _ => false,
    }
}

/// Returns the name of a store in the index: its last three parts.
fn source_name(store: &Path) -> String {
    let parts: Vec<_> = store.components().collect();
    let last: PathBuf = parts[parts.len().saturating_sub(3)..].iter().collect();
    last.to_string_lossy().into_owned()
}

/// Refuses a folder that is something else, such as the folder of a run.
fn check_folder(out: &Path) -> Result<(), TrainerError> {
    if !out.exists() || is_compacted(out) {
        return Ok(());
    }
    let entries = fs::read_dir(out).map_err(TrainerError::file(out))?;
    for entry in entries {
        let name = entry.map_err(TrainerError::file(out))?.file_name();
        let name = name.to_string_lossy();
        if name != LOCK && !name.starts_with("part-") {
            let reason = format!(
                "has files that are no parts of a compacted store, such as {name}\nhint: choose a new folder"
            );
            return Err(TrainerError::content(out, reason));
        }
    }
    Ok(())
}

const LOCK: &str = "writer.lock";

fn lock(out: &Path) -> Result<File, TrainerError> {
    let path = out.join(LOCK);
    let file = File::create(&path).map_err(TrainerError::file(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(TrainerError::Busy {
            folder: out.into(),
            holder: files::lock_holder(&path).map_or_else(
                || "another process".into(),
                |process| format!("process {process}"),
            ),
            hint: "wait for it, or choose another --out",
        }),
        Err(TryLockError::Error(source)) => Err(TrainerError::File { path, source }),
    }
}

/// Writes parts, one after another.
pub(super) struct PartWriter<'a> {
    out: &'a Path,
    level: i32,
    sizes: PartSizes,
    /// Number of the part that is being written, from 1.
    number: usize,
    known: HashSet<[u8; 16]>,
    part: Option<OpenPart>,
    written: usize,
    doubled: usize,
    bytes: u64,
    compressed: u64,
    parts: usize,
}

/// A part that is not complete.
struct OpenPart {
    file: File,
    temporary: PathBuf,
    index: IndexBuilder,
    /// Frames whose lines are complete, and the one that is being filled.
    frames: Vec<Vec<u8>>,
}

impl<'a> PartWriter<'a> {
    pub(super) fn new(out: &'a Path, level: i32, sizes: PartSizes) -> Self {
        Self {
            out,
            level,
            sizes,
            number: 1,
            known: HashSet::new(),
            part: None,
            written: 0,
            doubled: 0,
            bytes: 0,
            compressed: 0,
            parts: 0,
        }
    }

    /// Reads which records the folder has.
    fn open(&mut self) -> Result<(), TrainerError> {
        if is_compacted(self.out) {
            for part in CompactedStore::open(self.out)?.parts() {
                self.known.extend(part.index().identities()?);
            }
            while part_files(self.out, self.number).1.exists() {
                self.number += 1;
            }
        }
        Ok(())
    }

    fn push(
        &mut self,
        line: &[u8],
        entry: IndexEntry,
        source: &str,
        iteration: u32,
    ) -> Result<(), TrainerError> {
        if !self.known.insert(entry.identity()) {
            self.doubled += 1;
            return Ok(());
        }
        let part = match &mut self.part {
            Some(part) => part,
            None => self.part.insert(OpenPart::create(self.out, self.number)?),
        };
        let frame = part.frames.last_mut().expect("a part has an open frame");
        let within = frame.len();
        frame.extend_from_slice(line);
        let full = frame.len() >= self.sizes.frame;
        let place = LinePlace {
            frame: number(part.index.frames() + part.frames.len() - 1, part)?,
            within: number(within, part)?,
            length: number(line.len(), part)?,
        };
        part.index.push(entry, place, source, iteration);
        self.written += 1;
        self.bytes += line.len() as u64;
        if full {
            part.frames.push(Vec::new());
        }
        if part.frames.len() > FRAMES {
            part.compress(self.level)?;
        }
        let PartSizes { records, bytes, .. } = self.sizes;
        if part.index.records() >= records || part.index.compressed() >= bytes {
            self.finish_part()?;
        }
        Ok(())
    }

    /// Flushes the part that is being written to the disk, if there is one, and gives its files their names.
    fn finish_part(&mut self) -> Result<(), TrainerError> {
        let Some(mut part) = self.part.take() else {
            return Ok(());
        };
        part.compress(self.level)?;
        let (data, index) = part_files(self.out, self.number);
        let OpenPart {
            file,
            temporary,
            index: builder,
            ..
        } = part;
        file.sync_all()
            .and_then(|()| fs::rename(&temporary, &data))
            .map_err(TrainerError::file(&temporary))?;
        self.compressed += builder.compressed();
        let content = builder.finish();
        self.compressed += content.len() as u64;
        files::replace(&index, &content).map_err(TrainerError::file(&index))?;
        self.number += 1;
        self.parts += 1;
        Ok(())
    }
}

fn number(number: usize, part: &OpenPart) -> Result<u32, TrainerError> {
    u32::try_from(number).map_err(|_| {
        let reason = "a record has more than four GiB";
        TrainerError::content(&part.temporary, reason)
    })
}

impl OpenPart {
    fn create(out: &Path, number: usize) -> Result<Self, TrainerError> {
        let temporary = part_files(out, number).0.with_extension("zst.new");
        Ok(Self {
            file: File::create(&temporary).map_err(TrainerError::file(&temporary))?,
            temporary,
            index: IndexBuilder::new(),
            frames: vec![Vec::new()],
        })
    }

    /// Compresses all frames in parallel and writes them.
    fn compress(&mut self, level: i32) -> Result<(), TrainerError> {
        let frames = std::mem::replace(&mut self.frames, vec![Vec::new()]);
        let frames: Vec<Vec<u8>> = frames
            .into_iter()
            .filter(|frame| !frame.is_empty())
            .collect();
        let compressed: Vec<std::io::Result<Vec<u8>>> = frames
            .par_iter()
            .map(|lines| compress_frame(lines, level))
            .collect();
        for frame in compressed {
            let frame = frame
                .and_then(|frame| self.file.write_all(&frame).map(|()| frame.len()))
                .map_err(TrainerError::file(&self.temporary))?;
            self.index.end_frame(frame);
        }
        Ok(())
    }
}

/// Returns a zstd frame that contains the length and a checksum of its lines.
fn compress_frame(lines: &[u8], level: i32) -> std::io::Result<Vec<u8>> {
    let mut compressor = zstd::bulk::Compressor::new(level)?;
    compressor.include_checksum(true)?;
    compressor.include_contentsize(true)?;
    compressor.compress(lines)
}
