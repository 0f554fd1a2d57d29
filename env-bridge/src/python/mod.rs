//! The Python worlds: ALFWorld's and TextWorld's games, and classes of the user's own, each environment in a process
//! of its own.
//!
//! ```text
//! PythonWorld (pool) ── process ══ pipes, frames of JSON (wire) ══ worker ── interpreter (pyo3) ── glue.py ── world
//! ```
//!
//! The planner behind ALFWorld is not thread-safe, can end its process and leaks by design. So Python never runs in
//! hearth's own process: a worker is this same program, started again as `hearth env-worker`. A worker that raises,
//! dies, hangs, writes nonsense or takes too much memory costs one episode and is replaced; one that has served long
//! is recycled. When hearth ends, however it ends, its workers see their pipes close and go, with their files.
//!
//! # A world of your own
//!
//! Any class with three methods, named as `FILE.py:CLASS` or `package.module:CLASS`:
//!
//! ```python
//! class World:
//!     def reset(self, game):    # the path of the task's game file; its content is yours
//!         return "You are in a room. Your task is to: leave.", "playing", ["open door", "look"]
//!     def step(self, command):  # "playing", "won" or "lost"; the list of commands may be left out
//!         return "You step outside.", "won", []
//!     def close(self):          # called before a worker is put away
//!         pass
//! ```

/// The bridge's loop over a PDDL game in plain Python, to measure the bridge against.
pub const BARE_LOOP: &str = include_str!("bare.py");

mod interpreter;
mod process;
mod venv;
mod wire;
mod worker;

pub use venv::{
    PYTHON_EXECUTABLE, PYTHON_LIBRARY, PYTHON_VERSION, Pin, REQUIREMENTS, Venv, VenvError, install,
    pinned,
};
pub use wire::PythonKind;
pub use worker::serve;

use process::{Failure, Worker};
use scenarios::{Environment, EnvironmentError, Observation, Task, World};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use wire::{Request, Said};

/// How worker processes are run.
#[derive(Debug, Clone)]
pub struct PythonOptions {
    /// The program to start as `PROGRAM env-worker`: hearth itself.
    pub program: PathBuf,
    /// Whose world.
    pub world: PythonKind,
    /// Where the packages are; `None` = the interpreter's own.
    pub venv: Option<Venv>,
    /// Worker processes, hence environments open at once.
    pub workers: usize,
    /// Most time to start Python and make the world.
    pub start_limit: Duration,
    /// Most time to load a game, and to reset it.
    pub load_limit: Duration,
    /// Most time for a command.
    pub step_limit: Duration,
    /// A worker with more resident memory, MiB, ends at once and loses its episode.
    pub memory_limit_mib: u64,
    /// A worker with more resident memory, MiB, is replaced after its episode.
    pub recycle_above_mib: u64,
    /// After as many episodes of the whole pool its oldest worker is replaced, so that each serves about as many in its
    /// life and the memory of all together stays level.
    pub recycle_after: usize,
    /// Where each worker gets a folder for temporary files.
    pub temporary: PathBuf,
}

impl PythonOptions {
    /// The defaults for a world, with one worker.
    #[must_use]
    pub fn new(program: PathBuf, world: PythonKind) -> Self {
        Self {
            program,
            world,
            venv: None,
            workers: 1,
            start_limit: Duration::from_secs(120),
            load_limit: Duration::from_secs(120),
            step_limit: Duration::from_secs(60),
            memory_limit_mib: 2048,
            recycle_above_mib: 512,
            recycle_after: 25,
            temporary: std::env::temp_dir(),
        }
    }
}

/// What has happened to workers so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Worker processes started.
    pub started: usize,
    /// Replaced because they had served long or had grown.
    pub recycled: usize,
    /// Replaced because Python raised.
    pub raised: usize,
    /// Replaced because they ended by themselves.
    pub died: usize,
    /// Replaced because they did not answer in time.
    pub hung: usize,
    /// Replaced because they wrote something else than an answer.
    pub corrupt: usize,
    /// Replaced because they took too much memory.
    pub over_memory: usize,
}

