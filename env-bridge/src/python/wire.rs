//! The protocol between hearth and a worker process. A frame is one JSON object after its length in
//! bytes, a little-endian number of four bytes.
//!
//! Every request has a number, and a reply has the number of its request. If Python code writes
//! bytes into the pipe, or if a reply is late, the parent therefore does not take them for the
//! reply to the current request.

use scenarios::Status;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};
use std::path::PathBuf;

/// The limit of the size of a frame, in bytes.
const FRAME_LIMIT: usize = 64 << 20;

/// A numbered message.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Frame<T> {
    pub(super) number: u64,
    pub(super) message: T,
}

/// A request to a worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum WorkerRequest {
    /// Make the packages importable and create the world. This is the first request and is sent
    /// once.
    Start(WorkerStart),
    /// Load a game file.
    Load { game: PathBuf },
    /// Reset the game to its initial state.
    Reset,
    /// Execute a command.
    Step { command: String },
    /// Close the world. This is the last request.
    Close,
}

/// The settings of a worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct WorkerStart {
    /// The world to create.
    pub(super) world: PythonKind,
    /// The packages of the venv. If `None`, those of the interpreter are used.
    pub(super) site_packages: Option<PathBuf>,
    /// If true, the packages of the interpreter are not importable. Most venvs are set up so.
    #[serde(rename = "alone")]
    pub(super) isolated: bool,
    /// The folder of this worker for temporary files.
    pub(super) temporary: PathBuf,
    /// Limit of the resident memory in MiB. If the worker exceeds it, it ends itself.
    pub(super) memory_limit: u64,
}

/// The kind of world that a worker runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PythonKind {
    /// The games of ALFWorld and TextWorld.
    TextWorld,
    /// A class of the user with `reset(game)`, `step(command)` and `close()`, as `FILE.py:CLASS` or
    /// `package.module:CLASS`.
    Users(String),
}

/// The reply of a worker.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct WorkerReply {
    /// The resident memory of the worker, in MiB.
    pub(super) memory: u64,
    #[serde(rename = "said")]
    pub(super) result: WorkerResult,
}

/// The result of a request.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum WorkerResult {
    /// The world was created or closed, or a game was loaded.
    Done,
    /// The observation of a reset or a step. If the world does not list its admissible commands,
    /// `commands` is `None`.
    #[serde(rename = "Told")]
    Observed {
        text: String,
        status: Status,
        commands: Option<Vec<String>>,
    },
    /// Python raised an exception; `reason` is the traceback.
    Raised { reason: String },
    /// The worker exceeds its memory limit and ends itself.
    OverMemory,
}

/// Writes one frame with one call.
pub(super) fn write_frame(pipe: &mut impl Write, frame: &impl Serialize) -> io::Result<()> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, frame)?;
    let length = u32::try_from(bytes.len() - 4)
        .ok()
        .filter(|length| *length as usize <= FRAME_LIMIT)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the message is too long"))?;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    pipe.write_all(&bytes)?;
    pipe.flush()
}

/// Reads one frame. Returns `None` if the other side has closed the pipe between two frames.
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
    fn a_written_frame_is_read_unchanged() {
        let mut pipe = Vec::new();
        for number in 0..3 {
            let message = WorkerRequest::Step {
                command: format!("say \u{1F525} \0 {number}"),
            };
            write_frame(&mut pipe, &Frame { number, message }).unwrap();
        }
        let mut pipe = pipe.as_slice();
        for number in 0..3 {
            let frame: Frame<WorkerRequest> = read_frame(&mut pipe).unwrap().unwrap();
            assert_eq!(frame.number, number);
            assert!(
                matches!(frame.message, WorkerRequest::Step { command } if command == format!("say \u{1F525} \0 {number}"))
            );
        }
        assert!(
            read_frame::<Frame<WorkerRequest>>(&mut pipe)
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn a_truncated_or_invalid_frame_is_an_error() {
        let mut pipe = Vec::new();
        write_frame(
            &mut pipe,
            &Frame {
                number: 1,
                message: WorkerRequest::Reset,
            },
        )
        .unwrap();
        for length in 1..pipe.len() {
            assert!(
                read_frame::<Frame<WorkerRequest>>(&mut &pipe[..length]).is_err(),
                "cut to {length} bytes"
            );
        }
        assert!(
            read_frame::<Frame<WorkerRequest>>(&mut b"print(1)".as_slice()).is_err(),
            "text, read as a length of 1.8 GB"
        );
        assert!(
            read_frame::<Frame<WorkerRequest>>(&mut b"\x02\0\0\0{]".as_slice()).is_err(),
            "not JSON"
        );
    }
}
