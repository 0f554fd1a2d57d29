//! What hearth and a worker process say to each other: one JSON object a frame, its length in four bytes before it.
//!
//! Every request has a number and every reply names the request it answers, so that bytes which Python code wrote into
//! the pipe, or a late answer, are never taken for an answer.

use scenarios::Status;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};
use std::path::PathBuf;

/// A frame may have this many bytes.
const FRAME_LIMIT: usize = 64 << 20;

/// A numbered message.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Frame<T> {
    pub(super) number: u64,
    pub(super) message: T,
}

/// What a worker is asked to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Request {
    /// Enter the packages and make the world; the first request, once.
    Start(Start),
    /// Load a game file.
    Load { game: PathBuf },
    /// Put the game back to its start.
    Reset,
    /// Perform a command.
    Step { command: String },
    /// Let the world put its things away; the last request.
    Close,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Start {
    /// Whose world.
    pub(super) world: PythonKind,
    /// The venv's packages; `None` = the interpreter's own.
    pub(super) site_packages: Option<PathBuf>,
    /// Whether the interpreter's own packages stay out of sight, as most venvs want it.
    pub(super) alone: bool,
    /// The worker's own folder for temporary files.
    pub(super) temporary: PathBuf,
    /// Above this much resident memory, MiB, the worker ends itself.
    pub(super) memory_limit: u64,
}

/// Which world a worker runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PythonKind {
    /// ALFWorld's and TextWorld's games.
    TextWorld,
    /// A class with `reset(game)`, `step(command)` and `close()`, as `FILE.py:CLASS` or `package.module:CLASS`.
    Users(String),
}

/// What a worker answers, with its resident memory in MiB.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Reply {
    pub(super) memory: u64,
    pub(super) said: Said,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Said {
    /// The world is made, or a game loaded, or all put away.
    Done,
    /// What a reset or a step brought.
    Told {
        text: String,
        status: Status,
        commands: Option<Vec<String>>,
    },
    /// Python raised; `reason` is the traceback.
    Raised { reason: String },
    /// The worker has more memory than it may; it is ending itself.
    OverMemory,
}

/// Writes one frame in one go.
pub(super) fn write_frame(pipe: &mut impl Write, frame: &impl Serialize) -> io::Result<()> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, frame)?;
    let length = u32::try_from(bytes.len() - 4)
        .ok()
        .filter(|length| *length as usize <= FRAME_LIMIT);
    let length = length
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the message is too long"))?;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    pipe.write_all(&bytes)?;
    pipe.flush()
}

/// Reads one frame; `None` when the other side has closed the pipe between two frames.
pub(super) fn read_frame<T: DeserializeOwned>(pipe: &mut impl Read) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    match pipe.read(&mut length)? {
        0 => return Ok(None),
        n => pipe.read_exact(&mut length[n..])?,
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > FRAME_LIMIT {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a frame of {length} bytes"),
        ));
    }
    let mut bytes = vec![0; length];
    pipe.read_exact(&mut bytes)?;
    Ok(Some(serde_json::from_slice(&bytes)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_as_they_were_written() {
        let mut pipe = Vec::new();
        for number in 0..3 {
            let message = Request::Step {
                command: format!("say \u{1F525} \0 {number}"),
            };
            write_frame(&mut pipe, &Frame { number, message }).unwrap();
        }
        let mut pipe = pipe.as_slice();
        for number in 0..3 {
            let frame: Frame<Request> = read_frame(&mut pipe).unwrap().unwrap();
            assert_eq!(frame.number, number);
            assert!(
                matches!(frame.message, Request::Step { command } if command == format!("say \u{1F525} \0 {number}"))
            );
        }
        assert!(read_frame::<Frame<Request>>(&mut pipe).unwrap().is_none());
    }

    #[test]
    fn a_cut_or_foreign_frame_is_an_error() {
        let mut pipe = Vec::new();
        write_frame(
            &mut pipe,
            &Frame {
                number: 1,
                message: Request::Reset,
            },
        )
        .unwrap();
        for length in 1..pipe.len() {
            assert!(
                read_frame::<Frame<Request>>(&mut &pipe[..length]).is_err(),
                "cut to {length} bytes"
            );
        }
        assert!(
            read_frame::<Frame<Request>>(&mut b"print(1)".as_slice()).is_err(),
            "text, read as a length of 1.8 GB"
        );
        assert!(
            read_frame::<Frame<Request>>(&mut b"\x02\0\0\0{]".as_slice()).is_err(),
            "not JSON"
        );
    }
}
