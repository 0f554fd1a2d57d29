//! One game: a layout with things in it, a goal, and the texts an engine needs.

use super::catalog::{self, ObjectType, ReceptacleType, Room, Trait, Use};
use super::layout::{Layout, Size, display_names};
use super::plan::{self, House};
use super::problem;
use crate::seed::SplitMix64;
use crate::task::TaskType;
use crate::text_version::TextVersion;
use serde::Serialize;
use std::sync::LazyLock;

/// The PDDL domain that every game of text 2.1.3 carries.
pub const DOMAIN: &str = include_str!("domain.pddl");
const GRAMMAR: &str = include_str!("grammar.twl2");

static OLDER_DOMAIN: LazyLock<String> = LazyLock::new(older_domain);
static OLDER_GRAMMAR: LazyLock<String> = LazyLock::new(older_grammar);

/// One game, ready to be written or played.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Game {
    /// `TASK/TRIAL`, e.g. `pick_clean_then_place_in_recep-Mug-None-CoffeeMachine-L12/trial_S1_00042`.
    pub id: String,
    /// Which of the six kinds.
    pub task_type: TaskType,
    /// The layout's id, e.g. `L12`.
    pub layout: String,
    /// The task as the world says it, e.g. `put a clean mug in coffeemachine.`
    pub sentence: String,
    /// PDDL domain.
    pub domain: &'static str,
    /// TWL2 grammar with the sentence in it.
    pub grammar: String,
    /// PDDL problem.
    pub problem: String,
    /// The fewest commands that win.
    pub walkthrough: Vec<String>,
    /// What the goal names.
    pub goal: Goal,
}

/// What a game asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Goal {
    /// Which of the six kinds.
    pub task_type: TaskType,
    /// The type of object to bring or hold.
    pub target: &'static ObjectType,
    /// The type of receptacle to bring it to.
    pub parent: Option<&'static ReceptacleType>,
    /// The type of lamp to hold it under.
    pub lamp: Option<&'static ObjectType>,
    /// What is to be done to it first.
    pub treatment: Option<Use>,
}

/// A thing in its place.
#[derive(Debug, Clone)]
pub(super) struct Object {
    pub(super) kind: &'static ObjectType,
    pub(super) id: String,
    pub(super) name: String,
    /// Index of a receptacle of the layout.
    pub(super) place: usize,
}

/// Makes one game: the same arguments always make the same game, byte for byte. `None` when this draw makes none (the room
/// cannot ask for such a task, or it would start won); another seed may.
#[must_use]
pub fn game(
    layout: &Layout,
    task_type: TaskType,
    trial: &str,
    seed: u64,
    text: TextVersion,
) -> Option<Game> {
    let (objects, goal) = furnish(layout, task_type, seed)?;
    let house = House {
        receptacles: &layout.receptacles,
        objects: &objects,
    };
    let walkthrough =
        plan::walkthrough(house, &goal, text).filter(|commands| !commands.is_empty())?;
    let sentence = goal.sentence(seed);
    let (domain, grammar) = words(text);
    Some(Game {
        id: format!("{}/{trial}", goal.task_name(&layout.id)),
        task_type,
        layout: layout.id.clone(),
        domain,
        grammar: grammar.replace("TASK SENTENCE", &sentence),
        problem: problem::text(house, &goal, trial),
        sentence,
        walkthrough,
        goal,
    })
}

/// Domain and grammar of a text version; both have the same objects, predicates and, but for `help`, actions.
fn words(text: TextVersion) -> (&'static str, &'static str) {
    match text {
        TextVersion::V2_1_1 => (&OLDER_DOMAIN, &OLDER_GRAMMAR),
        TextVersion::V2_1_3 => (DOMAIN, GRAMMAR),
    }
}

