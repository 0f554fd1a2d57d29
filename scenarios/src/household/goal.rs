//! The goal of a game and the house in which it must be reached.

use super::catalog::{ObjectType, ReceptacleType, Use};
use super::layout::Receptacle;
use crate::seed::SplitMix64;
use crate::task::TaskType;

/// The goal of a game.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Goal {
    /// The task type.
    pub task_type: TaskType,
    /// The type of object to bring or hold.
    pub target: &'static ObjectType,
    /// The type of receptacle to which it must be brought.
    pub parent: Option<&'static ReceptacleType>,
    /// The type of lamp under which it must be held.
    pub lamp: Option<&'static ObjectType>,
    /// What must be done to it first.
    pub treatment: Option<Use>,
}

/// An object at its initial place.
#[derive(Debug, Clone)]
pub(super) struct Object {
    pub(super) kind: &'static ObjectType,
    pub(super) id: String,
    pub(super) name: String,
    /// Index of a receptacle of the layout.
    pub(super) place: usize,
}

/// The receptacles and objects of one game.
#[derive(Debug, Clone, Copy)]
pub(super) struct House<'a> {
    pub(super) receptacles: &'a [Receptacle],
    pub(super) objects: &'a [Object],
}

impl Goal {
    /// Returns the verb of the treatment: heat, cool or clean. If there is no treatment, returns
    /// `use`.
    pub(super) fn verb(&self) -> &'static str {
        match self.treatment {
            Some(Use::Heats) => "heat",
            Some(Use::Cools) => "cool",
            Some(Use::Cleans) => "clean",
            None => "use",
        }
    }

    /// Returns one of ALFWorld's two sentences for this task type. The seed selects which.
    pub(super) fn sentence(&self, seed: u64) -> String {
        let what = self.target.name;
        let place = self.parent.map_or("", |parent| parent.name);
        let lamp = self.lamp.map_or("", |lamp| lamp.name);
        let first = SplitMix64::new(&[seed, 2]).percent(50);
        match (self.task_type, first) {
            (TaskType::PickAndPlaceSimple, true) => format!("put a {what} in {place}."),
            (TaskType::PickAndPlaceSimple, false) => format!("put some {what} on {place}."),
            (TaskType::LookAtObjInLight, true) => format!("look at {what} under the {lamp}."),
            (TaskType::LookAtObjInLight, false) => format!("examine the {what} with the {lamp}."),
            (TaskType::PickTwoObjAndPlace, true) => format!("put two {what} in {place}."),
            (TaskType::PickTwoObjAndPlace, false) => {
                format!("find two {what} and put them in {place}.")
            }
            (TaskType::PickCleanThenPlaceInRecep, true) => {
                format!("put a clean {what} in {place}.")
            }
            (TaskType::PickHeatThenPlaceInRecep, true) => format!("put a hot {what} in {place}."),
            (TaskType::PickCoolThenPlaceInRecep, true) => format!("put a cool {what} in {place}."),
            (_, false) => format!("{} some {what} and put it in {place}.", self.verb()),
        }
    }

    /// Returns the name of the task's folder, in ALFWorld's form.
    pub(super) fn task_name(&self, layout: &str) -> String {
        let last = self
            .parent
            .map(|parent| parent.title)
            .or(self.lamp.map(|lamp| lamp.title))
            .unwrap_or("None");
        format!(
            "{}-{}-None-{last}-{layout}",
            self.task_type, self.target.title
        )
    }
}
