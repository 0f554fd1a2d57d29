//! The errors of loading and playing a game. Each contains the file, the position in it if there is
//! one, and the reason.

use scenarios::EnvironmentError;
use std::path::{Path, PathBuf};

/// An error in a game, with its position.
#[derive(Debug, thiserror::Error)]
pub enum GameError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: std::io::Error,
    },
    /// The file is larger than the limit for games.
    #[error("{}: {bytes} bytes, and a game has at most {limit}", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        bytes: usize,
        /// The largest size in bytes that is read.
        limit: usize,
    },
    /// The file does not contain the JSON object of a game.
    #[error("{}: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Reason, line and column.
        #[source]
        source: serde_json::Error,
    },
    /// One of the texts in the file has an error.
    #[error("{}: {key}, line {line}, column {column}: {reason}", path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// The JSON key of the text: `pddl_domain`, `grammar` or `pddl_problem`.
        key: &'static str,
        /// Line in the text of that key, from 1.
        line: usize,
        /// Column in that line in bytes, from 1.
        column: usize,
        /// What is wrong at that position.
        reason: String,
    },
}

impl GameError {
    /// Converts this error to the error type of [`scenarios::Environment`].
    #[must_use]
    pub fn into_environment_error(self, file: &Path) -> EnvironmentError {
        let reason = match &self {
            Self::Read { source, .. } => source.to_string(),
            Self::TooLarge { bytes, limit, .. } => {
                format!(
                    "{bytes} bytes, and a game has at most {limit}{}",
                    other_kind(file)
                )
            }
            Self::Json { source, .. } => format!("{source}{}", other_kind(file)),
            Self::Text {
                key,
                line,
                column,
                reason,
                ..
            } => format!("{key}, line {line}, column {column}: {reason}"),
        };
        EnvironmentError::Load {
            path: file.to_owned(),
            reason,
        }
    }
}

/// Returns a hint if the name of the file is not that of a PDDL game, else an empty text.
fn other_kind(file: &Path) -> &'static str {
    match file.extension().and_then(|extension| extension.to_str()) {
        Some("tw-pddl") => "",
        Some("ulx") => {
            "\nhint: only .tw-pddl games play natively, and TextWorld 1.7 no longer plays Glulx"
        }
        _ => "\nhint: only .tw-pddl games play natively; play this one with --world python",
    }
}

/// An error in one text: its position as a byte offset, and the reason. The caller adds the key of
/// the text and the file with [`Fault::in_text`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) at: usize,
    pub(crate) reason: String,
}

impl Fault {
    pub(crate) fn new(at: usize, reason: impl Into<String>) -> Self {
        Self {
            at,
            reason: reason.into(),
        }
    }

    pub(crate) fn in_text(self, path: &Path, key: &'static str, text: &str) -> GameError {
        let (line, column) = line_and_column(text, self.at);
        GameError::Text {
            path: path.to_owned(),
            key,
            line,
            column,
            reason: self.reason,
        }
    }
}

/// Returns the line and the column of a byte offset, both from 1. If the offset is after the end,
/// returns the position of the end.
pub(crate) fn line_and_column(text: &str, at: usize) -> (usize, usize) {
    let before = &text.as_bytes()[..at.min(text.len())];
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let column = before
        .iter()
        .rev()
        .take_while(|byte| **byte != b'\n')
        .count()
        + 1;
    (line, column)
}
