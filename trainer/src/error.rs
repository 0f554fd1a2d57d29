//! The errors of training and measurement.

use crate::learn::batch::BatchError;
use agent::policy::Policy;
use scenarios::{Outcome, Trajectory};
use std::path::{Path, PathBuf};

/// Why training, evaluation or a pipeline stopped.
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
    /// The content of a recipe, table or checkpoint is invalid.
    #[error("{}: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Place and cause.
        reason: String,
    },
    /// The algorithm cannot learn from the data.
    #[error("nothing to learn from: {0}")]
    Data(String),
    /// The starting model does not fit the job.
    #[error("{0}")]
    Start(String),
    /// The policy cannot play by this protocol.
    #[error("{0}")]
    Protocol(String),
    /// An update gave a number that is not finite, or the policy is too far from its reference.
    #[error(
        "update {update}: {what} is {value}; the episodes of its batch are in {}\nhint: use a smaller learning rate, and read the last rows of metrics.csv", batch.display()
    )]
    Diverged {
        /// The update, from 0.
        update: usize,
        /// Name of the number.
        what: String,
        /// Its value.
        value: f64,
        /// A store of the trajectories of the update.
        batch: PathBuf,
    },
    /// Another process uses this folder.
    #[error("{} is in use by {holder}\nhint: {hint}", folder.display())]
    Busy {
        /// The folder of the run.
        folder: PathBuf,
        /// The process, if it is known.
        holder: String,
        /// What to do.
        hint: &'static str,
    },
    /// Shards have not played all of their episodes.
    #[error("{} cannot be merged yet\n{}\nhint: the same command with the shard's --shard goes on with it", store.display(), missing.join("\n"))]
    Incomplete {
        /// The store of all shards.
        store: PathBuf,
        /// What is missing of each shard.
        missing: Vec<String>,
    },
    /// This shard cannot continue before another one has done its part.
    #[error("{0}")]
    Awaiting(String),
    /// The policy no longer answers, for example because its server is gone.
    #[error(
        "{0}\nhint: the episodes that were played are in the store; the same command goes on with the others"
    )]
    Gone(String),
    /// See [`BatchError`].
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The model failed.
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
    /// Returns [`TrainerError::Gone`] if an episode failed because its policy does not respond any more.
    pub(crate) fn check_policy<P: Policy>(policy: &P, episode: &Trajectory) -> Result<(), Self> {
        let gone = policy
            .gone()
            .filter(|_| episode.outcome == Outcome::EnvFailed);
        gone.map_or(Ok(()), |reason| Err(Self::Gone(reason)))
    }

    /// Returns a conversion to [`TrainerError::File`] for `map_err`.
    pub(crate) fn file(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        |source| Self::File {
            path: path.into(),
            source,
        }
    }

    /// Returns a [`TrainerError::Content`] with any cause.
    pub(crate) fn content(path: &Path, reason: impl std::fmt::Display) -> Self {
        Self::Content {
            path: path.into(),
            reason: reason.to_string(),
        }
    }
}
