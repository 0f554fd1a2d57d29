//! Replay: compares the native world with recorded play, turn by turn.
//!
//! A recording consists of JSON lines, plain or `.xz`: `{"game": …, "version": …, "walk":
//! [{"command": null or …, "observation": …, "admissible": […], "won": …}]}`. The first entry of a
//! walk is the response to a reset. The game of a line is the file `DIR/{version}/{game}`.

use crate::compare::{FieldDifference, WorldResponse};
use crate::error::GameError;
use crate::native::{NativeEnvironment, NativeWorld};
use scenarios::{EnvironmentError, Status};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Cursor};
use std::path::{Path, PathBuf};

/// The result of a replay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReplayReport {
    /// Recorded walks.
    pub walks: usize,
    /// Commands in them; resets are not counted.
    pub commands: usize,
    /// Entries in which at least one field differs.
    pub differences: usize,
    /// The first difference, or `None` if there is none.
    pub first: Option<RecordingDifference>,
}

/// One field that differs from the recording.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RecordingDifference {
    /// The game, as named in the recording.
    pub game: String,
    /// Its text version.
    pub version: String,
    /// Index of the entry in the walk; 0 is the reset.
    pub turn: usize,
    /// The command; `None` for the reset.
    pub command: Option<String>,
    /// `observation`, `admissible` or `won`.
    pub field: &'static str,
    /// The recorded value, as JSON.
    pub expected: String,
    /// The value in the native world, as JSON.
    pub found: String,
}

/// The reason why a replay stopped.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The recording cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The recording.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: std::io::Error,
    },
    /// The recording is damaged.
    #[error("{}, line {line}: {reason}", path.display())]
    Damaged {
        /// The recording.
        path: PathBuf,
        /// Line in it, from 1; 0 if the archive cannot be unpacked at all.
        line: usize,
        /// What is wrong with the line.
        reason: String,
    },
    /// A game file of the recording does not exist.
    #[error("{}, line {line}: there is no game file {}", path.display(), game.display())]
    MissingGame {
        /// The recording.
        path: PathBuf,
        /// Line in it, from 1.
        line: usize,
        /// The path where the game was expected.
        game: PathBuf,
    },
    /// A game of the recording cannot be loaded.
    #[error(transparent)]
    Game(#[from] GameError),
    /// The world failed during the replay.
    #[error(transparent)]
    World(#[from] EnvironmentError),
}

/// Replays a recording in the native world. The games are in the folder `games`.
///
/// # Errors
/// If the recording or a game cannot be read, or if the world fails. A difference is not an error.
pub fn replay(recording: &Path, games: &Path) -> Result<ReplayReport, ReplayError> {
    let world = NativeWorld::new();
    let mut report = ReplayReport {
        walks: 0,
        commands: 0,
        differences: 0,
        first: None,
    };
    for (index, text) in open(recording)?.lines().enumerate() {
        let line = index + 1;
        let text = text.map_err(|error| damaged(recording, line, error.to_string()))?;
        if text.trim().is_empty() {
            continue;
        }
        let recorded: ReplayLine = serde_json::from_str(&text)
            .map_err(|error| damaged(recording, line, error.to_string()))?;
        let game = games.join(&recorded.version).join(&recorded.game);
        if !game.is_file() {
            return Err(ReplayError::MissingGame {
                path: recording.to_owned(),
                line,
                game,
            });
        }
        replay_walk(
            &mut NativeEnvironment::new(world.game(&game)?),
            &recorded,
            &mut report,
        )?;
    }
    Ok(report)
}

/// One line of a recording.
#[derive(Deserialize)]
struct ReplayLine {
    game: String,
    version: String,
    walk: Vec<ReplayEntry>,
}

/// One reset or command with the recorded response.
#[derive(Deserialize)]
struct ReplayEntry {
    command: Option<String>,
    observation: String,
    admissible: Vec<String>,
    won: bool,
}

impl ReplayEntry {
    fn response(&self) -> WorldResponse {
        WorldResponse {
            text: self.observation.clone(),
            admissible: self.admissible.clone(),
            status: Status::of_goal(self.won),
        }
    }
}

fn replay_walk(
    environment: &mut NativeEnvironment,
    recorded: &ReplayLine,
    report: &mut ReplayReport,
) -> Result<(), EnvironmentError> {
    report.walks += 1;
    for (turn, entry) in recorded.walk.iter().enumerate() {
        report.commands += usize::from(entry.command.is_some());
        let found = WorldResponse::to(entry.command.as_deref(), environment)?;
        let Some(FieldDifference {
            field,
            left: expected,
            right: found,
        }) = entry.response().first_difference(&found)
        else {
            continue;
        };
        report.differences += 1;
        report.first.get_or_insert_with(|| RecordingDifference {
            game: recorded.game.clone(),
            version: recorded.version.clone(),
            turn,
            command: entry.command.clone(),
            field,
            expected,
            found,
        });
    }
    Ok(())
}

/// Opens a recording. If its extension is `.xz`, it is unpacked in memory.
fn open(path: &Path) -> Result<Box<dyn BufRead>, ReplayError> {
    let file = std::fs::File::open(path).map_err(|source| ReplayError::Read {
        path: path.to_owned(),
        source,
    })?;
    let mut reader = BufReader::new(file);
    if path.extension().is_none_or(|extension| extension != "xz") {
        return Ok(Box::new(reader));
    }
    let mut plain = Vec::new();
    lzma_rs::xz_decompress(&mut reader, &mut plain)
        .map_err(|error| damaged(path, 0, format!("not an xz file: {error:?}")))?;
    Ok(Box::new(Cursor::new(plain)))
}

fn damaged(recording: &Path, line: usize, reason: String) -> ReplayError {
    ReplayError::Damaged {
        path: recording.to_owned(),
        line,
        reason,
    }
}