/// [`DOMAIN`] without its `Help` action.
fn older_domain() -> String {
    let is_help = |paragraph: &&str| paragraph.trim_start().starts_with("(:action Help");
    DOMAIN
        .split("\n\n")
        .filter(|paragraph| !is_help(paragraph))
        .collect::<Vec<_>>()
        .join("\n\n")
}

/// [`GRAMMAR`] with the older way to put and to arrive, and without `help`, its last action.
fn older_grammar() -> String {
    let (older, newer) = (TextVersion::V2_1_1, TextVersion::V2_1_3);
    let grammar = GRAMMAR.split("\naction Help ").next().unwrap_or_default();
    grammar
        .replace(
            &newer.put_command("{o}", "{r}"),
            &older.put_command("{o}", "{r}"),
        )
        .replace(
            &newer.put_feedback("{o.name}", "{r.name}"),
            &older.put_feedback("{o.name}", "{r.name}"),
        )
        .replace("You arrive at {r.name}.", "You arrive at {to.name}.")
}

impl Game {
    /// The content of `game.tw-pddl`.
    #[must_use]
    pub fn to_json(&self) -> String {
        to_json(&GameFile {
            pddl_domain: self.domain,
            grammar: &self.grammar,
            pddl_problem: &self.problem,
            solvable: true,
            walkthrough: &self.walkthrough,
        })
    }

    /// The content of `traj_data.json`.
    #[must_use]
    pub fn traj_data(&self) -> String {
        to_json(&TrajData {
            task_type: self.task_type,
            pddl_params: PddlParams {
                mrecep_target: "",
                object_sliced: false,
                object_target: self.goal.target.title,
                parent_target: self.goal.parent.map_or("", |parent| parent.title),
                toggle_target: self.goal.lamp.map_or("", |lamp| lamp.title),
            },
            scene: Scene {
                floor_plan: &self.layout,
            },
            turk_annotations: Annotations {
                anns: [Annotation {
                    task_desc: &self.sentence,
                }],
            },
        })
    }
}

// Structs and not maps: the order of the fields is part of the bytes that a hash is taken of.

#[derive(Serialize)]
struct GameFile<'a> {
    pddl_domain: &'a str,
    grammar: &'a str,
    pddl_problem: &'a str,
    solvable: bool,
    walkthrough: &'a [String],
}

#[derive(Serialize)]
struct TrajData<'a> {
    task_type: TaskType,
    pddl_params: PddlParams,
    scene: Scene<'a>,
    turk_annotations: Annotations<'a>,
}

#[derive(Serialize)]
struct PddlParams {
    mrecep_target: &'static str,
    object_sliced: bool,
    object_target: &'static str,
    parent_target: &'static str,
    toggle_target: &'static str,
}

#[derive(Serialize)]
struct Scene<'a> {
    floor_plan: &'a str,
}

#[derive(Serialize)]
struct Annotations<'a> {
    anns: [Annotation<'a>; 1],
}

#[derive(Serialize)]
struct Annotation<'a> {
    task_desc: &'a str,
}

fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("strings and flags are always JSON")
}

