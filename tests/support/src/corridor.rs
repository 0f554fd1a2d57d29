//! A world that is small enough to reason about. A corridor of N rooms is won by N times `east`.

#[cfg(feature = "agent")]
pub use crate::models::{babbler, jobs, noise, play, tokenizer};

use scenarios::{Environment, EnvironmentError, Observation, Protocol, Split, Status, Task, World};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// A world of corridors. The word before the `/` of a task's id names the kind of the corridor; the
/// number after it is its length.
///
/// | kind | behaviour |
/// | --- | --- |
/// | `plain` | works |
/// | `walled` | cannot be opened |
/// | `slow` | cannot be opened until [`Corridors::release`] |
/// | `rotten` | fails in room 2 |
/// | `buggy` | panics in room 2 |
/// | `pitted` | is lost in room 2 |
/// | `dumb` | has no state hash and no distance |
/// | `single` | cannot be copied |
#[derive(Default)]
pub struct Corridors {
    capacity: Option<usize>,
    open: Arc<Mutex<OpenCorridors>>,
    released: Mutex<bool>,
    release: Condvar,
}

#[derive(Default)]
struct OpenCorridors {
    now: usize,
    most: usize,
}

impl OpenCorridors {
    fn add(&mut self) {
        self.now += 1;
        self.most = self.most.max(self.now);
    }
}

impl Corridors {
    /// Returns a world with a limited capacity.
    #[must_use]
    pub fn of_capacity(capacity: usize) -> Self {
        Self {
            capacity: Some(capacity),
            ..Self::default()
        }
    }

    /// Returns the number of corridors that are open now, and the most that ever were.
    #[must_use]
    pub fn open_and_most(&self) -> (usize, usize) {
        let open = self.open.lock().unwrap();
        (open.now, open.most)
    }

    /// Lets the `slow` corridors open.
    pub fn release(&self) {
        *self.released.lock().unwrap() = true;
        self.release.notify_all();
    }

    fn wait(&self) -> bool {
        let released = self.released.lock().unwrap();
        let (released, _) = self
            .release
            .wait_timeout_while(released, Duration::from_secs(20), |released| !*released)
            .unwrap();
        *released
    }
}

impl World for Corridors {
    fn open(&self, task: &Task) -> Result<Box<dyn Environment>, EnvironmentError> {
        let (kind, length) = task.id.split_once('/').unwrap();
        let refusal = match kind {
            "walled" => Some("walled up"),
            "slow" if !self.wait() => Some("nobody released it"),
            _ => None,
        };
        if let Some(reason) = refusal {
            return Err(EnvironmentError::Load {
                path: task.path.clone(),
                reason: reason.into(),
            });
        }
        self.open.lock().unwrap().add();
        Ok(Box::new(Corridor {
            kind: kind.into(),
            length: length.parse().unwrap(),
            room: 0,
            open: Arc::clone(&self.open),
        }))
    }

    fn capacity(&self) -> Option<usize> {
        self.capacity
    }
}

/// One open corridor.
struct Corridor {
    kind: String,
    length: usize,
    room: usize,
    open: Arc<Mutex<OpenCorridors>>,
}

impl Drop for Corridor {
    fn drop(&mut self) {
        self.open.lock().unwrap().now -= 1;
    }
}

impl Corridor {
    fn observation(&self, text: String) -> Observation {
        let lost = self.kind == "pitted" && self.room >= 2;
        Observation {
            text,
            status: if lost {
                Status::Lost
            } else {
                Status::of_goal(self.room >= self.length)
            },
        }
    }
}

impl Environment for Corridor {
    fn reset(&mut self) -> Result<Observation, EnvironmentError> {
        self.room = 0;
        Ok(self.observation(format!(
            "You are in room 0 of {}.\n\nYour task is to walk east.",
            self.length
        )))
    }

    fn step(&mut self, command: &str) -> Result<Observation, EnvironmentError> {
        match command {
            "east" => self.room += 1,
            "west" => self.room = self.room.saturating_sub(1),
            "look" => {}
            _ => return Ok(self.observation("Nothing happens.".into())),
        }
        if self.kind == "rotten" && self.room >= 2 {
            return Err(EnvironmentError::Step {
                command: command.into(),
                reason: "the floor gave way".into(),
            });
        }
        assert!(
            self.kind != "buggy" || self.room < 2,
            "a defect of the environment"
        );
        Ok(self.observation(format!("You are in room {}.", self.room)))
    }

    fn admissible_commands(&mut self) -> Result<Vec<String>, EnvironmentError> {
        Ok(["east", "look", "west"].map(String::from).into())
    }

    /// Returns the room, unless the corridor is `dumb`.
    fn state_hash(&self) -> Option<u64> {
        (self.kind != "dumb").then_some(self.room as u64)
    }

    /// Returns the number of rooms to go, unless the corridor is `dumb`.
    fn remaining(&self) -> Option<usize> {
        (self.kind != "dumb").then_some(self.length.saturating_sub(self.room))
    }

    /// Returns a copy, unless the corridor is `single`.
    fn fork(&self) -> Option<Box<dyn Environment>> {
        if self.kind == "single" {
            return None;
        }
        self.open.lock().unwrap().add();
        Some(Box::new(Self {
            kind: self.kind.clone(),
            open: Arc::clone(&self.open),
            ..*self
        }))
    }
}

/// Returns the task with this id, for example `plain/3`.
#[must_use]
pub fn task(id: &str) -> Task {
    let hex: String = id.bytes().map(|byte| format!("{byte:02x}")).collect();
    Task {
        id: id.into(),
        split: Split::Train,
        task_type: None,
        path: id.into(),
        hash: format!("{hex:0>64}"),
    }
}

/// Returns the tasks with these ids.
#[must_use]
pub fn tasks(ids: &[&str]) -> Vec<Task> {
    ids.iter().map(|id| task(id)).collect()
}

/// Returns a protocol of six turns with at most four tokens each, sampled at temperature 1.
#[must_use]
pub fn protocol() -> Protocol {
    Protocol {
        turn_limit: 6,
        context_limit: 1000,
        completion_limit: 4,
        temperature: 1.0,
        best_of: 1,
        ..Protocol::default()
    }
}
