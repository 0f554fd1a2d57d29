//! One worker process, in the parent: start it, send requests with a time limit, and end it
//! together with its temporary files.

use super::options::PythonOptions;
use super::wire::{
    Frame, WorkerReply, WorkerRequest, WorkerResult, WorkerStart, read_frame, write_frame,
};
use crossbeam::channel::{Receiver, RecvTimeoutError, bounded, unbounded};
use rustix::process::{Pid, Signal};
use std::collections::VecDeque;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The prefix of the folders of temporary files. The id of the parent process and a number follow.
const FOLDER_PREFIX: &str = "hearth-worker-";

/// The number of bytes of standard error that are kept, counted from the end.
const ERROR_TAIL: usize = 16 << 10;

/// Time limit for the last output of a worker, for example for the stack of Python after an abort.
const LAST_OUTPUT_LIMIT: Duration = Duration::from_millis(1000);

/// The reason why a worker can no longer be used. The message contains the output of Python.
#[derive(Debug, thiserror::Error)]
pub(super) enum WorkerFailure {
    #[error("{reason}")]
    Raised { reason: String },
    #[error("the worker process ended by itself ({status}){}", stderr_text(tail))]
    Died { status: String, tail: String },
    #[error("no answer within {} s{}", limit.as_secs_f64(), stderr_text(tail))]
    Hung { limit: Duration, tail: String },
    #[error(
        "the worker process wrote something else than an answer: {reason}{}",
        stderr_text(tail)
    )]
    Corrupt { reason: String, tail: String },
    #[error(
        "the worker process has {memory} MiB of memory and may have {limit}{}",
        stderr_text(tail)
    )]
    OverMemory {
        memory: u64,
        limit: u64,
        tail: String,
    },
    #[error("cannot start a worker process: {0}")]
    NotStarted(#[from] io::Error),
}

fn stderr_text(tail: &str) -> String {
    if tail.trim().is_empty() {
        String::new()
    } else {
        format!("; its standard error:\n{}", tail.trim_end())
    }
}

/// A running worker process.
#[derive(Debug)]
pub(super) struct WorkerProcess {
    child: Child,
    requests: ChildStdin,
    replies: Receiver<io::Result<Frame<WorkerReply>>>,
    errors: StderrTail,
    temporary: PathBuf,
    /// The number of the last request.
    number: u64,
    /// True if the world is known to be created.
    ready: bool,
    start_limit: Duration,
    memory_limit: u64,
    /// A number that increases with each worker that this program starts.
    pub(super) serial: u64,
    /// Resident memory at the last reply, in MiB.
    pub(super) memory: u64,
}

impl WorkerProcess {
    /// Starts a process and requests that it create its world. Does not wait for that.
    pub(super) fn spawn(options: &PythonOptions) -> Result<Self, WorkerFailure> {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let temporary = options
            .temporary
            .join(format!("{FOLDER_PREFIX}{}-{serial}", std::process::id()));
        let mut child = Command::new(&options.program)
            .arg0("hearth")
            .arg("env-worker")
            .env("PYTHONHASHSEED", "0")
            .env("OMP_NUM_THREADS", "1")
            .env("OPENBLAS_NUM_THREADS", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(requests), Some(mut output), Some(errors)) = pipes else {
            unreachable!("all three streams are piped")
        };
        let (sender, replies) = unbounded();
        std::thread::spawn(move || {
            while let Some(frame) = read_frame(&mut output).transpose() {
                let broken = frame.is_err();
                if sender.send(frame).is_err() || broken {
                    return;
                }
            }
        });
        let start = WorkerStart {
            world: options.world.clone(),
            site_packages: options.venv.as_ref().map(|venv| venv.site_packages.clone()),
            isolated: options.venv.as_ref().is_some_and(|venv| venv.isolated),
            temporary: temporary.clone(),
            memory_limit: options.memory_limit_mib,
        };
        let mut worker = Self {
            child,
            requests,
            replies,
            errors: StderrTail::read(errors),
            temporary,
            number: 0,
            ready: false,
            start_limit: options.start_limit,
            memory_limit: options.memory_limit_mib,
            serial,
            memory: 0,
        };
        worker.send(WorkerRequest::Start(start))?;
        Ok(worker)
    }

    /// Returns true if the process is running.
    pub(super) fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Returns true if the world is known to be created.
    pub(super) fn is_ready(&self) -> bool {
        self.ready
    }

    /// Waits until the world is created.
    pub(super) fn wait_until_ready(&mut self) -> Result<(), WorkerFailure> {
        if !self.ready {
            self.receive(self.start_limit)?;
            self.ready = true;
        }
        Ok(())
    }

