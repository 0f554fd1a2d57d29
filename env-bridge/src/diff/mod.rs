//! Differential test: plays the same commands in two worlds and compares their responses to the
//! reset and to every command.
//!
//! The left world is the native one. The right one can be any world; usually it is the Python stack
//! that the native world imitates.
//!
//! The commands of a game depend only on the seed and on the hash of the game. They stay the same
//! if other games are in the list or if the number of workers changes. A game ends at its first
//! difference, because the two states may differ from there on. If a world fails on a game, the
//! game counts neither as equal nor as different, but as a failure.

mod fuzzer;
mod report;
mod sources;

pub use report::{
    DiffPlace, DiffProgress, DiffReport, DiffTurn, TURNS_BEFORE, WorldDifference, WorldFailure,
    WorldSide,
};
pub use sources::Commands;

use crate::compare::{FieldDifference, WorldResponse};
use crate::native::{NativeEnvironment, NativeWorld};
use report::{ComparedGame, ComparisonResult, DiffTally};
use scenarios::{EnvironmentError, Task, World};
use sources::{CommandStream, stream_of_game};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// The commands that are played in the two worlds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiffPlan {
    /// The sources of commands. Game i of the list uses the source at i modulo the length.
    pub commands: Vec<Commands>,
    /// Commands per game. If one plan has fewer turns than another, its commands are the first of
    /// the other's.
    pub turns: usize,
    /// The seed of all random draws.
    pub seed: u64,
}

/// Plays every task in both worlds with `workers` threads, so that at most as many environments of
/// `other` are open at once. If `other` fails on a game, the game is retried once in a new
/// environment. `progress` is called after each game, by one thread at a time.
///
/// The report does not depend on `workers`, provided that the worlds are deterministic.
///
/// # Panics
/// If the plan has no source of commands.
pub fn diff(
    ours: &NativeWorld,
    other: &dyn World,
    tasks: &[&Task],
    plan: &DiffPlan,
    workers: usize,
    progress: &(dyn Fn(&DiffProgress) + Sync),
) -> DiffReport {
    assert!(
        !plan.commands.is_empty(),
        "a plan needs at least one source of commands"
    );
    let next = AtomicUsize::new(0);
    let tally = Mutex::new(DiffTally::default());
    std::thread::scope(|scope| {
        for _ in 0..workers.clamp(1, tasks.len().max(1)) {
            scope.spawn(|| {
                while let Some((index, task)) = next_task(&next, tasks) {
                    let commands = plan.commands[index % plan.commands.len()];
                    let game = compare_game(ours, other, task, commands, plan);
                    let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
                    tally.add(index, game);
                    progress(&tally.progress(tasks.len()));
                }
            });
        }
    });
    tally
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
        .report(tasks.len())
}

fn next_task<'a>(next: &AtomicUsize, tasks: &[&'a Task]) -> Option<(usize, &'a Task)> {
    let index = next.fetch_add(1, Ordering::Relaxed);
    Some((index, *tasks.get(index)?))
}

/// Compares one game. If the other world fails, tries once more.
fn compare_game(
    ours: &NativeWorld,
    other: &dyn World,
    task: &Task,
    commands: Commands,
    plan: &DiffPlan,
) -> ComparedGame {
    let first = attempt(ours, other, task, commands, plan);
    if matches!(&first.result, ComparisonResult::Failed(failure) if failure.world == WorldSide::Other)
    {
        return ComparedGame {
            retried: true,
            ..attempt(ours, other, task, commands, plan)
        };
    }
    first
}

fn attempt(
    ours: &NativeWorld,
    other: &dyn World,
    task: &Task,
    commands: Commands,
    plan: &DiffPlan,
) -> ComparedGame {
    let mut place = DiffPlace {
        game: task.id.clone(),
        path: task.path.display().to_string(),
        seed: plan.seed,
        commands,
        turn: 0,
        command: None,
        before: VecDeque::new(),
    };
    let stop = play_both(ours, other, task, plan, &mut place);
    let turn = place.turn;
    let (compared, result) = match stop {
        Ok(()) => (turn, ComparisonResult::Equal),
        Err(ComparisonStop::Different(FieldDifference { field, left, right })) => (
            turn,
            ComparisonResult::Different(WorldDifference {
                place,
                field,
                ours: left,
                other: right,
            }),
        ),
        Err(ComparisonStop::Failed(world, error)) => (
            turn.saturating_sub(1),
            ComparisonResult::Failed(WorldFailure {
                place,
                world,
                message: error.to_string(),
            }),
        ),
    };
    ComparedGame {
        compared,
        retried: false,
        result,
    }
}

/// The reason why a game ended before its last turn. The caller has the place.
enum ComparisonStop {
    Different(FieldDifference),
    Failed(WorldSide, EnvironmentError),
}

/// Plays one game in both worlds until its last turn or the first difference or failure. `place` is
/// the current turn.
fn play_both(
    ours: &NativeWorld,
    other: &dyn World,
    task: &Task,
    plan: &DiffPlan,
    place: &mut DiffPlace,
) -> Result<(), ComparisonStop> {
    let game = ours
        .game(&task.path)
        .map_err(|error| our_failure(error.into_environment_error(&task.path)))?;
    let mut source = CommandStream::new(
        place.commands,
        game.clone(),
        stream_of_game(plan.seed, &task.hash),
    );
    let mut ours = NativeEnvironment::new(game);
    let mut other = other.open(task).map_err(other_failure)?;
    loop {
        let command = place.command.as_deref();
        let left = WorldResponse::to(command, &mut ours).map_err(our_failure)?;
        let right = WorldResponse::to(command, &mut *other).map_err(other_failure)?;
        if let Some(difference) = left.first_difference(&right) {
            return Err(ComparisonStop::Different(difference));
        }
        if place.turn == plan.turns {
            return Ok(());
        }
        let command = source.next(&left.admissible);
        place.advance(left.text, command);
    }
}

fn our_failure(error: EnvironmentError) -> ComparisonStop {
    ComparisonStop::Failed(WorldSide::Ours, error)
}

fn other_failure(error: EnvironmentError) -> ComparisonStop {
    ComparisonStop::Failed(WorldSide::Other, error)
}

#[cfg(test)]
mod tests;
