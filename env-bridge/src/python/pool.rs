//! The pool of worker processes: opens games in them, counts their failures and replaces them.

use super::options::PythonOptions;
use super::process::{self, WorkerFailure, WorkerProcess};
use super::wire::{WorkerRequest, WorkerResult};
use scenarios::{Environment, EnvironmentError, Observation, Task, World};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Opens games in Python worker processes. The workers end when this value and all its environments
/// are dropped.
#[derive(Debug)]
pub struct PythonWorld {
    pool: Arc<WorkerPool>,
}

/// The error if no Python world can be started.
#[derive(Debug, thiserror::Error)]
#[error("the Python world does not start: {reason}\nhint: hearth doctor shows what is missing")]
pub struct StartError {
    reason: String,
}

/// The number of workers started so far, and of those replaced, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WorkerCounts {
    /// Worker processes started.
    pub started: usize,
    /// Replaced because they had served many episodes or used much memory.
    pub recycled: usize,
    /// Replaced because Python raised an exception.
    pub raised: usize,
    /// Replaced because the process ended by itself.
    pub died: usize,
    /// Replaced because they did not reply within the time limit.
    pub hung: usize,
    /// Replaced because they wrote something that is not a valid reply.
    pub corrupt: usize,
    /// Replaced because they exceeded the memory limit.
    pub over_memory: usize,
}

impl WorkerCounts {
    /// Returns the number of workers that failed. Each failure cost one episode.
    #[must_use]
    pub fn failed(&self) -> usize {
        self.raised + self.died + self.hung + self.corrupt + self.over_memory
    }
}

impl PythonWorld {
    /// Starts the workers, and waits until the first of them has created its world.
    ///
    /// # Errors
    /// If no worker can be started or the world cannot be created. The error contains the message
    /// of Python.
    pub fn start(options: PythonOptions) -> Result<Self, StartError> {
        process::remove_leftovers(&options.temporary);
        let pool = WorkerPool {
            options,
            state: Mutex::default(),
            returned: Condvar::new(),
        };
        pool.fill().map_err(|failure| StartError {
            reason: failure.to_string(),
        })?;
        Ok(Self {
            pool: Arc::new(pool),
        })
    }

    /// Returns the counts of workers so far.
    #[must_use]
    pub fn counts(&self) -> WorkerCounts {
        self.pool.lock().counts
    }

