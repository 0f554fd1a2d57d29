//! What can go wrong with a mind.

use std::path::PathBuf;

/// Why a mind could not be made, read, written or asked.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A file could not be read or written.
    #[error("cannot use {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A file was read but does not hold what it should.
    #[error("{}: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Place and cause.
        reason: String,
    },
    /// The tokenizer library refused.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// Shapes that do not belong together.
    #[error("model configuration: {0}")]
    Config(String),
    /// A server that was to play.
    #[error("{server}: {reason}")]
    Remote {
        /// Host and model.
        server: String,
        /// What went wrong, and what mends it.
        reason: String,
    },
    /// A device to learn on that cannot be had.
    #[error("device {device}: {reason}")]
    Device {
        /// As it was asked for.
        device: String,
        /// What is missing, and what mends it.
        reason: String,
    },
}
