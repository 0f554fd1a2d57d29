//! A compacted store: its parts, and the records in them.

use super::index::{Column, PartIndex};
use crate::error::TrainerError;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Largest decompressed frame that is read, bytes. One record alone can be longer than the 256 KiB at which a frame
/// ends.
const LARGEST_FRAME: usize = 1 << 30;

/// A folder of parts, opened for reading.
#[derive(Debug)]
pub struct CompactedStore {
    folder: PathBuf,
    parts: Vec<Part>,
}

/// One part.
#[derive(Debug)]
pub struct Part {
    path: PathBuf,
    index: PartIndex,
    file: Mutex<File>,
    /// The frame that was decompressed last: records that are read one after another are often in one frame.
    last: Mutex<Option<(usize, Arc<Vec<u8>>)>>,
}

/// Returns whether the path is a folder with at least one part.
#[must_use]
pub fn is_compacted(path: &Path) -> bool {
    path.is_dir() && index_files(path).is_ok_and(|files| !files.is_empty())
}

/// Returns the data file and the index of part `number`, from 1.
pub(super) fn part_files(folder: &Path, number: usize) -> (PathBuf, PathBuf) {
    (
        folder.join(format!("part-{number:06}.jsonl.zst")),
        folder.join(format!("part-{number:06}.index")),
    )
}

fn index_files(folder: &Path) -> Result<Vec<PathBuf>, TrainerError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(TrainerError::file(folder))? {
        let path = entry.map_err(TrainerError::file(folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("part-") && name.ends_with(".index") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

impl CompactedStore {
    /// Opens the parts of a folder.
    ///
    /// # Errors
    /// If there is no part, or a part cannot be read or is damaged.
    pub fn open(folder: &Path) -> Result<Self, TrainerError> {
        let parts: Vec<Part> = index_files(folder)?
            .iter()
            .map(|index| Part::open(index))
            .collect::<Result<_, _>>()?;
        if parts.is_empty() {
            let reason = "has no part of a compacted store\nhint: `hearth store compact STORE --out FOLDER` makes one";
            return Err(TrainerError::content(folder, reason));
        }
        Ok(Self {
            folder: folder.into(),
            parts,
        })
    }

    /// Returns the folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the parts, in order.
    #[must_use]
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }
}

impl Part {
    fn open(index_path: &Path) -> Result<Self, TrainerError> {
        let index = PartIndex::open(index_path)?;
        let path = index_path.with_extension("jsonl.zst");
        let file = File::open(&path).map_err(TrainerError::file(&path))?;
        let length = file.metadata().map_err(TrainerError::file(&path))?.len();
        let expected = index.frames()[index.frames().len() - 1];
        if length != expected {
            let reason = format!(
                "has {length} bytes, and its index names {expected}\nhint: the file was changed or cut off"
            );
            return Err(TrainerError::content(&path, reason));
        }
        Ok(Self {
            path,
            index,
            file: Mutex::new(file),
            last: Mutex::new(None),
        })
    }

    /// Returns the path of the data file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the index.
    #[must_use]
    pub fn index(&self) -> &PartIndex {
        &self.index
    }

    /// Returns the number of frames.
    #[must_use]
    pub fn frames(&self) -> usize {
        self.index.frames().len() - 1
    }

    /// Reads and decompresses a frame.
    ///
    /// # Errors
    /// If the file cannot be read, or the frame is damaged: zstd's checksum is compared.
    pub fn frame(&self, frame: usize) -> Result<Vec<u8>, TrainerError> {
        let offsets = self.index.frames();
        let (Some(&start), Some(&end)) = (offsets.get(frame), offsets.get(frame + 1)) else {
            return Err(TrainerError::content(
                &self.path,
                format!("no frame {frame}"),
            ));
        };
        let mut compressed =
            vec![0; usize::try_from(end - start).expect("a frame fits into memory")];
        {
            let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
            file.seek(SeekFrom::Start(start))
                .and_then(|_| file.read_exact(&mut compressed))
                .map_err(TrainerError::file(&self.path))?;
        }
        let damaged = |reason: &dyn std::fmt::Display| {
            let reason = format!("frame {frame} at byte {start} is damaged: {reason}");
            TrainerError::content(&self.path, reason)
        };
        let length = zstd::zstd_safe::get_frame_content_size(&compressed)
            .ok()
            .flatten()
            .and_then(|length| usize::try_from(length).ok())
            .filter(|length| *length <= LARGEST_FRAME)
            .ok_or_else(|| damaged(&"its header names no usable length"))?;
        zstd::bulk::decompress(&compressed, length).map_err(|error| damaged(&error))
    }

    /// Reads the line that begins at `within` in a frame, with its newline.
    ///
    /// # Errors
    /// As [`Part::frame`], and if no line begins there.
    pub(super) fn line(&self, frame: usize, within: usize) -> Result<Vec<u8>, TrainerError> {
        let known = self
            .last
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
            .filter(|(last, _)| *last == frame);
        let lines = match known {
            Some((_, lines)) => lines,
            None => {
                let lines = Arc::new(self.frame(frame)?);
                *self.last.lock().unwrap_or_else(PoisonError::into_inner) =
                    Some((frame, Arc::clone(&lines)));
                lines
            }
        };
        let line = lines.get(within..).and_then(|rest| {
            let length = rest.iter().position(|byte| *byte == b'\n')? + 1;
            Some(rest[..length].to_vec())
        });
        line.ok_or_else(|| {
            let reason = format!("frame {frame} has no line at byte {within}");
            TrainerError::content(&self.path, reason)
        })
    }

    /// Returns the frame of a row, and where its line begins in the frame.
    ///
    /// # Errors
    /// If the index cannot be read.
    pub(super) fn places(&self) -> Result<Vec<(u32, u32)>, TrainerError> {
        let frames = self.index.column(Column::Frame)?;
        Ok(frames
            .into_iter()
            .zip(self.index.column(Column::Within)?)
            .collect())
    }
}
