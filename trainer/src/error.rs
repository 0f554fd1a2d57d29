//! What can go wrong while learning and measuring.

use crate::learn::batch::BatchError;
use std::path::{Path, PathBuf};

/// Why a run stopped.
#[derive(Debug, thiserror::Error)]
pub enum TrainerError {
    /// A file could not be read or written.
    #[error("cannot use {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A recipe, table or checkpoint does not say what it should.
    #[error("{}: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Place and cause.
        reason: String,
    },
    /// The data cannot teach what was asked for.
    #[error("nothing to learn from: {0}")]
    Data(String),
    /// Who plays cannot play by this protocol.
    #[error("{0}")]
    Protocol(String),
    /// An update gave a number that is none, or a policy far from its reference.
    #[error(
        "update {update}: {what} is {value}; the episodes of its batch stand in {}\nhint: a smaller learning rate, or a look at the last rows of metrics.csv", batch.display()
    )]
    Diverged {
        /// The update.
        update: usize,
        /// Which number.
        what: String,
        /// What it was.
        value: f64,
        /// A store of the trajectories that it read.
        batch: PathBuf,
    },
    /// Another process works in this folder.
    #[error("{} is in use by {holder}\nhint: wait for it, or choose another --out; `--status` shows how far it is", folder.display())]
    Busy {
        /// The run's folder.
        folder: PathBuf,
        /// Which process, where it tells.
        holder: String,
    },
    /// Shards have not played all that they have to.
    #[error("{} cannot be merged yet\n{}\nhint: the same command with the shard's --shard goes on with it", store.display(), missing.join("\n"))]
    Incomplete {
        /// The whole store.
        store: PathBuf,
        /// What each shard lacks.
        missing: Vec<String>,
    },
    /// This shard can do nothing more before another has done something.
    #[error("{0}")]
    Awaiting(String),
    /// Whoever played answers no more.
    #[error(
        "{0}\nhint: the episodes that were played stand in the store; the same command goes on with the others"
    )]
    Gone(String),
    /// See [`BatchError`].
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The mind failed.
    #[error(transparent)]
    Agent(#[from] agent::AgentError),
    /// The trajectory store failed.
    #[error(transparent)]
    Store(#[from] scenarios::store::StoreError),
    /// The suite failed.
    #[error(transparent)]
    Suite(#[from] scenarios::SuiteError),
    /// The games could not be generated.
    #[error(transparent)]
    Generate(#[from] scenarios::household::GenerateError),
}

impl TrainerError {
    /// An [`TrainerError::File`] for `map_err`.
    pub(crate) fn file(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        |source| Self::File {
            path: path.into(),
            source,
        }
    }

    /// A [`TrainerError::Content`] from any cause.
    pub(crate) fn content(path: &Path, reason: impl std::fmt::Display) -> Self {
        Self::Content {
            path: path.into(),
            reason: reason.to_string(),
        }
    }
}
