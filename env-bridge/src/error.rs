//! Why a game could not be loaded or played: always the file, the place in it, and the reason.

use scenarios::EnvironmentError;
use std::path::{Path, PathBuf};

/// What is wrong with a game, and where.
#[derive(Debug, thiserror::Error)]
pub enum GameError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file is too large to be a game.
    #[error("{}: {bytes} bytes, and a game has at most {limit}", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: usize,
        /// The largest size that is read.
        limit: usize,
    },
    /// The file is not the JSON object of a game.
    #[error("{}: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Reason, line and column.
        #[source]
        source: serde_json::Error,
    },
    /// One of the texts inside the file is wrong.
    #[error("{}: {key}, line {line}, column {column}: {reason}", path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// The JSON key that holds the text: `pddl_domain`, `grammar` or `pddl_problem`.
        key: &'static str,
        /// Line of the text inside that key, from 1.
        line: usize,
        /// Column in that line in bytes, from 1.
        column: usize,
        /// What is wrong there.
        reason: String,
    },
}

impl GameError {
    /// The same error as the door between worlds and minds reports it.
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

/// What to try with a file that is no PDDL game by its name.
fn other_kind(file: &Path) -> &'static str {
    match file.extension().and_then(|extension| extension.to_str()) {
        Some("tw-pddl") => "",
        Some("ulx") => {
            "\nhint: only .tw-pddl games play natively, and TextWorld 1.7 no longer plays Glulx"
        }
        _ => "\nhint: only .tw-pddl games play natively; play this one with --world python",
    }
}

/// A fault in one text: where, as a byte offset, and why. The caller knows which text and which file.
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

/// Line and column of a byte offset, both from 1.
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
