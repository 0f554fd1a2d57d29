//! The append-only store of trajectories: one JSON line per episode, safe against a crash at any
//! byte.
//!
//! A line is complete if it ends in a newline and parses. Only the last line can be torn, by a
//! crash during the write. If it is torn, it is moved to `PATH.torn`. A bad line anywhere else is
//! damage and an error. Only one process at a time can write to a store.

mod lines;

pub use lines::{LineProblem, StoreLine, StoreLines, parse_line};

use crate::files::{lock_holder, sync_folder, without_mark};
use crate::trajectory::Trajectory;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

/// A store opened for appending. It holds the lock of the file until it is dropped.
///
/// ```
/// use scenarios::{Trajectory, store::Store};
///
/// # let line = r#"{"format": 1, "game": "train/a", "game_hash": "00", "split": "train",
/// #     "task_type": null, "repetition": 0, "seed": 7, "policy": "expert",
/// #     "protocol": {"turn_limit": 40, "context_limit": 0, "completion_limit": 24,
/// #         "temperature": 0.0, "best_of": 1, "admissible_shown": false, "history": "full",
/// #         "malformed": "wasted_turn"},
/// #     "turns": [], "last_observation": "", "outcome": "turn_limit", "seconds": 0.1}"#;
/// # let trajectory: Trajectory = serde_json::from_str(line)?;
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("episodes.jsonl");
/// let (mut store, earlier) = Store::open(&path)?;
/// assert!(earlier.is_empty());
/// store.append(&trajectory)?;
/// assert_eq!(Store::read(&path)?, [trajectory]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Store {
    file: File,
    path: PathBuf,
    /// Number of bytes in complete lines.
    end: u64,
    torn: usize,
}

/// The contents of a store.
#[derive(Debug, Clone, PartialEq)]
pub struct Contents {
    /// The trajectories of the complete lines, in the order in which they were appended.
    pub trajectories: Vec<Trajectory>,
    /// Number of bytes in a torn last line; 0 if there is none.
    pub torn: usize,
}

/// Why a store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be read or written.
    #[error("cannot {verb} {}: {source}", path.display())]
    Io {
        /// `open`, `read`, `append to` or `mend`.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Another process appends to this store.
    #[error("{} is in use by {}\nhint: {}", path.display(), process_name(*process), hint_for_lock(path))]
    Locked {
        /// The file.
        path: PathBuf,
        /// The process id, if the system provides it.
        process: Option<u32>,
    },
    /// A line before the last one is not a trajectory, or a line has an unknown format.
    #[error("{}:{line}: {reason}\nhint: the file was changed or damaged; remove the line to keep the others", path.display())]
    BadLine {
        /// The file.
        path: PathBuf,
        /// The line number, from 1.
        line: usize,
        /// The cause.
        reason: String,
    },
}

impl Store {
    /// Opens a store and returns it with its trajectories. If the file does not exist, it is
    /// created. If the last line is torn, it is moved to `PATH.torn`.
    ///
    /// # Errors
    /// `Locked` if another process has the store open, `BadLine` for damage before the last line or
    /// an unknown format, `Io` otherwise.
    pub fn open(path: impl AsRef<Path>) -> Result<(Self, Vec<Trajectory>), StoreError> {
        let path = path.as_ref();
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path)
            .map_err(|source| io_error("open", path, source))?;
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => StoreError::Locked {
                path: path.into(),
                process: lock_holder(path),
            },
            TryLockError::Error(source) => io_error("open", path, source),
        })?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)
            .map_err(|source| io_error("read", path, source))?;
        let Contents { trajectories, torn } = parse(path, &bytes)?;
        let end = bytes.len() - torn;
        if bytes.is_empty() {
            sync_folder(path);
        }
        if torn > 0 {
            move_aside(&file, path, &bytes[end..], end)
                .map_err(|source| io_error("mend", path, source))?;
        }
        Ok((
            Self {
                file,
                path: path.into(),
                end: end as u64,
                torn,
            },
            trajectories,
        ))
    }

    /// Appends one trajectory by a single write of a whole line. The line is on the disk when this
    /// returns.
    ///
    /// # Errors
    /// `Io` if the line cannot be written. The store is then cut back to its last complete line. If
    /// that fails too, the torn line is moved at the next [`Store::open`].
    pub fn append(&mut self, trajectory: &Trajectory) -> Result<(), StoreError> {
        let mut line = serde_json::to_vec(trajectory)
            .map_err(|error| io_error("append to", &self.path, error.into()))?;
        line.push(b'\n');
        if let Err(error) = self
            .file
            .write_all(&line)
            .and_then(|()| self.file.sync_data())
        {
            let _ = self.file.set_len(self.end); // only the first error is reported
            return Err(io_error("append to", &self.path, error));
        }
        self.end += line.len() as u64;
        Ok(())
    }

    /// Returns the number of bytes in the torn last line that [`Store::open`] moved; 0 if there was
    /// none.
    #[must_use]
    pub fn torn(&self) -> usize {
        self.torn
    }

    /// Reads the complete lines of a store without locking or repairing it. If the last line is
    /// torn, it is left out; [`Store::contents`] returns its size.
    ///
    /// # Errors
    /// `BadLine` for damage before the last line or an unknown format, `Io` if the file cannot be
    /// read.
    pub fn read(path: impl AsRef<Path>) -> Result<Vec<Trajectory>, StoreError> {
        Ok(Self::contents(path)?.trajectories)
    }

    /// Like [`Store::read`], and also returns the size of a torn last line.
    ///
    /// # Errors
    /// As [`Store::read`].
    pub fn contents(path: impl AsRef<Path>) -> Result<Contents, StoreError> {
        let path = path.as_ref();
        let bytes = fs::read(path).map_err(|source| io_error("read", path, source))?;
        parse(path, &bytes)
    }
}

