//! The child's side: one Python interpreter, one world, requests in and replies out.
//!
//! The interpreter runs in the main thread. A second thread reads the requests, so that the end of the parent is seen
//! even while Python hangs; a third watches the memory. Whatever ends a worker ends its whole process group, and the
//! worker's folder of temporary files goes with it.

use super::interpreter::Interpreter;
use super::wire::{Frame, Reply, Request, Said, Start, read_frame, write_frame};
use crossbeam::channel::{Receiver, Sender, unbounded};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Resource, Rlimit, Signal};
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How often the memory is looked at.
const MEMORY_PERIOD: Duration = Duration::from_millis(100);

/// Runs a worker process: what `hearth env-worker` does. Started by [`super::PythonWorld`] only, which speaks with it
/// over standard input and output.
///
/// # Errors
/// When standard input and output are not the pipes of a parent.
pub fn serve() -> io::Result<ExitCode> {
    let _ = rustix::process::setrlimit(
        Resource::Core,
        Rlimit {
            current: Some(0),
            maximum: Some(0),
        },
    );
    let (requests, replies) = take_pipes()?;
    let replies = Arc::new(Mutex::new(replies));
    let (sender, inbox) = unbounded();
    let mut reader = requests;
    let first: Option<Frame<Request>> = read_frame(&mut reader)?;
    let Some(Frame {
        number,
        message: Request::Start(start),
    }) = first
    else {
        let reason = "env-worker is started by hearth itself and speaks its protocol over pipes";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
    };
    std::fs::create_dir_all(&start.temporary)?;
    let temporary = start.temporary.clone();
    std::thread::spawn(move || read_requests(&mut reader, &sender, &temporary));
    let (limit, own) = (start.memory_limit, replies.clone());
    std::thread::spawn(move || watch_memory(limit, &own));
    answer(number, start, &inbox, &replies)
}

/// Takes the two pipes for the protocol; what Python reads is then empty, and what it prints goes to standard error.
fn take_pipes() -> io::Result<(File, File)> {
    let requests = File::from(rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?);
    let replies = File::from(rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?);
    let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(rustix::stdio::stderr())?;
    Ok((requests, replies))
}

/// Passes requests on until the parent is gone.
fn read_requests(pipe: &mut File, inbox: &Sender<Frame<Request>>, temporary: &PathBuf) {
    while let Ok(Some(frame)) = read_frame(pipe) {
        if inbox.send(frame).is_err() {
            break;
        }
    }
    let _ = std::fs::remove_dir_all(temporary);
    end_group();
}

fn watch_memory(limit: u64, replies: &Mutex<File>) {
    loop {
        std::thread::sleep(MEMORY_PERIOD);
        let memory = resident_mib();
        if memory > limit {
            let reply = Reply {
                memory,
                said: Said::OverMemory,
            };
            let mut pipe = replies.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = write_frame(
                &mut *pipe,
                &Frame {
                    number: u64::MAX,
                    message: reply,
                },
            );
            end_group();
        }
    }
}

/// Ends this process and whatever it has started.
fn end_group() {
    let _ = rustix::process::kill_current_process_group(Signal::KILL);
    std::process::abort();
}

/// The interpreter's loop.
fn answer(
    number: u64,
    start: Start,
    inbox: &Receiver<Frame<Request>>,
    replies: &Mutex<File>,
) -> io::Result<ExitCode> {
    let reply = |number: u64, said: Said| {
        let frame = Frame {
            number,
            message: Reply {
                memory: resident_mib(),
                said,
            },
        };
        write_frame(
            &mut *replies.lock().unwrap_or_else(PoisonError::into_inner),
            &frame,
        )
    };
    let mut world = match Interpreter::start(&start) {
        Ok(world) => world,
        Err(reason) => {
            reply(number, Said::Raised { reason })?;
            return Ok(ExitCode::FAILURE);
        }
    };
    reply(number, Said::Done)?;
    for Frame { number, message } in inbox {
        let said = match message {
            Request::Start(_) => Err("a worker is started once".to_owned()),
            Request::Load { game } => world.load(&game).map(|()| Said::Done),
            Request::Reset => world.reset(),
            Request::Step { command } => world.step(&command),
            Request::Close => world.close().map(|()| Said::Done),
        };
        reply(
            number,
            said.unwrap_or_else(|reason| Said::Raised { reason }),
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

fn resident_mib() -> u64 {
    memory_stats::memory_stats().map_or(0, |stats| stats.physical_mem as u64 >> 20)
}