    /// Sends a request and waits for the reply for at most `limit`. If this fails, the worker can
    /// no longer be used.
    pub(super) fn request(
        &mut self,
        request: WorkerRequest,
        limit: Duration,
    ) -> Result<WorkerResult, WorkerFailure> {
        self.wait_until_ready()?;
        self.number += 1;
        self.send(request)?;
        self.receive(limit)
    }

    fn send(&mut self, message: WorkerRequest) -> Result<(), WorkerFailure> {
        let frame = Frame {
            number: self.number,
            message,
        };
        match write_frame(&mut self.requests, &frame) {
            // The process has ended. Its last reply or output contains the reason.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                match self.receive(LAST_OUTPUT_LIMIT) {
                    Err(failure) => Err(failure),
                    Ok(_) => Err(self.died()),
                }
            }
            other => Ok(other?),
        }
    }

    fn receive(&mut self, limit: Duration) -> Result<WorkerResult, WorkerFailure> {
        match self.replies.recv_timeout(limit) {
            Ok(Ok(Frame {
                message:
                    WorkerReply {
                        memory,
                        result: WorkerResult::OverMemory,
                    },
                ..
            })) => Err(WorkerFailure::OverMemory {
                memory,
                limit: self.memory_limit,
                tail: self.errors.wait(),
            }),
            Ok(Ok(Frame { number, .. })) if number != self.number => {
                let reason = format!("a reply to request {number} instead of {}", self.number);
                Err(WorkerFailure::Corrupt {
                    reason,
                    tail: self.errors.text(),
                })
            }
            Ok(Ok(Frame {
                message: WorkerReply { memory, result },
                ..
            })) => {
                self.memory = memory;
                match result {
                    WorkerResult::Raised { reason } => Err(WorkerFailure::Raised {
                        reason: reason.trim_end().to_owned(),
                    }),
                    result => Ok(result),
                }
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Err(self.died()),
            Ok(Err(error)) => Err(WorkerFailure::Corrupt {
                reason: error.to_string(),
                tail: self.errors.text(),
            }),
            Err(RecvTimeoutError::Timeout) => {
                // If Python is aborted, it prints its stack.
                let _ = rustix::process::kill_process(Pid::from_child(&self.child), Signal::ABORT);
                Err(WorkerFailure::Hung {
                    limit,
                    tail: self.errors.wait(),
                })
            }
            Err(RecvTimeoutError::Disconnected) => Err(self.died()),
        }
    }

    fn died(&mut self) -> WorkerFailure {
        let tail = self.errors.wait();
        // The pipe may close shortly before the process ends.
        let deadline = Instant::now() + LAST_OUTPUT_LIMIT;
        let status = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break status.to_string(),
                Ok(None) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(5))
                }
                Ok(None) => break "its pipe is closed".to_owned(),
                Err(error) => break error.to_string(),
            }
        };
        WorkerFailure::Died { status, tail }
    }
}

impl Drop for WorkerProcess {
    /// Ends the process and all processes that it has started, and removes its folder of temporary
    /// files.
    fn drop(&mut self) {
        let _ = rustix::process::kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _: io::Result<ExitStatus> = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.temporary);
    }
}

/// Removes folders of temporary files whose parent process no longer exists. They are left if a
/// parent is killed together with its workers.
pub(super) fn remove_leftovers(temporary: &Path) {
    for entry in std::fs::read_dir(temporary).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let parent = name
            .to_str()
            .and_then(|name| name.strip_prefix(FOLDER_PREFIX)?.split_once('-'))
            .and_then(|(parent, _)| Pid::from_raw(parent.parse().ok()?));
        if parent.is_some_and(|parent| {
            rustix::process::test_kill_process(parent) == Err(rustix::io::Errno::SRCH)
        }) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// The last part of the standard error of a process: at most [`ERROR_TAIL`] bytes.
#[derive(Debug)]
struct StderrTail {
    bytes: Arc<Mutex<VecDeque<u8>>>,
    ended: Receiver<()>,
}

impl StderrTail {
    /// Starts a thread that reads the pipe.
    fn read(mut pipe: ChildStderr) -> Self {
        let bytes = Arc::new(Mutex::new(VecDeque::new()));
        let (end, ended) = bounded::<()>(0);
        let kept = bytes.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = pipe.read(&mut buffer) {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend(&buffer[..length]);
                let excess = kept.len().saturating_sub(ERROR_TAIL);
                kept.drain(..excess);
            }
            drop(end);
        });
        Self { bytes, ended }
    }

    /// Returns the text that was read so far.
    fn text(&self) -> String {
        let bytes: Vec<u8> = self
            .bytes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .copied()
            .collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Returns the text after the process has closed the pipe, or after [`LAST_OUTPUT_LIMIT`].
    fn wait(&self) -> String {
        let _ = self.ended.recv_timeout(LAST_OUTPUT_LIMIT);
        self.text()
    }
}