fn io_error(verb: &'static str, path: &Path, source: io::Error) -> StoreError {
    StoreError::Io {
        verb,
        path: path.into(),
        source,
    }
}

/// What to do if another process appends to a store.
fn hint_for_lock(path: &Path) -> &'static str {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if name.contains(".shard-") {
        SAME_SHARD
    } else {
        "wait for it, or choose another file"
    }
}

/// The hint if two processes play the same shard.
pub const SAME_SHARD: &str = "two processes have the same shard; `srun` and `torchrun` give each process an index of its own \
     (SLURM_PROCID, RANK); or give each process its own --shard I/N";

/// Returns the process as a message names it.
fn process_name(process: Option<u32>) -> String {
    process.map_or_else(
        || "another process".into(),
        |process| format!("process {process}"),
    )
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Contents, StoreError> {
    let bytes = without_mark(bytes);
    let mut trajectories = Vec::new();
    let mut at = 0;
    for (index, line) in bytes.split_inclusive(|&byte| byte == b'\n').enumerate() {
        let is_last = at + line.len() == bytes.len();
        if is_last && !line.ends_with(b"\n") {
            return Ok(Contents {
                trajectories,
                torn: line.len(),
            });
        }
        let reason = match parse_line(line) {
            Ok(trajectory) => {
                trajectories.push(trajectory);
                at += line.len();
                continue;
            }
            Err(LineProblem::NotARecord(_)) if is_last => {
                return Ok(Contents {
                    trajectories,
                    torn: line.len(),
                });
            }
            Err(problem) => problem.to_string(),
        };
        return Err(StoreError::BadLine {
            path: path.into(),
            line: index + 1,
            reason,
        });
    }
    Ok(Contents {
        trajectories,
        torn: 0,
    })
}

/// Copies the torn line to `PATH.torn`, then cuts it off. If a crash happens in between, nothing is
/// lost.
fn move_aside(file: &File, path: &Path, torn: &[u8], end: usize) -> io::Result<()> {
    let mut aside = OpenOptions::new()
        .append(true)
        .create(true)
        .open(torn_path(path))?;
    aside.write_all(torn)?;
    if !torn.ends_with(b"\n") {
        aside.write_all(b"\n")?;
    }
    aside.sync_data()?;
    file.set_len(end as u64)?;
    file.sync_data()
}

fn torn_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".torn");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Protocol;
    use crate::task::{Split, TaskType};
    use crate::trajectory::{Outcome, Spent, Turn};

    fn trajectory(repetition: usize) -> Trajectory {
        Trajectory {
            format: Trajectory::FORMAT,
            game: "train/a/b".into(),
            game_hash: "00".into(),
            split: Split::Train,
            task_type: Some(TaskType::PickAndPlaceSimple),
            repetition,
            seed: 7,
            policy: "expert".into(),
            value_policy: None,
            protocol: Protocol {
                turn_limit: 50,
                completion_limit: 0,
                ..Protocol::default()
            },
            turns: vec![Turn {
                observation: "a line\nand another, é".into(),
                observation_tokens: vec![1, 2],
                completion: "look".into(),
                completion_tokens: vec![3],
                logprobs: vec![-0.5],
                sampling_logprobs: Vec::new(),
                action: Some("look".into()),
                perturbed: false,
                value: None,
                after_value: None,
                candidates: Vec::new(),
                state: Some(5),
                process_score: None,
                log_ratio: None,
            }],
            last_observation: "done".into(),
            outcome: Outcome::Success,
            reward: 1.0,
            failure: None,
            seconds: 0.25,
            spent: Spent {
                completions: 1,
                tokens: 1,
                commands: 1,
            },
            branch: None,
        }
    }

    /// Writes a store of three episodes and closes it.
    fn store_of_three(folder: &Path) -> PathBuf {
        let path = folder.join("store.jsonl");
        let (mut store, before) = Store::open(&path).unwrap();
        assert_eq!((before.len(), store.torn()), (0, 0));
        for repetition in 0..3 {
            store.append(&trajectory(repetition)).unwrap();
        }
        path
    }

    #[test]
    fn appended_trajectories_are_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = store_of_three(folder.path());
        let expected: Vec<_> = (0..3).map(trajectory).collect();
        assert_eq!(Store::read(&path).unwrap(), expected);
        assert_eq!(Store::open(&path).unwrap().1, expected);
        assert!(!torn_path(&path).exists());
    }

    #[test]
    fn a_last_line_cut_at_any_byte_is_moved_and_appending_continues() {
        let folder = tempfile::tempdir().unwrap();
        let path = store_of_three(folder.path());
        let whole = fs::read(&path).unwrap();
        let second_end = whole[..whole.len() - 1]
            .iter()
            .rposition(|&byte| byte == b'\n')
            .unwrap()
            + 1;
        for cut in second_end + 1..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let _ = fs::remove_file(torn_path(&path));
            assert_eq!(Store::contents(&path).unwrap().torn, cut - second_end);
            let (mut store, kept) = Store::open(&path).unwrap();
            assert_eq!((kept.len(), store.torn()), (2, cut - second_end));
            assert_eq!(
                fs::read(torn_path(&path)).unwrap(),
                [&whole[second_end..cut], b"\n"].concat()
            );
            store.append(&trajectory(2)).unwrap();
            assert_eq!(fs::read(&path).unwrap(), whole);
        }
    }

    #[test]
    fn a_last_line_with_a_newline_that_does_not_parse_is_torn_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = store_of_three(folder.path());
        let mut bytes = fs::read(&path).unwrap();
        let length = bytes.len();
        bytes.extend_from_slice(b"\0\0\0\n");
        fs::write(&path, &bytes).unwrap();
        assert_eq!(Store::open(&path).unwrap().1.len(), 3);
        assert_eq!(fs::read(&path).unwrap().len(), length);
    }

    #[test]
    fn a_bad_line_in_the_middle_names_file_and_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = store_of_three(folder.path());
        let text = fs::read_to_string(&path)
            .unwrap()
            .replace("\"repetition\":1", "\"repetition\":x");
        fs::write(&path, &text).unwrap();
        let error = Store::open(&path).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("{}:2: expected value", path.display())),
            "{error}"
        );
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            text,
            "a damaged store is not changed"
        );
    }

    #[test]
    fn an_unknown_format_is_an_error_even_on_the_last_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.jsonl");
        let (mut store, _) = Store::open(&path).unwrap();
        store
            .append(&Trajectory {
                format: 99,
                ..trajectory(0)
            })
            .unwrap();
        let error = Store::read(&path).unwrap_err().to_string();
        assert!(error.contains(":1: unknown format 99"), "{error}");
    }

    #[test]
    fn a_second_writer_of_a_shard_is_told_what_a_shard_needs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rollouts.shard-0-of-2.jsonl");
        let _first = Store::open(&path).unwrap();
        let error = Store::open(&path).unwrap_err().to_string();
        assert!(
            error.contains("two processes have the same shard"),
            "{error}"
        );
    }

    #[test]
    fn a_second_writer_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = store_of_three(folder.path());
        let first = Store::open(&path).unwrap();
        let error = Store::open(&path).unwrap_err();
        assert!(matches!(error, StoreError::Locked { .. }));
        if Path::new("/proc/locks").exists() {
            assert!(
                error
                    .to_string()
                    .contains(&format!("in use by process {}", std::process::id())),
                "{error}"
            );
        }
        assert_eq!(Store::read(&path).unwrap().len(), 3);
        drop(first);
        assert!(Store::open(&path).is_ok());
    }
}
