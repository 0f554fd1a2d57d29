//! The store of rescues, which can be continued after an interruption.
//!
//! Most beginnings have no rescue, so the store alone does not record which beginnings were played. They are in a
//! second file, `STORE.played.jsonl`, one line for each. A line is written after the rescues of its beginning. If
//! the process is killed in between, the beginning is played again, and its rescues, which have the same seeds,
//! are not added a second time.

use crate::error::TrainerError;
use crate::measure::rescue::LostBeginning;
use scenarios::Trajectory;
use scenarios::store::Store;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// A beginning that was played, as its line records it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct PlayedBeginning {
    game_hash: String,
    seed: u64,
    repetition: usize,
    policy: String,
    turns: usize,
}

impl PlayedBeginning {
    fn of(beginning: &LostBeginning<'_>) -> Self {
        let episode = beginning.episode;
        Self {
            game_hash: episode.game_hash.clone(),
            seed: episode.seed,
            repetition: episode.repetition,
            policy: episode.policy.clone(),
            turns: beginning.turns,
        }
    }
}

/// A store of rescues that is being written.
pub struct RescueStore {
    store: Store,
    rescues: Vec<Trajectory>,
    /// Game and seed of each rescue in the store.
    known: HashSet<(String, u64)>,
    played: HashSet<PlayedBeginning>,
    log: File,
    log_path: PathBuf,
}

impl RescueStore {
    /// Opens the store at `path`, or creates it.
    ///
    /// # Errors
    /// If the store or the file beside it cannot be used.
    pub fn open(path: &Path) -> Result<Self, TrainerError> {
        let (store, rescues) = Store::open(path)?;
        let log_path = log_path(path);
        let text = match std::fs::read_to_string(&log_path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            text => text.map_err(TrainerError::file(&log_path))?,
        };
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log_path)
            .map_err(TrainerError::file(&log_path))?;
        // A line that a killed process cut off does not parse, and its beginning is played again.
        let played = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        let mut opened = Self {
            store,
            known: rescues.iter().map(identity).collect(),
            rescues,
            played,
            log,
            log_path,
        };
        if !text.is_empty() && !text.ends_with('\n') {
            opened.write_log("\n")?;
        }
        Ok(opened)
    }

    /// Returns whether nothing was played for the store yet.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.rescues.is_empty() && self.played.is_empty()
    }

    /// Returns whether a beginning was played before.
    #[must_use]
    pub fn has_played(&self, beginning: &LostBeginning<'_>) -> bool {
        self.played.contains(&PlayedBeginning::of(beginning))
    }

    /// Adds the rescues of a beginning, and records that it was played.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn add(
        &mut self,
        beginning: &LostBeginning<'_>,
        rescues: Vec<Trajectory>,
    ) -> Result<(), TrainerError> {
        for rescue in rescues {
            if self.known.insert(identity(&rescue)) {
                self.store.append(&rescue)?;
                self.rescues.push(rescue);
            }
        }
        let played = PlayedBeginning::of(beginning);
        let line =
            serde_json::to_string(&played).map_err(|e| TrainerError::content(&self.log_path, e))?;
        self.write_log(&(line + "\n"))?;
        self.played.insert(played);
        Ok(())
    }

    /// Returns the rescues in the store.
    #[must_use]
    pub fn rescues(&self) -> &[Trajectory] {
        &self.rescues
    }

    /// Closes the store, removes the file beside it, and returns the rescues. After this, an
    /// interrupted call can no longer be continued.
    ///
    /// # Errors
    /// If the file cannot be removed.
    pub fn finish(self) -> Result<Vec<Trajectory>, TrainerError> {
        std::fs::remove_file(&self.log_path).map_err(TrainerError::file(&self.log_path))?;
        Ok(self.rescues)
    }

    fn write_log(&mut self, text: &str) -> Result<(), TrainerError> {
        self.log
            .write_all(text.as_bytes())
            .map_err(TrainerError::file(&self.log_path))
    }
}

/// Returns the path of the list of beginnings that were played.
fn log_path(store: &Path) -> PathBuf {
    let mut name = store.as_os_str().to_owned();
    name.push(".played.jsonl");
    name.into()
}

fn identity(rescue: &Trajectory) -> (String, u64) {
    (rescue.game_hash.clone(), rescue.seed)
}
