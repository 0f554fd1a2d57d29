//! The door between worlds and minds. A world knows how texts come about; a mind sees only what passes here.

use crate::task::Task;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What the world says after a reset or a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// The world's text, exactly as the world prints it.
    pub text: String,
    /// Whether the game goes on.
    pub status: Status,
}

impl Observation {
    /// Whether the goal holds now.
    #[must_use]
    pub fn won(&self) -> bool {
        self.status == Status::Won
    }
}

/// How a game stands. Household games are never lost; other TextWorld games can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Neither won nor lost.
    Playing,
    /// The goal holds.
    Won,
    /// The game is over and the goal can no longer be reached.
    Lost,
}

impl Status {
    /// The status of a game that cannot be lost.
    #[must_use]
    pub fn of_goal(holds: bool) -> Self {
        if holds { Self::Won } else { Self::Playing }
    }
}

/// One running game.
pub trait Environment: Send {
    /// Puts the game back to its start and returns the opening text.
    ///
    /// # Errors
    /// When the world cannot run the game.
    fn reset(&mut self) -> Result<Observation, EnvironmentError>;

    /// Performs one command. A command the world does not know is answered by the world, not by an error.
    ///
    /// # Errors
    /// When the world itself fails; the episode is then lost (`Outcome::EnvFailed`).
    fn step(&mut self, command: &str) -> Result<Observation, EnvironmentError>;

    /// The commands that would change something or print something now: sorted by bytes, without doubles.
    ///
    /// # Errors
    /// When the world itself fails.
    fn admissible_commands(&mut self) -> Result<Vec<String>, EnvironmentError>;

    /// A hash of the state that the game is in: of its facts alone, whatever led to them, in whichever process. `None`
    /// where the world does not tell. States of different games are not to be compared.
    fn state_hash(&self) -> Option<u64> {
        None
    }

    /// An estimate of the fewest commands that still lead to the goal, by what the world knows and no text may tell: 0
    /// exactly when the goal holds, `usize::MAX` when it is out of reach. It depends on the state alone. `None` where the
    /// world does not tell.
    fn remaining(&self) -> Option<usize> {
        None
    }

    /// A copy that goes on from here by itself, and says to any commands what this one would say; the two know nothing of
    /// each other. `None` where a world cannot be copied.
    fn fork(&self) -> Option<Box<dyn Environment>> {
        None
    }
}

/// Opens games. Shared by the workers of a pool.
pub trait World: Sync {
    /// Loads the game of `task`; the result still wants a [`Environment::reset`].
    ///
    /// # Errors
    /// When the file is missing, damaged or not a game this world can play.
    fn open(&self, task: &Task) -> Result<Box<dyn Environment>, EnvironmentError>;

    /// How many environments can be open at once; `None` = as many as memory holds. Whoever opens more waits until one
    /// is dropped.
    fn capacity(&self) -> Option<usize> {
        None
    }
}

/// Why a world could not go on.
#[derive(Debug, thiserror::Error)]
pub enum EnvironmentError {
    /// The game file cannot be read or is not a game.
    #[error("cannot load {}: {reason}", path.display())]
    Load {
        /// The file.
        path: PathBuf,
        /// Place and cause.
        reason: String,
    },
    /// The world broke while the game ran.
    #[error("the world failed at command {command:?}: {reason}")]
    Step {
        /// The command that was performed.
        command: String,
        /// What the world said.
        reason: String,
    },
}
