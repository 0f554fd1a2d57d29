//! New games from household games of `train`: the same goal in a room with other receptacles, other
//! objects, other places and other numbers.
//!
//! A variant keeps the task sentence, the goal, the domain and the grammar of its source. The
//! number of receptacles of each type is drawn anew, one receptacle type may be added that rooms of
//! this type can have, unneeded objects are removed and others get copies, and most movable objects
//! are placed in another receptacle that the game's own rules allow, by the prior of the
//! [`catalog`](super::catalog). All ids are drawn anew, so that the numbers in names change too.
//!
//! This module reads the facts that ALFWorld's games and generated games share. It does not depend
//! on a simulator, so it does not check that a variant can be won; `hearth scenarios permute` does.

mod facts;
mod room;

use crate::seed::{SplitMix64, of_word};
use crate::suite::TRAJ_DATA;
use crate::task::{Split, Task};
use facts::ProblemFacts;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::PathBuf;

/// Why a game cannot be permuted.
#[derive(Debug, thiserror::Error)]
pub enum PermuteError {
    /// The game belongs to another split.
    #[error(
        "{game} is a game of {split}, not of train\nhint: only train games can be permuted; a model that has practised in \
         rooms of {split} must not be measured on it"
    )]
    NotTrain {
        /// The game.
        game: String,
        /// Its split.
        split: Split,
    },
    /// The game was permuted itself.
    #[error(
        "{game} is a permuted game\nhint: permute its source with another --seed, or ask for more --variants"
    )]
    Permuted {
        /// The game.
        game: String,
    },
    /// A file of the game cannot be read as a household game.
    #[error("{}: {reason}\nhint: permute household games in ALFWorld's file format (game.tw-pddl)", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The cause.
        reason: String,
    },
}

/// The draw of a variant. Different draws give independent variants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VariantDraw {
    /// The seed of the whole suite.
    pub seed: u64,
    /// The index of the variant of its source game, from 0.
    pub variant: usize,
    /// The attempt at this variant, from 0.
    pub attempt: u64,
}

/// The source of a permuted game. It is recorded in `game.tw-pddl` and in `traj_data.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PermutedFrom {
    /// The id of the source game.
    pub game: String,
    /// The hash of the source game's file.
    pub game_hash: String,
    /// The seed of the suite.
    pub seed: u64,
    /// The index of the variant, from 0.
    pub variant: usize,
}

/// The part of a permuted game's id that separates the source's id from seed and variant.
const MARK: &str = "-permuted-s";

/// Returns true if a game's id is that of a permuted game: `SOURCE-permuted-sSEED-vVARIANT`.
///
/// ```
/// use scenarios::household::is_permuted;
/// assert!(is_permuted("train/pick_and_place_simple-Mug-None-Desk-308/trial_7-permuted-s1-v0"));
/// assert!(!is_permuted("train/pick_and_place_simple-Mug-None-Desk-308/trial_7"));
/// ```
#[must_use]
pub fn is_permuted(id: &str) -> bool {
    let numbers = id
        .rsplit_once(MARK)
        .and_then(|(_, numbers)| numbers.split_once("-v"));
    numbers.is_some_and(|(seed, variant)| {
        seed.parse::<u64>().is_ok() && variant.parse::<usize>().is_ok()
    })
}

/// A game of `train` that can be permuted.
#[derive(Debug, Clone)]
pub struct PermutationSource {
    task: Task,
    file: SourceFile,
    problem: ProblemFacts,
    traj_data: serde_json::Map<String, serde_json::Value>,
}

#[derive(Debug, Clone, Deserialize)]
struct SourceFile {
    pddl_domain: String,
    grammar: String,
    pddl_problem: String,
}

#[derive(Serialize)]
struct PermutedFile<'a> {
    pddl_domain: &'a str,
    grammar: &'a str,
    pddl_problem: &'a str,
    solvable: bool,
    walkthrough: &'a [String],
    permuted_from: PermutedFrom,
}

