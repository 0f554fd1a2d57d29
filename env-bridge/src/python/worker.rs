//! The worker process: one Python interpreter, one world; reads requests and writes replies.
//!
//! The interpreter runs in the main thread. A second thread reads the requests, so that the end of
//! the parent is detected even if Python hangs. A third thread checks the memory. If a worker ends,
//! its whole process group ends too. If it ends because the parent has gone, it also removes its
//! folder of temporary files; otherwise the parent removes it.

use super::interpreter::Interpreter;
use super::wire::{
    Frame, WorkerReply, WorkerRequest, WorkerResult, WorkerStart, read_frame, write_frame,
};
use crossbeam::channel::{Receiver, Sender, unbounded};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Resource, Rlimit, Signal};
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The time between two checks of the memory.
const MEMORY_PERIOD: Duration = Duration::from_millis(100);

/// Runs a worker process: the command `hearth env-worker`. Only [`super::PythonWorld`] starts it;
/// the protocol runs over standard input and output.
///
/// # Errors
/// If standard input and output are not the pipes of a parent.
pub fn serve() -> io::Result<ExitCode> {
    let _ = rustix::process::setrlimit(
        Resource::Core,
        Rlimit {
            current: Some(0),
            maximum: Some(0),
        },
    );
    let (mut requests, replies) = take_pipes()?;
    let replies = Arc::new(Mutex::new(replies));
    let (sender, inbox) = unbounded();
    let first: Option<Frame<WorkerRequest>> = read_frame(&mut requests)?;
    let Some(Frame {
        number,
        message: WorkerRequest::Start(start),
    }) = first
    else {
        let reason = "env-worker is started by hearth itself, with its protocol over pipes";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
    };
    std::fs::create_dir_all(&start.temporary)?;
    let temporary = start.temporary.clone();
    std::thread::spawn(move || read_requests(&mut requests, &sender, &temporary));
    let limit = start.memory_limit;
    let own_replies = replies.clone();
    std::thread::spawn(move || watch_memory(limit, &own_replies));
    run_interpreter(number, &start, &inbox, &replies)
}

/// Takes the two pipes for the protocol. Python then reads an empty standard input, and its
/// standard output goes to standard error.
fn take_pipes() -> io::Result<(File, File)> {
    let requests = File::from(rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?);
    let replies = File::from(rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?);
    let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(rustix::stdio::stderr())?;
    Ok((requests, replies))
}

/// Forwards requests until the parent has gone, then ends the process.
fn read_requests(pipe: &mut File, inbox: &Sender<Frame<WorkerRequest>>, temporary: &PathBuf) {
    while let Ok(Some(frame)) = read_frame(pipe) {
        if inbox.send(frame).is_err() {
            break;
        }
    }
    let _ = std::fs::remove_dir_all(temporary);
    end_group();
}

/// Checks the memory periodically. If it exceeds the limit in MiB, reports that and ends the
/// process.
fn watch_memory(limit: u64, replies: &Mutex<File>) {
    loop {
        std::thread::sleep(MEMORY_PERIOD);
        let memory = resident_mib();
        if memory > limit {
            let frame = Frame {
                number: u64::MAX,
                message: WorkerReply {
                    memory,
                    result: WorkerResult::OverMemory,
                },
            };
            let mut pipe = replies.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = write_frame(&mut *pipe, &frame);
            end_group();
        }
    }
}

/// Ends this process and all processes that it has started.
fn end_group() {
    let _ = rustix::process::kill_current_process_group(Signal::KILL);
    std::process::abort();
}

/// Starts the interpreter and serves requests until the sender closes. `number` is the number of
/// the start request.
fn run_interpreter(
    number: u64,
    start: &WorkerStart,
    inbox: &Receiver<Frame<WorkerRequest>>,
    replies: &Mutex<File>,
) -> io::Result<ExitCode> {
    let mut world = match Interpreter::start(start) {
        Ok(world) => world,
        Err(reason) => {
            reply(replies, number, WorkerResult::Raised { reason })?;
            return Ok(ExitCode::FAILURE);
        }
    };
    reply(replies, number, WorkerResult::Done)?;
    for Frame { number, message } in inbox {
        let result = match message {
            WorkerRequest::Start(_) => Err("a worker can be started only once".to_owned()),
            WorkerRequest::Load { game } => world.load(&game).map(|()| WorkerResult::Done),
            WorkerRequest::Reset => world.reset(),
            WorkerRequest::Step { command } => world.step(&command),
            WorkerRequest::Close => world.close().map(|()| WorkerResult::Done),
        };
        let result = result.unwrap_or_else(|reason| WorkerResult::Raised { reason });
        reply(replies, number, result)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn reply(replies: &Mutex<File>, number: u64, result: WorkerResult) -> io::Result<()> {
    let frame = Frame {
        number,
        message: WorkerReply {
            memory: resident_mib(),
            result,
        },
    };
    let mut pipe = replies.lock().unwrap_or_else(PoisonError::into_inner);
    write_frame(&mut *pipe, &frame)
}

/// Returns the resident memory of this process in MiB, from the second field of `/proc/self/statm`,
/// which counts pages. Returns 0 if the system has no such file; the memory limit then has no
/// effect.
fn resident_mib() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split_whitespace().nth(1);
    let pages: u64 = pages.and_then(|pages| pages.parse().ok()).unwrap_or(0);
    (pages * rustix::param::page_size() as u64) >> 20
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A test process uses more than 1 MiB. If 64 MiB are written, at least 32 MiB more are
    /// resident.
    #[test]
    #[cfg(target_os = "linux")]
    fn resident_memory_grows_with_written_memory() {
        let before = resident_mib();
        let block = std::hint::black_box(vec![1_u8; 64 << 20]);
        let after = resident_mib();
        drop(block);
        assert!(before > 0);
        assert!(after >= before + 32, "{before} MiB, then {after} MiB");
    }
}
