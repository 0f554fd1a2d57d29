//! One game with its goal: [`Task`], its [`TaskType`] and its [`Split`]. The names are ALFWorld's.

use serde::{Deserialize, Serialize};
use std::{fmt, path::PathBuf, str::FromStr};

/// The six types of household tasks, with ALFWorld's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskType {
    /// Put an object somewhere.
    PickAndPlaceSimple,
    /// Look at an object under a lamp.
    LookAtObjInLight,
    /// Clean an object, then put it somewhere.
    PickCleanThenPlaceInRecep,
    /// Heat an object, then put it somewhere.
    PickHeatThenPlaceInRecep,
    /// Cool an object, then put it somewhere.
    PickCoolThenPlaceInRecep,
    /// Put two objects of one type somewhere.
    PickTwoObjAndPlace,
}

impl TaskType {
    /// All six, in ALFWorld's order.
    pub const ALL: [Self; 6] = [
        Self::PickAndPlaceSimple,
        Self::LookAtObjInLight,
        Self::PickCleanThenPlaceInRecep,
        Self::PickHeatThenPlaceInRecep,
        Self::PickCoolThenPlaceInRecep,
        Self::PickTwoObjAndPlace,
    ];

    /// Returns ALFWorld's name, as in `traj_data.json`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PickAndPlaceSimple => "pick_and_place_simple",
            Self::LookAtObjInLight => "look_at_obj_in_light",
            Self::PickCleanThenPlaceInRecep => "pick_clean_then_place_in_recep",
            Self::PickHeatThenPlaceInRecep => "pick_heat_then_place_in_recep",
            Self::PickCoolThenPlaceInRecep => "pick_cool_then_place_in_recep",
            Self::PickTwoObjAndPlace => "pick_two_obj_and_place",
        }
    }

    /// Returns a short name for narrow tables: put, examine, clean, heat, cool, two.
    #[must_use]
    pub fn short_name(self) -> &'static str {
        match self {
            Self::PickAndPlaceSimple => "put",
            Self::LookAtObjInLight => "examine",
            Self::PickCleanThenPlaceInRecep => "clean",
            Self::PickHeatThenPlaceInRecep => "heat",
            Self::PickCoolThenPlaceInRecep => "cool",
            Self::PickTwoObjAndPlace => "two",
        }
    }
}

impl fmt::Display for TaskType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for TaskType {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|t| t.name() == name)
            .ok_or_else(|| format!("unknown task type {name:?}"))
    }
}

/// The part of a suite to which a task belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// For demonstrations, collection and updates.
    Train,
    /// For the selection of checkpoints and settings; room layouts of `train`.
    ValidTrain,
    /// For reporting; room layouts of `train`.
    ValidSeen,
    /// For reporting; room layouts that never occur in `train`.
    ValidUnseen,
}

impl Split {
    /// All four.
    pub const ALL: [Self; 4] = [
        Self::Train,
        Self::ValidTrain,
        Self::ValidSeen,
        Self::ValidUnseen,
    ];

    /// Returns ALFWorld's folder name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::ValidTrain => "valid_train",
            Self::ValidSeen => "valid_seen",
            Self::ValidUnseen => "valid_unseen",
        }
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Split {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|s| s.name() == name)
            .ok_or_else(|| {
                format!(
                    "unknown split {name:?}; known: train, valid_train, valid_seen, valid_unseen"
                )
            })
    }
}

/// One game with its goal: its file and its place in a suite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Its name within the suite, with `/` between parts, for example `valid_seen/pick_…/trial_…`.
    pub id: String,
    /// Its split.
    pub split: Split,
    /// Its task type, if it is known.
    pub task_type: Option<TaskType>,
    /// Its file: `game.tw-pddl`, or a `.z8` file if it is another TextWorld game.
    pub path: PathBuf,
    /// Lower-case hex SHA-256 of the file's bytes.
    pub hash: String,
}
