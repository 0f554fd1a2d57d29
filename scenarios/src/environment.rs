//! The interface between policies and environments. A policy receives only what passes through it.

use crate::task::Task;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The response of an environment to a reset or a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// The text of the environment, unchanged.
    pub text: String,
    /// Whether the game continues.
    pub status: Status,
}

impl Observation {
    /// Returns true if the goal holds now.
    #[must_use]
    pub fn won(&self) -> bool {
        self.status == Status::Won
    }
}

/// The status of a game. Household games are never lost; other TextWorld games can be.
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
    /// Returns the status of a game that cannot be lost: `Won` if the goal holds, else `Playing`.
    #[must_use]
    pub fn of_goal(holds: bool) -> Self {
        if holds { Self::Won } else { Self::Playing }
    }
}

/// One running game.
///
/// Only three methods are required. If an environment implements [`Environment::state_hash`],
/// [`Environment::remaining`] or [`Environment::fork`], more measurements and searches are
/// possible.
///
/// ```
/// use scenarios::{Environment, EnvironmentError, Observation, Status};
///
/// /// A corridor with a door at its end.
/// struct Corridor {
///     steps_left: usize,
/// }
///
/// impl Corridor {
///     fn observation(&self) -> Observation {
///         Observation {
///             text: format!("The door is {} steps away.", self.steps_left),
///             status: Status::of_goal(self.steps_left == 0),
///         }
///     }
/// }
///
/// impl Environment for Corridor {
///     fn reset(&mut self) -> Result<Observation, EnvironmentError> {
///         self.steps_left = 2;
///         Ok(self.observation())
///     }
///
///     fn step(&mut self, command: &str) -> Result<Observation, EnvironmentError> {
///         if command == "walk" {
///             self.steps_left = self.steps_left.saturating_sub(1);
///         }
///         Ok(self.observation())
///     }
///
///     fn admissible_commands(&mut self) -> Result<Vec<String>, EnvironmentError> {
///         Ok(vec!["walk".into()])
///     }
/// }
///
/// let mut corridor = Corridor { steps_left: 0 };
/// assert_eq!(corridor.reset()?.text, "The door is 2 steps away.");
/// assert!(!corridor.step("walk")?.won());
/// assert!(corridor.step("walk")?.won());
/// # Ok::<(), EnvironmentError>(())
/// ```
pub trait Environment: Send {
    /// Resets the game to its initial state and returns the opening text.
    ///
    /// # Errors
    /// If the simulator cannot run the game.
    fn reset(&mut self) -> Result<Observation, EnvironmentError>;

    /// Executes one command. If the game does not know the command, the observation reports it;
    /// that is not an error.
    ///
    /// # Errors
    /// If the simulator itself fails. The outcome of the episode is then `Outcome::EnvFailed`.
    fn step(&mut self, command: &str) -> Result<Observation, EnvironmentError>;

    /// Returns the commands that would change or print something now, sorted by bytes, without
    /// duplicates.
    ///
    /// # Errors
    /// If the simulator itself fails.
    fn admissible_commands(&mut self) -> Result<Vec<String>, EnvironmentError>;

    /// Returns a hash of the current state. It depends only on the facts of the state, not on the
    /// commands that led to it or on the process. Returns `None` if the environment does not
    /// provide a hash. Do not compare the hashes of states of different games.
    fn state_hash(&self) -> Option<u64> {
        None
    }

    /// Returns an estimate of the fewest commands that still lead to the goal. The estimate uses
    /// the internal state of the environment, which no observation may reveal. It is 0 exactly if
    /// the goal holds, and `usize::MAX` if the goal is out of reach. It depends on the state alone.
    /// Returns `None` if the environment does not provide an estimate.
    fn remaining(&self) -> Option<usize> {
        None
    }

    /// Returns an independent copy in the current state. It responds to every command as the
    /// original would. Returns `None` if the environment cannot be copied.
    fn fork(&self) -> Option<Box<dyn Environment>> {
        None
    }
}

/// Opens games. The threads of a worker pool share one `World`.
pub trait World: Sync {
    /// Loads the game of `task`. Call [`Environment::reset`] on the result before anything else.
    ///
    /// # Errors
    /// If the file is missing, damaged or not a game of this kind.
    fn open(&self, task: &Task) -> Result<Box<dyn Environment>, EnvironmentError>;

    /// Returns how many environments can be open at once. `None` means that only memory limits it.
    /// If more are opened, the caller waits until one is dropped.
    fn capacity(&self) -> Option<usize> {
        None
    }
}

/// Why an environment failed.
#[derive(Debug, thiserror::Error)]
pub enum EnvironmentError {
    /// The game file cannot be read or is not a game.
    #[error("cannot load {}: {reason}", path.display())]
    Load {
        /// The file.
        path: PathBuf,
        /// The place in the file and the cause.
        reason: String,
    },
    /// The simulator failed during the game.
    #[error("the world failed at command {command:?}: {reason}")]
    Step {
        /// The command that was executed.
        command: String,
        /// The error message of the simulator.
        reason: String,
    },
}