impl Counts {
    /// Workers that failed; each cost one episode.
    #[must_use]
    pub fn failed(&self) -> usize {
        self.raised + self.died + self.hung + self.corrupt + self.over_memory
    }
}

/// Why there is no Python world.
#[derive(Debug, thiserror::Error)]
#[error("the Python world does not start: {reason}\nhint: hearth doctor says what is missing")]
pub struct StartError {
    reason: String,
}

/// Opens games in Python worker processes. Workers end when this and all environments are dropped.
#[derive(Debug)]
pub struct PythonWorld {
    pool: Arc<Pool>,
}

#[derive(Debug)]
struct Pool {
    options: PythonOptions,
    state: Mutex<PoolState>,
    returned: Condvar,
}

#[derive(Debug, Default)]
struct PoolState {
    /// A place for each environment that can be open now; an empty one could not be filled when it was returned.
    places: Vec<Option<Worker>>,
    /// Serial numbers of all workers, idle or not.
    living: BTreeSet<u64>,
    /// Episodes of the pool since a worker was recycled.
    resets: usize,
    counts: Counts,
}

impl PythonWorld {
    /// Starts the workers, and waits until the first of them has made its world.
    ///
    /// # Errors
    /// When that fails, with what Python said.
    pub fn start(options: PythonOptions) -> Result<Self, StartError> {
        process::sweep(&options.temporary);
        let workers = options.workers.max(1);
        let pool = Pool {
            options,
            state: Mutex::default(),
            returned: Condvar::new(),
        };
        let start = || -> Result<(), Failure> {
            let mut all = (0..workers)
                .map(|_| pool.spawn())
                .collect::<Result<Vec<_>, _>>()?;
            all[0].wait_until_ready()?;
            pool.lock().places = all.into_iter().map(Some).collect();
            Ok(())
        };
        start().map_err(|failure| StartError {
            reason: failure.to_string(),
        })?;
        Ok(Self {
            pool: Arc::new(pool),
        })
    }

    /// What has happened to workers so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.pool.lock().counts
    }

    /// The workers that run and have no environment now: the resident MiB of each at its last answer.
    #[must_use]
    pub fn idle(&self) -> Vec<u64> {
        let mut state = self.pool.lock();
        let workers = state.places.iter_mut().flatten();
        workers
            .filter_map(|worker| worker.is_alive().then_some(worker.memory))
            .collect()
    }
}

impl World for PythonWorld {
    fn open(&self, task: &Task) -> Result<Box<dyn Environment>, EnvironmentError> {
        let game = task.path.canonicalize();
        let game = game.map_err(|error| EnvironmentError::Load {
            path: task.path.clone(),
            reason: error.to_string(),
        })?;
        let worker = self.pool.take();
        let mut environment = PythonEnvironment {
            pool: self.pool.clone(),
            worker,
            path: task.path.clone(),
            commands: None,
        };
        let limit = self.pool.options.load_limit;
        let loaded = environment.ask(Request::Load { game }, limit);
        loaded.map_err(|reason| EnvironmentError::Load {
            path: task.path.clone(),
            reason,
        })?;
        Ok(Box::new(environment))
    }

    fn capacity(&self) -> Option<usize> {
        Some(self.pool.options.workers.max(1))
    }
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(&self) -> Result<Worker, Failure> {
        let worker = Worker::spawn(&self.options)?;
        let mut state = self.lock();
        state.counts.started += 1;
        state.living.insert(worker.serial);
        Ok(worker)
    }

    /// Ends a worker.
    fn end(&self, worker: Worker) {
        self.lock().living.remove(&worker.serial);
        drop(worker);
    }

