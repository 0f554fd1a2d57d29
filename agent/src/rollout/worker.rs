//! The threads that run environments: they open games and perform commands, one task at a time.

use crossbeam::channel::{Receiver, Sender};
use scenarios::{Environment, EnvironmentError, Observation, Task, World};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Names a state of an episode that is being played: the slot of the episode, and the index of the
/// state in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct StateIndex {
    pub(super) slot: usize,
    pub(super) state: usize,
}

/// A task for the workers.
pub(super) enum WorkerTask<'a> {
    /// Opens a game.
    Open { target: StateIndex, task: &'a Task },
    /// Performs a command.
    Step {
        target: StateIndex,
        environment: Box<dyn Environment>,
        command: String,
    },
}

/// The reply to a [`WorkerTask`].
pub(super) struct RolloutReply {
    pub(super) target: StateIndex,
    pub(super) result: Result<EnvironmentReply, EnvironmentError>,
}

/// What an environment returned, and the environment itself.
pub(super) struct EnvironmentReply {
    pub(super) environment: Box<dyn Environment>,
    pub(super) observation: Observation,
    /// The admissible commands, if the protocol shows them.
    pub(super) admissible: Option<Vec<String>>,
    pub(super) hash: Option<u64>,
}

/// Runs tasks until the sender of `tasks` is dropped. If an environment panics, only its episode is
/// lost.
pub(super) fn run_worker(
    world: &dyn World,
    tasks: &Receiver<WorkerTask<'_>>,
    replies: &Sender<RolloutReply>,
    admissible_shown: bool,
) {
    for task in tasks {
        let target = task.target();
        let panicked = task.panic_error();
        let result = catch_unwind(AssertUnwindSafe(|| perform(world, task, admissible_shown)))
            .unwrap_or(Err(panicked));
        if replies.send(RolloutReply { target, result }).is_err() {
            return;
        }
    }
}

fn perform(
    world: &dyn World,
    task: WorkerTask<'_>,
    admissible_shown: bool,
) -> Result<EnvironmentReply, EnvironmentError> {
    let (mut environment, observation) = match task {
        WorkerTask::Open { task, .. } => {
            let mut environment = world.open(task)?;
            let observation = environment.reset()?;
            (environment, observation)
        }
        WorkerTask::Step {
            mut environment,
            command,
            ..
        } => {
            let observation = environment.step(&command)?;
            (environment, observation)
        }
    };
    let admissible = if admissible_shown {
        Some(environment.admissible_commands()?)
    } else {
        None
    };
    Ok(EnvironmentReply {
        hash: environment.state_hash(),
        environment,
        observation,
        admissible,
    })
}

impl WorkerTask<'_> {
    fn target(&self) -> StateIndex {
        match self {
            Self::Open { target, .. } | Self::Step { target, .. } => *target,
        }
    }

    /// Returns the error to report if the environment panics during this task.
    fn panic_error(&self) -> EnvironmentError {
        let reason = "it panicked".to_string();
        match self {
            Self::Open { task, .. } => EnvironmentError::Load {
                path: task.path.clone(),
                reason,
            },
            Self::Step { command, .. } => EnvironmentError::Step {
                command: command.clone(),
                reason,
            },
        }
    }
}
