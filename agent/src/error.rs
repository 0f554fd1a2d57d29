//! The error type of this crate.

use std::fmt::{Display, Formatter, Result};
use std::path::{Path, PathBuf};

/// Why a model could not be made, read, written or run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A file could not be read or written.
    #[error("cannot use {}: {source}", TerminalText(&path.to_string_lossy()))]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A file was read, but its content is wrong.
    #[error("{}: {}", TerminalText(&path.to_string_lossy()), TerminalText(reason))]
    Content {
        /// The file.
        path: PathBuf,
        /// Place in the file and cause.
        reason: String,
    },
    /// The tokenizer library, or our check before it, refused a tokenizer.
    #[error("tokenizer: {}", TerminalText(_0))]
    Tokenizer(String),
    /// A configuration that is wrong, or shapes that do not fit each other.
    #[error("model configuration: {}", TerminalText(_0))]
    Config(String),
    /// A server that should play did not.
    #[error("{server}: {reason}")]
    Remote {
        /// Host and model.
        server: String,
        /// The cause, and how to fix it.
        reason: String,
    },
    /// A device is missing or cannot do what was asked for.
    #[error("device {device}: {reason}")]
    Device {
        /// The device as the user wrote it.
        device: String,
        /// What is missing, and how to fix it.
        reason: String,
    },
}

impl AgentError {
    /// An error from reading or writing a file.
    pub(crate) fn file(path: &Path, source: std::io::Error) -> Self {
        Self::File {
            path: path.into(),
            source,
        }
    }

    /// An error in the content of a file.
    pub(crate) fn content(path: &Path, reason: impl Into<String>) -> Self {
        Self::Content {
            path: path.into(),
            reason: reason.into(),
        }
    }

    /// The same error. If it is about a configuration, it names the file that contains it.
    pub(crate) fn in_file(self, path: &Path) -> Self {
        match self {
            Self::Config(reason) => Self::content(path, reason),
            other => other,
        }
    }
}

/// If a message is long: the bytes that are shown of its beginning and of its end.
const SHOWN: [usize; 2] = [1600, 400];

/// A text made safe for a terminal, because it may quote a stranger's file. Control characters are
/// spelled out. If the text is long, the middle is left out.
struct TerminalText<'a>(&'a str);

impl Display for TerminalText<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> Result {
        let [first, last] = SHOWN;
        let text = self.0;
        let head = spelled(&text[..text.floor_char_boundary(first + last)]);
        if text.len() <= first + last && head.len() <= first + last {
            return out.write_str(&head);
        }
        let tail = spelled(&text[text.ceil_char_boundary(text.len().saturating_sub(last))..]);
        let head = &head[..head.floor_char_boundary(first)];
        let tail = &tail[tail.ceil_char_boundary(tail.len().saturating_sub(last))..];
        write!(out, "{head} … (of {} bytes) … {tail}", text.len())
    }
}

fn spelled(text: &str) -> String {
    let mut spelled = String::new();
    for letter in text.chars() {
        match letter {
            '\n' => spelled.push('\n'),
            // Letters that change the direction of writing are not control characters in Unicode.
            letter
                if letter.is_control()
                    || matches!(letter, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}') =>
            {
                spelled.extend(letter.escape_default());
            }
            letter => spelled.push(letter),
        }
    }
    spelled
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(reason: &str) -> String {
        AgentError::Content {
            path: "a\x1b[2J.json".into(),
            reason: reason.into(),
        }
        .to_string()
    }

    #[test]
    fn a_message_can_neither_control_nor_flood_a_terminal() {
        assert_eq!(
            message("é \x1b[31m\0\u{202E}\nhint: x"),
            "a\\u{1b}[2J.json: é \\u{1b}[31m\\u{0}\\u{202e}\nhint: x"
        );
        let long = message(&format!("begin {} end", "é".repeat(100_000)));
        assert!(
            long.len() < 2100 && long.contains("begin é") && long.ends_with("é end"),
            "{long}"
        );
        assert!(long.contains(" … (of 200010 bytes) … "), "{long}");
        assert!(message(&"\0".repeat(1990)).len() < 2100);
    }
}
