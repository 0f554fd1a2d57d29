//! The parent's side of one worker process: start it, ask it with a time limit, end it without a trace.

use super::PythonOptions;
use super::wire::{Frame, Reply, Request, Said, Start, read_frame, write_frame};
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

/// Folders of temporary files are called this, then the parent's process number, then a number of their own.
const FOLDER: &str = "hearth-worker-";

/// As many of the last bytes of standard error are kept.
const ERROR_TAIL: usize = 16 << 10;

/// How long a hung worker may take to print where Python is.
const LAST_WORDS: Duration = Duration::from_millis(1000);

/// Why a worker can no longer be used. What Python said is part of the message.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("{reason}")]
    Raised { reason: String },
    #[error("the worker process ended by itself ({status}){}", said(tail))]
    Died { status: String, tail: String },
    #[error("no answer within {} s{}", limit.as_secs_f64(), said(tail))]
    Hung { limit: Duration, tail: String },
    #[error(
        "the worker process wrote something else than an answer: {reason}{}",
        said(tail)
    )]
    Corrupt { reason: String, tail: String },
    #[error(
        "the worker process has {memory} MiB of memory and may have {limit}{}",
        said(tail)
    )]
    OverMemory {
        memory: u64,
        limit: u64,
        tail: String,
    },
    #[error("cannot start a worker process: {0}")]
    NotStarted(#[from] io::Error),
}

fn said(tail: &str) -> String {
    if tail.trim().is_empty() {
        String::new()
    } else {
        format!("; it said:\n{}", tail.trim_end())
    }
}

/// A running worker process.
#[derive(Debug)]
pub(super) struct Worker {
    child: Child,
    requests: ChildStdin,
    replies: Receiver<io::Result<Frame<Reply>>>,
    errors: Tail,
    temporary: PathBuf,
    number: u64,
    /// Whether the world has been made.
    ready: bool,
    start_limit: Duration,
    memory_limit: u64,
    /// Later workers of this program have higher numbers.
    pub(super) serial: u64,
    /// Resident MiB at the last answer.
    pub(super) memory: u64,
}

impl Worker {
    /// Starts a process and asks it to make its world; does not wait for that.
    pub(super) fn spawn(options: &PythonOptions) -> Result<Self, Failure> {
        static FOLDERS: AtomicU64 = AtomicU64::new(0);
        let own = FOLDERS.fetch_add(1, Ordering::Relaxed);
        let temporary = options
            .temporary
            .join(format!("{FOLDER}{}-{own}", std::process::id()));
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
        let (Some(requests), Some(mut answers), Some(errors)) = pipes else {
            unreachable!("all three are piped")
        };
        let (sender, replies) = unbounded();
        std::thread::spawn(move || {
            while let Some(frame) = read_frame(&mut answers).transpose() {
                let broken = frame.is_err();
                if sender.send(frame).is_err() || broken {
                    return;
                }
            }
        });
        let start = Start {
            world: options.world.clone(),
            site_packages: options.venv.as_ref().map(|venv| venv.site_packages.clone()),
            alone: options.venv.as_ref().is_some_and(|venv| venv.alone),
            temporary: temporary.clone(),
            memory_limit: options.memory_limit_mib,
        };
        let mut worker = Self {
            child,
            requests,
            replies,
            errors: Tail::of(errors),
            temporary,
            number: 0,
            ready: false,
            start_limit: options.start_limit,
            memory_limit: options.memory_limit_mib,
            serial: own,
            memory: 0,
        };
        worker.send(Request::Start(start))?;
        Ok(worker)
    }

    /// Whether the process runs.
    pub(super) fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Whether the world is known to be made.
    pub(super) fn is_ready(&self) -> bool {
        self.ready
    }

    /// Waits until the world is made.
    pub(super) fn wait_until_ready(&mut self) -> Result<(), Failure> {
        if !self.ready {
            self.receive(self.start_limit)?;
            self.ready = true;
        }
        Ok(())
    }

