//! Household games of our own, in ALFWorld's file format: the six task types over kitchens, living rooms, bedrooms and
//! bathrooms, with splits by room layout.
//!
//! [`game()`] makes one game from a layout and a seed; [`games`] a balanced list for every split; [`generate`] writes them.
//! Everything is a function of the seed: two runs write the same bytes. Knows nothing of how a world computes its texts.

pub mod catalog;
mod game;
mod layout;
mod plan;
mod problem;

pub use game::{DOMAIN, Game, Goal, game};
pub use layout::{Door, Layout, Receptacle, Size, layouts};

use crate::seed::SplitMix64;
use crate::suite::{GAME, MANIFEST, Suite, SuiteError, TRAJ_DATA, hex_sha256};
use crate::task::{Split, Task, TaskType};
use crate::text_version::TextVersion;
use catalog::Room;
use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::{fs, io};

/// What to generate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GenerateOptions {
    /// Different seeds make different games over the same layouts.
    pub seed: u64,
    /// How large rooms are.
    pub size: Size,
    /// Games of `train`.
    pub train: usize,
    /// Games of `valid_train`: train layouts, for choosing checkpoints.
    pub valid_train: usize,
    /// Games of `valid_seen`: train layouts, for reporting.
    pub seen: usize,
    /// Games of `valid_unseen`: layouts that no other split has.
    pub unseen: usize,
    /// The words of the games; the houses and tasks are the same in both.
    pub text: TextVersion,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            seed: 1,
            size: Size::Small,
            train: 600,
            valid_train: 60,
            seen: 120,
            unseen: 120,
            text: TextVersion::V2_1_3,
        }
    }
}

/// Why games could not be generated.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// A file cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// There is a suite already.
    #[error("{} holds a suite already\nhint: choose another folder, or remove this one", path.display())]
    Occupied {
        /// The folder.
        path: PathBuf,
    },
    /// No further game that differs from all others was found.
    #[error(
        "no new game for {split} after {made} games\nhint: ask for fewer games, or full-size rooms"
    )]
    Exhausted {
        /// The split.
        split: Split,
        /// How many games of that split were made.
        made: usize,
    },
    /// The manifest cannot be written.
    #[error(transparent)]
    Suite(#[from] SuiteError),
}

/// Draws for one game before giving up.
const ATTEMPTS: u64 = 1000;

/// Writes `SPLIT/TASK/TRIAL/game.tw-pddl` and `traj_data.json` for every game, and `suite.jsonl`, into a folder that is created.
///
/// # Errors
/// `Occupied` when the folder holds a suite, `Exhausted` when there are not that many different games, else what the disk says.
pub fn generate(out: &Path, options: &GenerateOptions) -> Result<Suite, GenerateError> {
    if out.join(MANIFEST).exists() {
        return Err(GenerateError::Occupied { path: out.into() });
    }
    let games = games(options)?;
    let mut tasks = games
        .iter()
        .map(|(split, game)| write_game(out, *split, game))
        .collect::<Result<Vec<_>, _>>()?;
    tasks.sort_by(|a, b| (a.split, &a.id).cmp(&(b.split, &b.id)));
    let name = options.suite_name();
    let suite = Suite {
        name,
        root: out.into(),
        tasks,
        faults: Vec::new(),
        left_out: Vec::new(),
    };
    fs::create_dir_all(out).map_err(|source| GenerateError::Io {
        path: out.into(),
        source,
    })?;
    suite.write_manifest(out.join(MANIFEST))?;
    Ok(suite)
}

/// The games that [`generate`] writes, in memory: task types in turn, rooms in turn among those that allow the type, no two
/// games alike.
///
/// # Errors
/// `Exhausted` when there are not that many different games.
pub fn games(options: &GenerateOptions) -> Result<Vec<(Split, Game)>, GenerateError> {
    let layouts = layouts(options.size);
    let mut maker = Maker {
        options,
        layouts: &layouts,
        made: HashSet::new(),
        trained: BTreeSet::new(),
    };
    let mut games = Vec::new();
    for split in Split::ALL {
        for index in 0..options.count(split) {
            let game = maker
                .make(split, index)
                .ok_or(GenerateError::Exhausted { split, made: index })?;
            games.push((split, game));
        }
    }
    Ok(games)
}

