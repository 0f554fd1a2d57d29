//! Replay: holds the native world against recorded play, turn by turn.
//!
//! A recording is JSON lines, plain or `.xz`: `{"game": …, "version": …, "walk": [{"command": null or …,
//! "observation": …, "admissible": […], "won": …}]}`. The first entry of a walk is what a reset says. The game of a
//! line is the file `DIR/{version}/{game}`.

use crate::error::GameError;
use crate::native::{NativeEnvironment, NativeWorld};
use scenarios::{Environment, EnvironmentError, Status};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Cursor};
use std::path::{Path, PathBuf};

/// What came of a replay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Recorded walks.
    pub walks: usize,
    /// Commands in them, resets not counted.
    pub commands: usize,
    /// Entries in which at least one field differs.
    pub differences: usize,
    /// The first of them.
    pub first: Option<Difference>,
}

/// One field that is not as recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The game, as the recording names it.
    pub game: String,
    /// Its text version.
    pub version: String,
    /// Place in the walk; 0 is the reset.
    pub turn: usize,
    /// The command; `None` for the reset.
    pub command: Option<String>,
    /// `observation`, `admissible` or `won`.
    pub field: &'static str,
    /// What was recorded, as JSON.
    pub expected: String,
    /// What this world says, as JSON.
    pub found: String,
}

/// Why a replay could not go on.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The recording cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The recording.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The recording is damaged.
    #[error("{}, line {line}: {reason}", path.display())]
    Damaged {
        /// The recording.
        path: PathBuf,
        /// Line in it, from 1; 0 where it cannot be unpacked at all.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A game of the recording is not there.
    #[error("{}, line {line}: there is no game file {}", path.display(), game.display())]
    MissingGame {
        /// The recording.
        path: PathBuf,
        /// Line in it, from 1.
        line: usize,
        /// Where the game should be.
        game: PathBuf,
    },
    /// A game of the recording cannot be loaded.
    #[error(transparent)]
    Game(#[from] GameError),
    /// The world failed while it replayed.
    #[error(transparent)]
    World(#[from] EnvironmentError),
}

#[derive(Deserialize)]
struct Line {
    game: String,
    version: String,
    walk: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    command: Option<String>,
    observation: String,
    admissible: Vec<String>,
    won: bool,
}

impl Entry {
    fn answer(&self) -> Answer {
        Answer {
            text: self.observation.clone(),
            admissible: self.admissible.clone(),
            status: Status::of_goal(self.won),
        }
    }
}

/// What a world says after a reset or a command: all that is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) admissible: Vec<String>,
    pub(crate) status: Status,
}

/// The first of an answer's fields that two worlds do not share, and what it holds in each, as JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unequal {
    /// `observation`, `admissible` or `won`.
    pub(crate) field: &'static str,
    pub(crate) left: String,
    pub(crate) right: String,
}

impl Answer {
    /// Performs a command, or a reset where there is none, and asks for everything that is compared.
    pub(crate) fn to(
        command: Option<&str>,
        environment: &mut dyn Environment,
    ) -> Result<Self, EnvironmentError> {
        let said = match command {
            None => environment.reset()?,
            Some(command) => environment.step(command)?,
        };
        Ok(Self {
            text: said.text,
            admissible: environment.admissible_commands()?,
            status: said.status,
        })
    }

    /// Where this answer, the left one, differs from another.
    pub(crate) fn unequal(&self, right: &Self) -> Option<Unequal> {
        if self.text != right.text {
            Some(Unequal {
                field: "observation",
                left: json(&self.text),
                right: json(&right.text),
            })
        } else if self.admissible != right.admissible {
            Some(Unequal {
                field: "admissible",
                left: json(&self.admissible),
                right: json(&right.admissible),
            })
        } else if self.status != right.status {
            Some(Unequal {
                field: "won",
                left: won(self.status),
                right: won(right.status),
            })
        } else {
            None
        }
    }
}

/// As JSON: whether the goal holds; a lost game, which no household game is, says so.
fn won(status: Status) -> String {
    match status {
        Status::Playing => "false".to_owned(),
        Status::Won => "true".to_owned(),
        Status::Lost => json("lost"),
    }
}

fn json(value: &(impl Serialize + ?Sized)) -> String {
    serde_json::to_string(value).unwrap_or_else(|error| error.to_string())
}

/// Replays a recording with the native world; the games lie under `games`.
///
/// # Errors
/// When the recording or a game cannot be read. A difference is not an error.
pub fn replay(recording: &Path, games: &Path) -> Result<Report, ReplayError> {
    let world = NativeWorld::new();
    let mut report = Report {
        walks: 0,
        commands: 0,
        differences: 0,
        first: None,
    };
    for (index, text) in open(recording)?.lines().enumerate() {
        let line = index + 1;
        let damaged = |reason: String| ReplayError::Damaged {
            path: recording.to_owned(),
            line,
            reason,
        };
        let text = text.map_err(|error| damaged(error.to_string()))?;
        if text.trim().is_empty() {
            continue;
        }
        let recorded: Line =
            serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
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

fn replay_walk(
    environment: &mut NativeEnvironment,
    recorded: &Line,
    report: &mut Report,
) -> Result<(), EnvironmentError> {
    report.walks += 1;
    for (turn, entry) in recorded.walk.iter().enumerate() {
        report.commands += usize::from(entry.command.is_some());
        let found = Answer::to(entry.command.as_deref(), environment)?;
        let Some(Unequal {
            field,
            left: expected,
            right: found,
        }) = entry.answer().unequal(&found)
        else {
            continue;
        };
        report.differences += 1;
        report.first.get_or_insert_with(|| Difference {
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

/// Opens a recording; an `.xz` is unpacked in memory.
fn open(path: &Path) -> Result<Box<dyn BufRead>, ReplayError> {
    let read = |source| ReplayError::Read {
        path: path.to_owned(),
        source,
    };
    let mut reader = BufReader::new(std::fs::File::open(path).map_err(read)?);
    if path.extension().is_none_or(|extension| extension != "xz") {
        return Ok(Box::new(reader));
    }
    let mut plain = Vec::new();
    lzma_rs::xz_decompress(&mut reader, &mut plain).map_err(|error| ReplayError::Damaged {
        path: path.to_owned(),
        line: 0,
        reason: format!("not an xz file: {error:?}"),
    })?;
    Ok(Box::new(Cursor::new(plain)))
}