    /// A place, with the worker that waits in it; blocks until one is free.
    fn take(&self) -> Option<Worker> {
        let mut state = self.lock();
        loop {
            if let Some(place) = state.places.pop() {
                // One that ended while it waited costs no episode.
                drop(state);
                return place.and_then(|mut worker| {
                    if worker.is_alive() {
                        return Some(worker);
                    }
                    self.end(worker);
                    None
                });
            }
            state = self
                .returned
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Gives a place back; a worker that failed or has served long is replaced at once, without waiting for the new one.
    fn give_back(&self, worker: Option<Worker>) {
        let place = match worker {
            Some(mut worker) if self.is_worn(&worker) => {
                let _ = worker.ask(Request::Close, self.options.step_limit);
                self.end(worker);
                self.spawn().ok()
            }
            Some(worker) => Some(worker),
            None => self.spawn().ok(),
        };
        self.lock().places.push(place);
        self.returned.notify_one();
    }

    /// Whether a worker is to be replaced now; counts it as replaced.
    fn is_worn(&self, worker: &Worker) -> bool {
        let mut state = self.lock();
        let oldest_is_due = state.resets >= self.options.recycle_after
            && state.living.first() == Some(&worker.serial);
        let worn = oldest_is_due || worker.memory > self.options.recycle_above_mib;
        if worn {
            state.resets = 0;
            state.counts.recycled += 1;
        }
        worn
    }

    fn count(&self, failure: &Failure) {
        let counts = &mut self.lock().counts;
        match failure {
            Failure::Raised { .. } => counts.raised += 1,
            Failure::Died { .. } | Failure::NotStarted(_) => counts.died += 1,
            Failure::Hung { .. } => counts.hung += 1,
            Failure::Corrupt { .. } => counts.corrupt += 1,
            Failure::OverMemory { .. } => counts.over_memory += 1,
        }
    }
}

impl Drop for Pool {
    /// Lets every world put its things away, all at once, before its worker ends.
    fn drop(&mut self) {
        let places = std::mem::take(&mut self.lock().places);
        let limit = self.options.step_limit;
        std::thread::scope(|scope| {
            for mut worker in places.into_iter().flatten() {
                scope.spawn(move || worker.is_ready().then(|| worker.ask(Request::Close, limit)));
            }
        });
    }
}

/// One game in one worker.
struct PythonEnvironment {
    pool: Arc<Pool>,
    /// `None` when it has failed.
    worker: Option<Worker>,
    path: PathBuf,
    /// The admissible commands after the last reset or command.
    commands: Option<Vec<String>>,
}

impl PythonEnvironment {
    fn ask(&mut self, request: Request, limit: Duration) -> Result<Said, String> {
        let answer = || -> Result<Said, Failure> {
            let mut worker = match self.worker.take() {
                Some(worker) => worker,
                None => self.pool.spawn()?,
            };
            match worker.ask(request, limit) {
                Ok(said) => {
                    self.worker = Some(worker);
                    Ok(said)
                }
                Err(failure) => {
                    self.pool.end(worker);
                    Err(failure)
                }
            }
        };
        answer().map_err(|failure| {
            self.pool.count(&failure);
            failure.to_string()
        })
    }

    fn tell(
        &mut self,
        command: &str,
        request: Request,
        limit: Duration,
    ) -> Result<Observation, EnvironmentError> {
        let fail = |reason: String| EnvironmentError::Step {
            command: command.to_owned(),
            reason,
        };
        if self.worker.is_none() {
            return Err(fail("the worker of this game has failed before".into()));
        }
        match self.ask(request, limit).map_err(fail)? {
            Said::Told {
                text,
                status,
                commands,
            } => {
                self.commands = commands;
                Ok(Observation { text, status })
            }
            _ => Err(fail("the worker answered without an observation".into())),
        }
    }
}

impl Environment for PythonEnvironment {
    fn reset(&mut self) -> Result<Observation, EnvironmentError> {
        let limit = self.pool.options.load_limit;
        self.pool.lock().resets += 1;
        self.tell("reset", Request::Reset, limit)
    }

    fn step(&mut self, command: &str) -> Result<Observation, EnvironmentError> {
        let limit = self.pool.options.step_limit;
        self.tell(
            command,
            Request::Step {
                command: command.to_owned(),
            },
            limit,
        )
    }

    fn admissible_commands(&mut self) -> Result<Vec<String>, EnvironmentError> {
        let reason = format!(
            "{}: this world does not tell its admissible commands",
            self.path.display()
        );
        self.commands.clone().ok_or(EnvironmentError::Step {
            command: "admissible commands".into(),
            reason,
        })
    }
}

impl Drop for PythonEnvironment {
    fn drop(&mut self) {
        self.pool.give_back(self.worker.take());
    }
}