impl GenerateOptions {
    /// E.g. `household-small-seed1`, and `household-small-seed1-text2.1.1` for the older words.
    fn suite_name(&self) -> String {
        let name = format!("household-{}-seed{}", self.size.name(), self.seed);
        match self.text {
            TextVersion::V2_1_3 => name,
            TextVersion::V2_1_1 => format!("{name}-text{}", self.text),
        }
    }

    fn count(&self, split: Split) -> usize {
        match split {
            Split::Train => self.train,
            Split::ValidTrain => self.valid_train,
            Split::ValidSeen => self.seen,
            Split::ValidUnseen => self.unseen,
        }
    }
}

struct Maker<'a> {
    options: &'a GenerateOptions,
    layouts: &'a [Layout],
    /// Hashes of what each game holds and asks, whatever its name.
    made: HashSet<String>,
    /// Layouts that occur in `train`.
    trained: BTreeSet<String>,
}

impl<'a> Maker<'a> {
    fn make(&mut self, split: Split, index: usize) -> Option<Game> {
        let task_type = TaskType::ALL[index % TaskType::ALL.len()];
        let rooms = rooms(task_type);
        let room = rooms[index / TaskType::ALL.len() % rooms.len()];
        let trial = format!("trial_S{}_{index:05}", self.options.seed);
        let candidates = self.candidates(split, room, rooms);
        for attempt in 0..ATTEMPTS {
            let mut rng = SplitMix64::new(&[
                self.options.seed,
                self.options.size as u64,
                split as u64,
                index as u64,
                attempt,
            ]);
            let layout = *rng.pick(&candidates)?;
            let Some(game) = game(layout, task_type, &trial, rng.next(), self.options.text) else {
                continue;
            };
            if self.made.insert(content_hash(&game, &trial)) {
                if split == Split::Train {
                    self.trained.insert(game.layout.clone());
                }
                return Some(game);
            }
        }
        None
    }

    /// Layouts of that room; for the splits that repeat train layouts, only those that train has, as far as it has any.
    fn candidates(&self, split: Split, room: Room, rooms: &[Room]) -> Vec<&'a Layout> {
        let served = || self.layouts.iter().filter(|layout| layout.serves(split));
        let trained = |layout: &&Layout| self.trained.contains(&layout.id);
        let of_room: Vec<_> = served().filter(|layout| layout.room == room).collect();
        if matches!(split, Split::Train | Split::ValidUnseen) {
            return of_room;
        }
        let same_room: Vec<_> = of_room.iter().copied().filter(trained).collect();
        let any_room: Vec<_> = served()
            .filter(trained)
            .filter(|layout| rooms.contains(&layout.room))
            .collect();
        [same_room, any_room]
            .into_iter()
            .find(|list| !list.is_empty())
            .unwrap_or(of_room)
    }
}

/// Rooms that allow a task type, in the order they take turns.
fn rooms(task_type: TaskType) -> &'static [Room] {
    match task_type {
        TaskType::PickAndPlaceSimple | TaskType::PickTwoObjAndPlace => &Room::ALL,
        TaskType::LookAtObjInLight => &[Room::Bedroom, Room::Living],
        TaskType::PickCleanThenPlaceInRecep => &[Room::Kitchen, Room::Kitchen, Room::Bathroom],
        TaskType::PickHeatThenPlaceInRecep | TaskType::PickCoolThenPlaceInRecep => &[Room::Kitchen],
    }
}

/// Equal for games that differ in name and sentence only.
fn content_hash(game: &Game, trial: &str) -> String {
    hex_sha256(
        game.problem
            .replacen(&trial.to_ascii_lowercase(), "", 1)
            .as_bytes(),
    )
}

fn write_game(out: &Path, split: Split, game: &Game) -> Result<Task, GenerateError> {
    let id = format!("{split}/{}", game.id);
    let folder = id
        .split('/')
        .fold(out.to_path_buf(), |folder, part| folder.join(part));
    let text = game.to_json();
    fs::create_dir_all(&folder).map_err(|source| GenerateError::Io {
        path: folder.clone(),
        source,
    })?;
    write(&folder.join(GAME), &text)?;
    write(&folder.join(TRAJ_DATA), &game.traj_data())?;
    Ok(Task {
        id,
        split,
        task_type: Some(game.task_type),
        path: folder.join(GAME),
        hash: hex_sha256(text.as_bytes()),
    })
}

fn write(path: &Path, text: &str) -> Result<(), GenerateError> {
    fs::write(path, text).map_err(|source| GenerateError::Io {
        path: path.into(),
        source,
    })
}
