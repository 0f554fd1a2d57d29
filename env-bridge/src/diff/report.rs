//! The result of a comparison of two worlds: counts, the first difference and the first failure.

use super::sources::Commands;
use serde::Serialize;
use std::collections::VecDeque;

/// The number of turns before a difference that are reported with it.
pub const TURNS_BEFORE: usize = 5;

/// The result of a comparison.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DiffReport {
    /// Games in the list.
    pub games: usize,
    /// Commands whose responses were compared. Resets are also compared, but not counted.
    pub commands: usize,
    /// Games in which the worlds differ.
    pub differences: usize,
    /// The difference of the first such game in the list.
    pub first: Option<WorldDifference>,
    /// Games on which a world failed. If the other world failed, the game was retried once and
    /// failed again.
    pub failures: usize,
    /// The failure of the first such game in the list.
    pub first_failure: Option<WorldFailure>,
    /// Games that were retried because the other world had failed.
    pub retried: usize,
}

impl DiffReport {
    /// Returns true if at least one game was compared and everything is equal.
    #[must_use]
    pub fn clean(&self) -> bool {
        self.games > 0 && self.differences == 0 && self.failures == 0
    }
}

/// A turn of a game, with everything that is needed to reach it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DiffPlace {
    /// The id of the task.
    pub game: String,
    /// The file of the game.
    pub path: String,
    /// The seed of the plan: [`DiffPlan::seed`](super::DiffPlan::seed).
    pub seed: u64,
    /// The source of the commands of this game.
    pub commands: Commands,
    /// The turn; 0 is the reset.
    pub turn: usize,
    /// The command; `None` for the reset.
    pub command: Option<String>,
    /// At most [`TURNS_BEFORE`] turns before this one, the latest last. Both worlds agree on them.
    pub before: VecDeque<DiffTurn>,
}

/// A command with its observation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DiffTurn {
    /// `None` for the reset.
    pub command: Option<String>,
    /// The observation, equal in both worlds.
    pub observation: String,
}

impl DiffPlace {
    /// Moves to the next turn. `observation` is the response to the current command, `command` the
    /// next one.
    pub(super) fn advance(&mut self, observation: String, command: String) {
        self.before.push_back(DiffTurn {
            command: self.command.replace(command),
            observation,
        });
        if self.before.len() > TURNS_BEFORE {
            self.before.pop_front();
        }
        self.turn += 1;
    }
}

/// One field that differs between the worlds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WorldDifference {
    /// The game and the turn.
    #[serde(flatten)]
    pub place: DiffPlace,
    /// `observation`, `admissible` or `won`.
    pub field: &'static str,
    /// The value in the native world, as JSON.
    pub ours: String,
    /// The value in the other world, as JSON.
    pub other: String,
}

/// A failure of a world.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WorldFailure {
    /// The game and the turn. If the game could not be loaded, the turn is that of the reset.
    #[serde(flatten)]
    pub place: DiffPlace,
    /// The world that failed.
    pub world: WorldSide,
    /// Its error message.
    pub message: String,
}

/// One of the two worlds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WorldSide {
    /// The native world.
    Ours,
    /// The world that the native one is compared with.
    Other,
}

/// The progress of a comparison.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiffProgress {
    /// Finished games, including failed ones.
    pub done: usize,
    /// Games in the list.
    pub games: usize,
    /// The current value of [`DiffReport::commands`].
    pub commands: usize,
    /// The current value of [`DiffReport::differences`].
    pub differences: usize,
    /// The current value of [`DiffReport::failures`].
    pub failures: usize,
}

/// The comparison of one game.
pub(super) struct ComparedGame {
    /// Commands whose responses were compared.
    pub(super) compared: usize,
    pub(super) retried: bool,
    pub(super) result: ComparisonResult,
}

pub(super) enum ComparisonResult {
    Equal,
    Different(WorldDifference),
    Failed(WorldFailure),
}

/// The sum over the finished games. The games may finish in any order; the first of a kind is the
/// one with the smallest index.
#[derive(Default)]
pub(super) struct DiffTally {
    done: usize,
    report: DiffReport,
    first: Option<usize>,
    first_failure: Option<usize>,
}

impl DiffTally {
    pub(super) fn add(&mut self, index: usize, game: ComparedGame) {
        self.done += 1;
        self.report.commands += game.compared;
        self.report.retried += usize::from(game.retried);
        match game.result {
            ComparisonResult::Equal => {}
            ComparisonResult::Different(difference) => {
                self.report.differences += 1;
                if self.first.is_none_or(|first| index < first) {
                    self.first = Some(index);
                    self.report.first = Some(difference);
                }
            }
            ComparisonResult::Failed(failure) => {
                self.report.failures += 1;
                if self.first_failure.is_none_or(|first| index < first) {
                    self.first_failure = Some(index);
                    self.report.first_failure = Some(failure);
                }
            }
        }
    }

    pub(super) fn progress(&self, games: usize) -> DiffProgress {
        DiffProgress {
            done: self.done,
            games,
            commands: self.report.commands,
            differences: self.report.differences,
            failures: self.report.failures,
        }
    }

    pub(super) fn report(self, games: usize) -> DiffReport {
        DiffReport {
            games,
            ..self.report
        }
    }
}