impl PermutationSource {
    /// Reads a game and the `traj_data.json` beside it.
    ///
    /// # Errors
    /// `NotTrain` if the game is not of `train`, `Permuted` if it was permuted itself, `Unreadable`
    /// if a file is missing or is not that of a household game.
    pub fn open(task: &Task) -> Result<Self, PermuteError> {
        if task.split != Split::Train {
            return Err(PermuteError::NotTrain {
                game: task.id.clone(),
                split: task.split,
            });
        }
        if is_permuted(&task.id) {
            return Err(PermuteError::Permuted {
                game: task.id.clone(),
            });
        }
        let beside = task.path.with_file_name(TRAJ_DATA);
        let file: SourceFile = read_json(&task.path)?;
        let traj_data = read_json(&beside)?;
        let problem = ProblemFacts::parse(&file.pddl_problem)
            .map_err(|reason| unreadable(&task.path, format!("pddl_problem: {reason}")))?;
        Ok(Self {
            task: task.clone(),
            file,
            problem,
            traj_data,
        })
    }

    /// Returns the source game.
    #[must_use]
    pub fn task(&self) -> &Task {
        &self.task
    }

    /// Returns the PDDL problem of a variant, or `None` if this draw gives none: an object that the
    /// goal needs has no place, or the room has the same receptacles as its source.
    #[must_use]
    pub fn problem(&self, draw: VariantDraw) -> Option<String> {
        let rng = SplitMix64::new(&[
            draw.seed,
            of_word(0, &self.task.id),
            draw.variant as u64,
            draw.attempt,
        ]);
        let suffix = format!("_permuted_s{}_v{}", draw.seed, draw.variant);
        room::vary(self.problem.clone(), rng).map(|problem| problem.text(&suffix))
    }

    /// Returns the id of a variant: the source's id with seed and variant.
    #[must_use]
    pub fn id(&self, draw: VariantDraw) -> String {
        format!("{}{MARK}{}-v{}", self.task.id, draw.seed, draw.variant)
    }

    /// Returns the content of `game.tw-pddl` for a problem of [`PermutationSource::problem`].
    ///
    /// # Panics
    /// Never: texts are always JSON.
    #[must_use]
    pub fn game_file(&self, draw: VariantDraw, problem: &str, walkthrough: &[String]) -> String {
        serde_json::to_string(&PermutedFile {
            pddl_domain: &self.file.pddl_domain,
            grammar: &self.file.grammar,
            pddl_problem: problem,
            solvable: true,
            walkthrough,
            permuted_from: self.from(draw),
        })
        .expect("texts and numbers are always JSON")
    }

    /// Returns the content of `traj_data.json`: that of the source, and `permuted_from`.
    ///
    /// # Panics
    /// Never: JSON can be written again.
    #[must_use]
    pub fn traj_data(&self, draw: VariantDraw) -> String {
        let mut data = self.traj_data.clone();
        let from = serde_json::to_value(self.from(draw)).expect("texts and numbers are JSON");
        data.insert("permuted_from".into(), from);
        serde_json::to_string(&data).expect("JSON that was read can be written")
    }

    fn from(&self, draw: VariantDraw) -> PermutedFrom {
        PermutedFrom {
            game: self.task.id.clone(),
            game_hash: self.task.hash.clone(),
            seed: draw.seed,
            variant: draw.variant,
        }
    }
}

fn read_json<T: serde::de::DeserializeOwned>(path: &std::path::Path) -> Result<T, PermuteError> {
    let bytes = fs::read(path).map_err(|error| unreadable(path, error.to_string()))?;
    serde_json::from_slice(&bytes).map_err(|error| unreadable(path, error.to_string()))
}

fn unreadable(path: &std::path::Path, reason: String) -> PermuteError {
    PermuteError::Unreadable {
        path: path.into(),
        reason,
    }
}
