//! A world for tests: the native world with injected faults. It records all commands.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use env_bridge::NativeWorld;
use scenarios::{Environment, EnvironmentError, Observation, Status, Task, World};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

/// A fault of the other world in one game.
#[derive(Clone, Copy)]
pub(crate) enum InjectedFault {
    /// At this turn, the text is different.
    Observation(usize),
    /// From this turn on, the last admissible command is missing.
    Admissible(usize),
    /// At this turn, the status is inverted.
    Won(usize),
    /// The game cannot be loaded.
    Load,
    /// A turn fails in the first `times` environments of the game.
    Step { turn: usize, times: usize },
}

/// The native world with faults in some games.
#[derive(Default)]
pub(crate) struct FaultyWorld {
    native: NativeWorld,
    faults: BTreeMap<String, InjectedFault>,
    pub(crate) log: Arc<RequestLog>,
}

/// The requests to a faulty world.
#[derive(Default)]
pub(crate) struct RequestLog {
    /// The commands of each environment, by game.
    commands: Mutex<BTreeMap<String, Vec<Vec<String>>>>,
    /// Environments that are open now.
    pub(crate) open: AtomicUsize,
    /// The maximum of `open` so far.
    pub(crate) most_open: AtomicUsize,
}

impl FaultyWorld {
    pub(crate) fn new<'a>(faults: impl IntoIterator<Item = (&'a Task, InjectedFault)>) -> Self {
        Self {
            faults: faults
                .into_iter()
                .map(|(task, fault)| (task.id.clone(), fault))
                .collect(),
            ..Self::default()
        }
    }

    /// Returns the commands of each environment, by game.
    pub(crate) fn commands(&self) -> BTreeMap<String, Vec<Vec<String>>> {
        self.log.commands.lock().unwrap().clone()
    }
}

impl World for FaultyWorld {
    fn open(&self, task: &Task) -> Result<Box<dyn Environment>, EnvironmentError> {
        let mut commands = self.log.commands.lock().unwrap();
        let opened = commands.entry(task.id.clone()).or_default();
        opened.push(Vec::new());
        let fault = self.faults.get(&task.id).copied();
        if let Some(InjectedFault::Load) = fault {
            return Err(EnvironmentError::Load {
                path: task.path.clone(),
                reason: "injected load fault".to_owned(),
            });
        }
        let open = self.log.open.fetch_add(1, SeqCst) + 1;
        self.log.most_open.fetch_max(open, SeqCst);
        Ok(Box::new(FaultyEnvironment {
            native: self.native.open(task)?,
            fault,
            opened: opened.len(),
            turn: 0,
            game: task.id.clone(),
            log: self.log.clone(),
        }))
    }
}

struct FaultyEnvironment {
    native: Box<dyn Environment>,
    fault: Option<InjectedFault>,
    /// The number of environments of this game so far, including this one.
    opened: usize,
    turn: usize,
    game: String,
    log: Arc<RequestLog>,
}

impl Drop for FaultyEnvironment {
    fn drop(&mut self) {
        self.log.open.fetch_sub(1, SeqCst);
    }
}

impl FaultyEnvironment {
    fn with_fault(&self, mut observation: Observation) -> Observation {
        match self.fault {
            Some(InjectedFault::Observation(turn)) if turn == self.turn => {
                observation.text.push_str(" Changed.");
            }
            Some(InjectedFault::Won(turn)) if turn == self.turn => {
                observation.status = Status::of_goal(!observation.won());
            }
            _ => {}
        }
        observation
    }
}

impl Environment for FaultyEnvironment {
    fn reset(&mut self) -> Result<Observation, EnvironmentError> {
        self.turn = 0;
        let observation = self.native.reset()?;
        Ok(self.with_fault(observation))
    }

    fn step(&mut self, command: &str) -> Result<Observation, EnvironmentError> {
        self.turn += 1;
        let mut commands = self.log.commands.lock().unwrap();
        commands
            .get_mut(&self.game)
            .unwrap()
            .last_mut()
            .unwrap()
            .push(command.to_owned());
        drop(commands);
        match self.fault {
            Some(InjectedFault::Step { turn, times })
                if turn == self.turn && self.opened <= times =>
            {
                Err(EnvironmentError::Step {
                    command: command.to_owned(),
                    reason: "injected step fault".to_owned(),
                })
            }
            _ => {
                let observation = self.native.step(command)?;
                Ok(self.with_fault(observation))
            }
        }
    }

    fn admissible_commands(&mut self) -> Result<Vec<String>, EnvironmentError> {
        let mut admissible = self.native.admissible_commands()?;
        if let Some(InjectedFault::Admissible(turn)) = self.fault
            && turn <= self.turn
        {
            admissible.pop();
        }
        Ok(admissible)
    }
}