    /// Asks, and waits for the answer for at most `limit`. After a failure the worker is of no more use.
    pub(super) fn ask(&mut self, request: Request, limit: Duration) -> Result<Said, Failure> {
        self.wait_until_ready()?;
        self.number += 1;
        self.send(request)?;
        self.receive(limit)
    }

    fn send(&mut self, message: Request) -> Result<(), Failure> {
        let frame = Frame {
            number: self.number,
            message,
        };
        match write_frame(&mut self.requests, &frame) {
            // It has ended; what it said last tells why.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                match self.receive(LAST_WORDS) {
                    Err(failure) => Err(failure),
                    Ok(_) => Err(self.died()),
                }
            }
            other => Ok(other?),
        }
    }

    fn receive(&mut self, limit: Duration) -> Result<Said, Failure> {
        match self.replies.recv_timeout(limit) {
            Ok(Ok(Frame {
                message:
                    Reply {
                        memory,
                        said: Said::OverMemory,
                    },
                ..
            })) => Err(Failure::OverMemory {
                memory,
                limit: self.memory_limit,
                tail: self.errors.all(),
            }),
            Ok(Ok(Frame { number, .. })) if number != self.number => {
                let reason = format!("an answer to request {number} instead of {}", self.number);
                Err(Failure::Corrupt {
                    reason,
                    tail: self.errors.now(),
                })
            }
            Ok(Ok(Frame {
                message: Reply { memory, said },
                ..
            })) => {
                self.memory = memory;
                match said {
                    Said::Raised { reason } => Err(Failure::Raised {
                        reason: reason.trim_end().to_owned(),
                    }),
                    said => Ok(said),
                }
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Err(self.died()),
            Ok(Err(error)) => Err(Failure::Corrupt {
                reason: error.to_string(),
                tail: self.errors.now(),
            }),
            Err(RecvTimeoutError::Timeout) => {
                // An abort makes Python print its stack.
                let _ = rustix::process::kill_process(Pid::from_child(&self.child), Signal::ABORT);
                Err(Failure::Hung {
                    limit,
                    tail: self.errors.all(),
                })
            }
            Err(RecvTimeoutError::Disconnected) => Err(self.died()),
        }
    }

    fn died(&mut self) -> Failure {
        let tail = self.errors.all();
        // The pipe may close a moment before the process is gone.
        let deadline = Instant::now() + LAST_WORDS;
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
        Failure::Died { status, tail }
    }
}

impl Drop for Worker {
    /// Ends the process and all it has started, and removes its folder of temporary files.
    fn drop(&mut self) {
        let _ = rustix::process::kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _: io::Result<ExitStatus> = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.temporary);
    }
}

/// Removes what a parent that was killed together with its workers has left behind.
pub(super) fn sweep(temporary: &Path) {
    for entry in std::fs::read_dir(temporary).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let parent = name
            .to_str()
            .and_then(|name| name.strip_prefix(FOLDER)?.split_once('-')?.0.parse().ok());
        let gone = |pid| rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::SRCH);
        if parent.and_then(Pid::from_raw).is_some_and(gone) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// The last of what a process writes to standard error.
#[derive(Debug)]
struct Tail {
    bytes: Arc<Mutex<VecDeque<u8>>>,
    ended: Receiver<()>,
}

impl Tail {
    fn of(mut pipe: ChildStderr) -> Self {
        let (bytes, (end, ended)) = (Arc::new(Mutex::new(VecDeque::new())), bounded::<()>(0));
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

    /// What is there now.
    fn now(&self) -> String {
        let bytes: Vec<u8> = self
            .bytes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .copied()
            .collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// What is there when the process has closed it, or after a moment.
    fn all(&self) -> String {
        let _ = self.ended.recv_timeout(LAST_WORDS);
        self.now()
    }
}