impl Goal {
    /// heat, cool or clean.
    pub(super) fn verb(&self) -> &'static str {
        match self.treatment {
            Some(Use::Heats) => "heat",
            Some(Use::Cools) => "cool",
            Some(Use::Cleans) => "clean",
            None => "use",
        }
    }

    /// One of the two sentences of ALFWorld's for this kind of task.
    fn sentence(&self, seed: u64) -> String {
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

    fn task_name(&self, layout: &str) -> String {
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

/// Draws a goal and things in their places.
pub(super) fn furnish(
    layout: &Layout,
    task_type: TaskType,
    seed: u64,
) -> Option<(Vec<Object>, Goal)> {
    let mut rng = SplitMix64::new(&[seed, 1]);
    let goal = draw_goal(layout, task_type, &mut rng)?;
    let mut objects: Vec<Object> = Vec::new();
    for (kind, count) in draw_things(layout, &goal, &mut rng) {
        for _ in 0..count {
            let place = draw_place(layout, kind, &goal, &mut rng)?;
            objects.push(Object {
                kind,
                id: String::new(),
                name: String::new(),
                place,
            });
        }
    }
    name_objects(&mut objects, &mut rng);
    Some((objects, goal))
}

/// Numbers say nothing about what was drawn first: the target is not always mug 1.
fn name_objects(objects: &mut [Object], rng: &mut SplitMix64) {
    let mut serials: Vec<usize> = (1..=objects.len()).collect();
    rng.shuffle(&mut serials);
    for (object, serial) in objects.iter_mut().zip(serials) {
        object.id = format!("{}_bar_{serial:02}", object.kind.name);
    }
    let names = display_names(objects.iter().map(|object| object.id.as_str()));
    for (object, name) in objects.iter_mut().zip(names) {
        object.name = name;
    }
    objects.sort_by(|a, b| a.id.cmp(&b.id));
}

fn draw_goal(layout: &Layout, task_type: TaskType, rng: &mut SplitMix64) -> Option<Goal> {
    let (needed, treatment) = match task_type {
        TaskType::PickCleanThenPlaceInRecep => (Some(Trait::Cleanable), Some(Use::Cleans)),
        TaskType::PickHeatThenPlaceInRecep => (Some(Trait::Heatable), Some(Use::Heats)),
        TaskType::PickCoolThenPlaceInRecep => (Some(Trait::Coolable), Some(Use::Cools)),
        _ => (None, None),
    };
    let kinds = layout.kinds();
    if treatment.is_some() && kinds.iter().all(|kind| kind.does != treatment) {
        return None;
    }
    let lamp = match task_type {
        TaskType::LookAtObjInLight => Some(room_lamp(layout)?),
        _ => None,
    };
    let targets: Vec<_> = things(layout.room)
        .filter(|(kind, _)| kind.pickupable() && needed.is_none_or(|needed| kind.is(needed)))
        .map(|(kind, _)| kind)
        .collect();
    let target = *rng.pick(&targets)?;
    let mut goal = Goal {
        task_type,
        target,
        parent: None,
        lamp,
        treatment,
    };
    if lamp.is_none() {
        let parents: Vec<_> = kinds
            .into_iter()
            .filter(|kind| {
                kind.holds(target.name) && (treatment.is_none() || kind.does != treatment)
            })
            .filter(|kind| kind.does != Some(Use::Cleans)) // as in ALFWorld, nothing is to be left in a sink
            .collect();
        goal.parent = Some(*rng.pick(&parents)?);
    }
    Some(goal)
}

/// A lamp that this room could have and has a place for.
fn room_lamp(layout: &Layout) -> Option<&'static ObjectType> {
    things(layout.room).map(|(kind, _)| kind).find(|kind| {
        kind.is(Trait::Lamp) && kind.places.iter().any(|&(place, _)| layout.has(place))
    })
}

fn things(room: Room) -> impl Iterator<Item = (&'static ObjectType, u32)> {
    room.things()
        .iter()
        .filter_map(|&(name, presence)| Some((catalog::object_type(name)?, presence)))
}

/// Types and how many of each: the target, the lamp, and whatever else lies about.
fn draw_things(
    layout: &Layout,
    goal: &Goal,
    rng: &mut SplitMix64,
) -> Vec<(&'static ObjectType, usize)> {
    let (fewest, most) = match layout.size {
        Size::Small => (6, 14),
        Size::Full => (12, 44),
    };
    let targets = match goal.task_type {
        TaskType::PickTwoObjAndPlace => 2 + usize::from(rng.percent(30)),
        _ => 1 + usize::from(rng.percent(30)) + usize::from(rng.percent(8)),
    };
    let mut drawn = vec![(goal.target, targets)];
    drawn.extend(goal.lamp.map(|lamp| (lamp, 1)));

    let has_place = |kind: &ObjectType| kind.places.iter().any(|&(place, _)| layout.has(place));
    let mut others: Vec<_> = things(layout.room)
        .filter(|(kind, _)| has_place(kind) && drawn.iter().all(|(have, _)| have != kind))
        .collect();
    rng.shuffle(&mut others);
    let (common, rare): (Vec<_>, Vec<_>) = others
        .into_iter()
        .partition(|&(_, presence)| rng.percent(presence));

    let wanted = rng.within((fewest, most));
    let mut total: usize = drawn.iter().map(|(_, count)| count).sum();
    for (others, enough) in [(common, wanted), (rare, fewest)] {
        for (kind, _) in others {
            if total >= enough {
                break;
            }
            let count = match (kind.pickupable(), layout.size) {
                (false, _) => 1,
                (true, Size::Small) => 1 + usize::from(rng.percent(25)),
                (true, Size::Full) => 1 + usize::from(rng.percent(25)) + rng.below(2),
            };
            let count = count.min(enough - total);
            drawn.push((kind, count));
            total += count;
        }
    }
    drawn
}

/// A receptacle drawn by the catalog's prior; what is only to be put somewhere does not start there.
fn draw_place(
    layout: &Layout,
    kind: &'static ObjectType,
    goal: &Goal,
    rng: &mut SplitMix64,
) -> Option<usize> {
    let weight = |name: &str| {
        kind.places
            .iter()
            .find(|&&(place, _)| place == name)
            .map_or(0, |&(_, weight)| weight)
    };
    let weights: Vec<u32> = layout
        .receptacles
        .iter()
        .map(|receptacle| {
            let alike = layout
                .receptacles
                .iter()
                .filter(|other| other.kind == receptacle.kind)
                .count() as u32;
            let taboo = goal.treatment.is_none()
                && kind == goal.target
                && Some(receptacle.kind) == goal.parent;
            if taboo {
                0
            } else {
                weight(receptacle.kind.name) * 60 / alike
            }
        })
        .collect();
    rng.weighted(&weights)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines that only one of two texts has, in order: of the first, of the second.
    fn differences<'a>(first: &'a str, second: &'a str) -> (Vec<&'a str>, Vec<&'a str>) {
        let only = |one: &'a str, other: &str| {
            one.lines()
                .filter(|line| !other.lines().any(|l| l == *line))
                .collect()
        };
        (only(first, second), only(second, first))
    }

    #[test]
    fn the_older_words_differ_where_they_should() {
        let ((older_domain, older), (newer_domain, newer)) =
            (words(TextVersion::V2_1_1), words(TextVersion::V2_1_3));
        let help = "    (:action Help\n        :parameters (?a - agent)\n        :precondition ()\n        \
                    :effect (and (askedHelp ?a))\n    )\n\n";
        assert_eq!(newer_domain.replacen(help, "", 1), older_domain);
        assert_eq!(newer_domain.len(), older_domain.len() + help.len());

        let (without_help, help) = newer.split_once("\naction Help ").unwrap();
        assert_eq!(
            help.matches("\naction ").count(),
            0,
            "help is the last action"
        );
        let (gone, come) = differences(without_help, older);
        assert_eq!(
            gone,
            [
                r##"        "arrival": [{"rhs": "You arrive at {r.name}. #contents#"}],"##,
                r#"        "moving": [{"rhs": "You move the {o.name} to the {r.name}."}],"#,
                r##"action Move { template :: "move {o} to {r}"; feedback :: "#moving#"; }"##,
            ]
        );
        assert_eq!(
            come,
            [
                r##"        "arrival": [{"rhs": "You arrive at {to.name}. #contents#"}],"##,
                r#"        "moving": [{"rhs": "You put the {o.name} in/on the {r.name}."}],"#,
                r##"action Move { template :: "put {o} in/on {r}"; feedback :: "#moving#"; }"##,
            ]
        );
    }
}
