//! Reads the lines of a store one at a time, so that memory does not grow with the store.

use super::{StoreError, io_error};
use crate::files::without_mark;
use crate::trajectory::Trajectory;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Take};
use std::path::{Path, PathBuf};

/// The lines of a store, in order. Lines that are appended after the store was opened are not read.
///
/// ```
/// use scenarios::store::StoreLines;
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("episodes.jsonl");
/// std::fs::write(&path, "a line that another process is still writi")?;
/// let lines: Vec<_> = StoreLines::open(&path)?.collect::<Result<_, _>>()?;
/// assert_eq!(lines.len(), 1);
/// assert!(lines[0].trajectory(&path)?.is_none(), "the last line is torn");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct StoreLines {
    reader: BufReader<Take<File>>,
    path: PathBuf,
    /// Bytes of the file when it was opened.
    length: u64,
    offset: u64,
    number: usize,
}

/// One line of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreLine {
    /// The text with its newline; without one only if the line is torn.
    pub bytes: Vec<u8>,
    /// Where the line begins in the file, bytes.
    pub offset: u64,
    /// The line number, from 1.
    pub number: usize,
    is_last: bool,
}

impl StoreLines {
    /// Opens a store without locking or repairing it.
    ///
    /// # Errors
    /// `Io` if the file cannot be read.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|source| io_error("open", path, source))?;
        let length = file
            .metadata()
            .map_err(|source| io_error("read", path, source))?
            .len();
        Ok(Self {
            reader: BufReader::with_capacity(1 << 18, file.take(length)),
            path: path.into(),
            length,
            offset: 0,
            number: 0,
        })
    }
}

impl Iterator for StoreLines {
    type Item = Result<StoreLine, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut bytes = Vec::new();
        match self.reader.read_until(b'\n', &mut bytes) {
            Ok(0) => return None,
            Ok(_) => {}
            Err(source) => return Some(Err(io_error("read", &self.path, source))),
        }
        let offset = self.offset;
        self.offset += bytes.len() as u64;
        self.number += 1;
        Some(Ok(StoreLine {
            bytes,
            offset,
            number: self.number,
            is_last: self.offset == self.length,
        }))
    }
}

impl StoreLine {
    /// Returns the trajectory of the line; `None` if the line is torn, which only the last line can be.
    ///
    /// # Errors
    /// `BadLine` if the line is not a trajectory, or has an unknown format. `path` is named in it.
    pub fn trajectory(&self, path: &Path) -> Result<Option<Trajectory>, StoreError> {
        let bytes = match self.offset {
            0 => without_mark(&self.bytes),
            _ => &self.bytes,
        };
        if !bytes.ends_with(b"\n") {
            return Ok(None);
        }
        let reason = match parse_line(bytes) {
            Ok(trajectory) => return Ok(Some(trajectory)),
            Err(LineProblem::NotARecord(_)) if self.is_last => return Ok(None),
            Err(problem) => problem.to_string(),
        };
        Err(StoreError::BadLine {
            path: path.into(),
            line: self.number,
            reason,
        })
    }
}

/// Why a line is not a trajectory of this version.
#[derive(Debug, thiserror::Error)]
pub enum LineProblem {
    /// The line is not the JSON text of a trajectory.
    #[error("{0}")]
    NotARecord(#[from] serde_json::Error),
    /// A newer version has written the line.
    #[error("unknown format {0}")]
    UnknownFormat(u32),
}

/// Returns the trajectory of a line.
///
/// # Errors
/// If the line is not a trajectory, or its format is not [`Trajectory::FORMAT`].
pub fn parse_line(line: &[u8]) -> Result<Trajectory, LineProblem> {
    let trajectory: Trajectory = serde_json::from_slice(line)?;
    if trajectory.format == Trajectory::FORMAT {
        Ok(trajectory)
    } else {
        Err(LineProblem::UnknownFormat(trajectory.format))
    }
}
