//! What can go wrong with a mind.

use std::fmt::{Display, Formatter, Result};
use std::path::PathBuf;

/// Why a mind could not be made, read, written or asked.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A file could not be read or written.
    #[error("cannot use {}: {source}", Plain(&path.to_string_lossy()))]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A file was read but does not hold what it should.
    #[error("{}: {}", Plain(&path.to_string_lossy()), Plain(reason))]
    Content {
        /// The file.
        path: PathBuf,
        /// Place and cause.
        reason: String,
    },
    /// The tokenizer library refused.
    #[error("tokenizer: {}", Plain(_0))]
    Tokenizer(String),
    /// Shapes that do not belong together.
    #[error("model configuration: {}", Plain(_0))]
    Config(String),
    /// A server that was to play.
    #[error("{server}: {reason}")]
    Remote {
        /// Host and model.
        server: String,
        /// What went wrong, and what mends it.
        reason: String,
    },
    /// A device that cannot be had, or not for this.
    #[error("device {device}: {reason}")]
    Device {
        /// As it was asked for.
        device: String,
        /// What is missing, and what mends it.
        reason: String,
    },
}

/// Bytes of a message that are shown from its beginning, and from its end.
const SHOWN: [usize; 2] = [1600, 400];

/// A text that may quote a stranger's file, fit for a terminal: what would steer it is spelled out, and of a long text
/// the middle is left out.
struct Plain<'a>(&'a str);

impl Display for Plain<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> Result {
        let [first, last] = SHOWN;
        let text = self.0;
        let head = spelled(&text[..text.floor_char_boundary(first + last)]);
        if text.len() <= first + last && head.len() <= first + last {
            return out.write_str(&head);
        }
        let tail = spelled(&text[text.ceil_char_boundary(text.len().saturating_sub(last))..]);
        let (head, tail) = (
            &head[..head.floor_char_boundary(first)],
            &tail[tail.ceil_char_boundary(tail.len().saturating_sub(last))..],
        );
        write!(out, "{head} … (of {} bytes) … {tail}", text.len())
    }
}

fn spelled(text: &str) -> String {
    let mut spelled = String::new();
    for letter in text.chars() {
        match letter {
            '\n' => spelled.push('\n'),
            // Those that turn the direction of writing are no control characters for Unicode.
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

    #[test]
    fn a_message_can_neither_steer_nor_flood_a_terminal() {
        let said = |reason: &str| {
            AgentError::Content {
                path: "a\x1b[2J.json".into(),
                reason: reason.into(),
            }
            .to_string()
        };
        assert_eq!(
            said("é \x1b[31m\0\u{202E}\nhint: x"),
            "a\\u{1b}[2J.json: é \\u{1b}[31m\\u{0}\\u{202e}\nhint: x"
        );
        let long = said(&format!("begin {} end", "é".repeat(100_000)));
        assert!(
            long.len() < 2100 && long.contains("begin é") && long.ends_with("é end"),
            "{long}"
        );
        assert!(long.contains(" … (of 200010 bytes) … "), "{long}");
        assert!(said(&"\0".repeat(1990)).len() < 2100);
    }
}