    /// Returns the resident memory in MiB at the last reply of each worker that is running and has
    /// no environment now.
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
        let game = task
            .path
            .canonicalize()
            .map_err(|error| EnvironmentError::Load {
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
        environment
            .request(WorkerRequest::Load { game }, limit)
            .map_err(|reason| EnvironmentError::Load {
                path: task.path.clone(),
                reason,
            })?;
        Ok(Box::new(environment))
    }

    fn capacity(&self) -> Option<usize> {
        Some(self.pool.worker_count())
    }
}

#[derive(Debug)]
struct WorkerPool {
    options: PythonOptions,
    state: Mutex<PoolState>,
    returned: Condvar,
}

#[derive(Debug, Default)]
struct PoolState {
    /// One place for each environment that can be opened now. If a place is `None`, no worker could
    /// be started when the place was returned.
    places: Vec<Option<WorkerProcess>>,
    /// Serial numbers of all workers, idle or not.
    living: BTreeSet<u64>,
    /// Episodes of the pool since a worker was recycled.
    resets: usize,
    counts: WorkerCounts,
}

impl WorkerPool {
    fn lock(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn worker_count(&self) -> usize {
        self.options.workers.max(1)
    }

    /// Starts all workers, and waits until the first is ready.
    fn fill(&self) -> Result<(), WorkerFailure> {
        let mut all = (0..self.worker_count())
            .map(|_| self.spawn())
            .collect::<Result<Vec<_>, _>>()?;
        all[0].wait_until_ready()?;
        self.lock().places = all.into_iter().map(Some).collect();
        Ok(())
    }

    fn spawn(&self) -> Result<WorkerProcess, WorkerFailure> {
        let worker = WorkerProcess::spawn(&self.options)?;
        let mut state = self.lock();
        state.counts.started += 1;
        state.living.insert(worker.serial);
        Ok(worker)
    }

    /// Ends a worker.
    fn end(&self, worker: WorkerProcess) {
        self.lock().living.remove(&worker.serial);
        drop(worker);
    }

    /// Takes a place with its idle worker, and blocks until a place is free. Returns `None` if the
    /// place has no worker that is alive.
    fn take(&self) -> Option<WorkerProcess> {
        let mut state = self.lock();
        let place = loop {
            if let Some(place) = state.places.pop() {
                break place;
            }
            state = self
                .returned
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        };
        drop(state);
        let mut worker = place?;
        if worker.is_alive() {
            return Some(worker);
        }
        // If a worker ended while it was idle, no episode is lost.
        self.end(worker);
        None
    }

    /// Returns a place to the pool. If the worker failed or is worn, a new one is started at once;
    /// the call does not wait until it is ready.
    fn give_back(&self, worker: Option<WorkerProcess>) {
        let place = match worker {
            Some(mut worker) if self.is_worn(&worker) => {
                let _ = worker.request(WorkerRequest::Close, self.options.step_limit);
                self.end(worker);
                self.spawn().ok()
            }
            Some(worker) => Some(worker),
            None => self.spawn().ok(),
        };
        self.lock().places.push(place);
        self.returned.notify_one();
    }

    /// Returns true if a worker must be replaced now. If so, counts it as recycled.
    fn is_worn(&self, worker: &WorkerProcess) -> bool {
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

    fn count(&self, failure: &WorkerFailure) {
        let counts = &mut self.lock().counts;
        match failure {
            WorkerFailure::Raised { .. } => counts.raised += 1,
            WorkerFailure::Died { .. } | WorkerFailure::NotStarted(_) => counts.died += 1,
            WorkerFailure::Hung { .. } => counts.hung += 1,
            WorkerFailure::Corrupt { .. } => counts.corrupt += 1,
            WorkerFailure::OverMemory { .. } => counts.over_memory += 1,
        }
    }
}

impl Drop for WorkerPool {
    /// Calls `close` of every world, in parallel, before its worker ends.
    fn drop(&mut self) {
        let places = std::mem::take(&mut self.lock().places);
        let limit = self.options.step_limit;
        std::thread::scope(|scope| {
            for mut worker in places.into_iter().flatten() {
                scope.spawn(move || {
                    worker
                        .is_ready()
                        .then(|| worker.request(WorkerRequest::Close, limit))
                });
            }
        });
    }
}

/// One game in one worker.
struct PythonEnvironment {
    pool: Arc<WorkerPool>,
    /// `None` if the worker has failed.
    worker: Option<WorkerProcess>,
    path: PathBuf,
    /// The admissible commands after the last reset or command.
    commands: Option<Vec<String>>,
}

impl PythonEnvironment {
    /// Sends a request. If the worker fails, counts and ends it.
    fn request(&mut self, request: WorkerRequest, limit: Duration) -> Result<WorkerResult, String> {
        self.try_request(request, limit).map_err(|failure| {
            self.pool.count(&failure);
            failure.to_string()
        })
    }

    fn try_request(
        &mut self,
        request: WorkerRequest,
        limit: Duration,
    ) -> Result<WorkerResult, WorkerFailure> {
        let mut worker = match self.worker.take() {
            Some(worker) => worker,
            None => self.pool.spawn()?,
        };
        match worker.request(request, limit) {
            Ok(result) => {
                self.worker = Some(worker);
                Ok(result)
            }
            Err(failure) => {
                self.pool.end(worker);
                Err(failure)
            }
        }
    }

    /// Sends a request whose result is an observation. `command` is named in the error.
    fn observe(
        &mut self,
        command: &str,
        request: WorkerRequest,
        limit: Duration,
    ) -> Result<Observation, EnvironmentError> {
        if self.worker.is_none() {
            return Err(step_error(
                command,
                "the worker of this game has failed before".to_owned(),
            ));
        }
        match self.request(request, limit) {
            Ok(WorkerResult::Observed {
                text,
                status,
                commands,
            }) => {
                self.commands = commands;
                Ok(Observation { text, status })
            }
            Ok(_) => Err(step_error(
                command,
                "the reply of the worker has no observation".to_owned(),
            )),
            Err(reason) => Err(step_error(command, reason)),
        }
    }
}

fn step_error(command: &str, reason: String) -> EnvironmentError {
    EnvironmentError::Step {
        command: command.to_owned(),
        reason,
    }
}

impl Environment for PythonEnvironment {
    fn reset(&mut self) -> Result<Observation, EnvironmentError> {
        let limit = self.pool.options.load_limit;
        self.pool.lock().resets += 1;
        self.observe("reset", WorkerRequest::Reset, limit)
    }

    fn step(&mut self, command: &str) -> Result<Observation, EnvironmentError> {
        let limit = self.pool.options.step_limit;
        let request = WorkerRequest::Step {
            command: command.to_owned(),
        };
        self.observe(command, request, limit)
    }

    fn admissible_commands(&mut self) -> Result<Vec<String>, EnvironmentError> {
        self.commands.clone().ok_or_else(|| {
            step_error(
                "admissible commands",
                format!(
                    "{}: this world does not list its admissible commands",
                    self.path.display()
                ),
            )
        })
    }
}

impl Drop for PythonEnvironment {
    fn drop(&mut self) {
        self.pool.give_back(self.worker.take());
    }
}
