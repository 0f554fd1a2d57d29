//! Generated household games in ALFWorld's file format: the six task types in kitchens, living
//! rooms, bedrooms and bathrooms, with splits by room layout.
//!
//! [`game()`] generates one game from a layout and a seed, [`games`] a balanced list for every
//! split, and [`generate`] writes them to a folder. Everything is a function of the seed: if two
//! runs have the same seed, they write the same bytes. This module does not depend on a simulator.
//!
//! [`PermutationSource`] makes new games from games of `train`.
//!
//! [`goal_object`], [`receptacles`] and [`perturb()`] read texts and the catalog of household games for
//! other crates.

mod alfworld;
pub mod catalog;
mod game;
mod goal;
mod layout;
mod permute;
mod perturb;
mod plan;
mod problem;
mod rooms;

pub use crate::expert::{goal_object, receptacles};
pub use game::{DOMAIN, Game, game};
pub use goal::Goal;
pub use layout::{Door, Layout, Receptacle, Size, layouts};
pub use permute::{PermutationSource, PermuteError, PermutedFrom, VariantDraw, is_permuted};
pub use perturb::{PerturbationDraws, numbered_names, perturb};
pub use rooms::RoomKind;

use crate::seed::SplitMix64;
use crate::suite::{GAME, MANIFEST, Suite, SuiteError, TRAJ_DATA, hex_sha256};
use crate::task::{Split, Task, TaskType};
use crate::text_version::TextVersion;
use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::{fs, io};

/// The options of the generator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GenerateOptions {
    /// The seed. If it differs, the games differ, but not the layouts.
    pub seed: u64,
    /// The size of the rooms.
    pub size: Size,
    /// Number of games in `train`.
    pub train: usize,
    /// Number of games in `valid_train`: train layouts, for the selection of checkpoints.
    pub valid_train: usize,
    /// Number of games in `valid_seen`: train layouts, for reporting.
    pub seen: usize,
    /// Number of games in `valid_unseen`: layouts that no other split uses.
    pub unseen: usize,
    /// The text version of the games. The houses and tasks are the same in both versions.
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

/// Why games cannot be generated.
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
    /// The folder already contains a suite.
    #[error("{} holds a suite already\nhint: choose another folder, or remove this one", path.display())]
    Occupied {
        /// The folder.
        path: PathBuf,
    },
    /// No other game that differs from all previous ones was found.
    #[error(
        "no new game for {split} after {made} games\nhint: ask for fewer games, or full-size rooms"
    )]
    Exhausted {
        /// The split.
        split: Split,
        /// Number of games of that split so far.
        made: usize,
    },
    /// The manifest cannot be written.
    #[error(transparent)]
    Suite(#[from] SuiteError),
}

/// Most draws for one game. If none gives a new game, the generator fails.
const DRAWS_PER_GAME: u64 = 1000;

/// Writes `SPLIT/TASK/TRIAL/game.tw-pddl` and `traj_data.json` for every game, and `suite.jsonl`,
/// into a folder. If the folder does not exist, it is created.
///
/// # Errors
/// `Occupied` if the folder contains a suite, `Exhausted` if there are not that many different
/// games, `Io` or `Suite` if a file cannot be written.
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
        unmarked: Vec::new(),
    };
    fs::create_dir_all(out).map_err(|source| GenerateError::Io {
        path: out.into(),
        source,
    })?;
    suite.write_manifest(out.join(MANIFEST))?;
    Ok(suite)
}

/// Returns the games that [`generate`] writes. The task types alternate, and so do the room types
/// that allow the task type. No two games are the same.
///
/// # Errors
/// `Exhausted` if there are not that many different games.
pub fn games(options: &GenerateOptions) -> Result<Vec<(Split, Game)>, GenerateError> {
    let layouts = layouts(options.size);
    let mut generator = GameGenerator {
        options,
        layouts: &layouts,
        made: HashSet::new(),
        trained: BTreeSet::new(),
    };
    let mut games = Vec::new();
    for split in Split::ALL {
        for index in 0..options.count(split) {
            let game = generator
                .next_game(split, index)
                .ok_or(GenerateError::Exhausted { split, made: index })?;
            games.push((split, game));
        }
    }
    Ok(games)
}

impl GenerateOptions {
    /// Returns the name of the suite, for example `household-small-seed1`. If the text version is
    /// the older one, the name is `household-small-seed1-text2.1.1`.
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

struct GameGenerator<'a> {
    options: &'a GenerateOptions,
    layouts: &'a [Layout],
    /// Hashes of the content of each game, without its name.
    made: HashSet<String>,
    /// Layouts that occur in `train`.
    trained: BTreeSet<String>,
}

impl<'a> GameGenerator<'a> {
    fn next_game(&mut self, split: Split, index: usize) -> Option<Game> {
        let task_type = TaskType::ALL[index % TaskType::ALL.len()];
        let rooms = rooms_for(task_type);
        let room = rooms[index / TaskType::ALL.len() % rooms.len()];
        let trial = format!("trial_S{}_{index:05}", self.options.seed);
        let candidates = self.candidates(split, room, rooms);
        for attempt in 0..DRAWS_PER_GAME {
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

    /// Returns the layouts from which a game is drawn: those of the room type that the split may
    /// use.
    ///
    /// If the split repeats train layouts, only layouts that occur in `train` are returned. If
    /// there are none of that room type, those of all allowed room types are returned.
    fn candidates(&self, split: Split, room: RoomKind, rooms: &[RoomKind]) -> Vec<&'a Layout> {
        let layouts = self.layouts;
        let allowed: Vec<&Layout> = layouts.iter().filter(|l| l.serves(split)).collect();
        let mut of_room = allowed.clone();
        of_room.retain(|layout| layout.room == room);
        if matches!(split, Split::Train | Split::ValidUnseen) {
            return of_room;
        }
        let mut same_room = of_room.clone();
        same_room.retain(|layout| self.trained.contains(&layout.id));
        let mut any_room = allowed;
        any_room.retain(|layout| self.trained.contains(&layout.id) && rooms.contains(&layout.room));
        [same_room, any_room]
            .into_iter()
            .find(|list| !list.is_empty())
            .unwrap_or(of_room)
    }
}

/// Returns the room types that allow a task type, in the order in which they alternate.
fn rooms_for(task_type: TaskType) -> &'static [RoomKind] {
    match task_type {
        TaskType::PickAndPlaceSimple | TaskType::PickTwoObjAndPlace => &RoomKind::ALL,
        TaskType::LookAtObjInLight => &[RoomKind::Bedroom, RoomKind::Living],
        TaskType::PickCleanThenPlaceInRecep => {
            &[RoomKind::Kitchen, RoomKind::Kitchen, RoomKind::Bathroom]
        }
        TaskType::PickHeatThenPlaceInRecep | TaskType::PickCoolThenPlaceInRecep => {
            &[RoomKind::Kitchen]
        }
    }
}

/// Returns a hash of the content of a game. If two games differ only in name and sentence, their
/// hashes are equal.
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
