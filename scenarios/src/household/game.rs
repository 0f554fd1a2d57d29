//! One game: a layout with objects, a goal, and the texts that a simulator needs.

use super::alfworld;
use super::catalog::{self, ObjectType, Trait, Use};
use super::goal::{Goal, House, Object};
use super::layout::{Layout, Size, display_names};
use super::plan;
use super::problem;
use crate::seed::SplitMix64;
use crate::task::TaskType;
use crate::text_version::TextVersion;
use serde::Serialize;
use std::sync::LazyLock;

/// The PDDL domain of every game of text version 2.1.3.
pub const DOMAIN: &str = include_str!("domain.pddl");
const GRAMMAR: &str = include_str!("grammar.twl2");

static OLDER_DOMAIN: LazyLock<String> = LazyLock::new(older_domain);
static OLDER_GRAMMAR: LazyLock<String> = LazyLock::new(older_grammar);

/// One game that can be written to a file or played.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Game {
    /// `TASK/TRIAL`, for example
    /// `pick_clean_then_place_in_recep-Mug-None-CoffeeMachine-L12/trial_S1_00042`.
    pub id: String,
    /// The task type.
    pub task_type: TaskType,
    /// The id of the layout, for example `L12`.
    pub layout: String,
    /// The task sentence in the opening text, for example `put a clean mug in coffeemachine.`
    pub sentence: String,
    /// PDDL domain.
    pub domain: &'static str,
    /// TWL2 grammar that contains the task sentence.
    pub grammar: String,
    /// PDDL problem.
    pub problem: String,
    /// The fewest commands that win.
    pub walkthrough: Vec<String>,
    /// The goal.
    pub goal: Goal,
}

/// Generates one game. The same arguments always give the same game, byte for byte.
///
/// Returns `None` if the room does not allow the task type, or if the goal would hold at the start.
/// Another seed can still give a game.
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
    let (domain, grammar) = domain_and_grammar(text);
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

/// Returns the domain and the grammar of a text version. Both versions have the same objects,
/// predicates and actions, except `help`.
fn domain_and_grammar(text: TextVersion) -> (&'static str, &'static str) {
    match text {
        TextVersion::V2_1_1 => (&OLDER_DOMAIN, &OLDER_GRAMMAR),
        TextVersion::V2_1_3 => (DOMAIN, GRAMMAR),
    }
}

/// Returns [`DOMAIN`] without its `Help` action.
fn older_domain() -> String {
    DOMAIN
        .split("\n\n")
        .filter(|paragraph| !paragraph.trim_start().starts_with("(:action Help"))
        .collect::<Vec<_>>()
        .join("\n\n")
}

/// Returns [`GRAMMAR`] with the older texts for put and arrive, and without `help`, its last
/// action.
fn older_grammar() -> String {
    let older = TextVersion::V2_1_1;
    let newer = TextVersion::V2_1_3;
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
    /// Returns the content of `game.tw-pddl`.
    #[must_use]
    pub fn to_json(&self) -> String {
        to_json(&GameJson {
            pddl_domain: self.domain,
            grammar: &self.grammar,
            pddl_problem: &self.problem,
            solvable: true,
            walkthrough: &self.walkthrough,
        })
    }

    /// Returns the content of `traj_data.json`.
    #[must_use]
    pub fn traj_data(&self) -> String {
        to_json(&TrajDataJson {
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

// These are structs, not maps, because the order of the fields is part of the hashed bytes.

#[derive(Serialize)]
struct GameJson<'a> {
    pddl_domain: &'a str,
    grammar: &'a str,
    pddl_problem: &'a str,
    solvable: bool,
    walkthrough: &'a [String],
}

#[derive(Serialize)]
struct TrajDataJson<'a> {
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

/// Draws a goal and the objects with their places.
pub(super) fn furnish(
    layout: &Layout,
    task_type: TaskType,
    seed: u64,
) -> Option<(Vec<Object>, Goal)> {
    let mut rng = SplitMix64::new(&[seed, 1]);
    let goal = draw_goal(layout, task_type, &mut rng)?;
    let mut objects: Vec<Object> = Vec::new();
    for (kind, count) in draw_objects(layout, &goal, &mut rng) {
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

/// Gives the objects random serial numbers, so that a number does not reveal the order of the
/// draws. The target is not always mug 1.
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
    let is_alfworld = layout.size == Size::Alfworld;
    let targets: Vec<_> = object_types(layout)
        .filter(|(kind, _)| kind.pickupable() && needed.is_none_or(|needed| kind.is(needed)))
        .filter(|(kind, _)| !(is_alfworld && alfworld::NEVER_TARGETS.contains(&kind.name)))
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
            .filter(|kind| !(is_alfworld && alfworld::NEVER_PARENTS.contains(&kind.name)))
            .filter(|kind| kind.does != Some(Use::Cleans)) // in ALFWorld no task ends in a sink
            .collect();
        goal.parent = Some(*rng.pick(&parents)?);
    }
    Some(goal)
}

/// Returns a lamp type of this room type, if the layout has a place for it.
fn room_lamp(layout: &Layout) -> Option<&'static ObjectType> {
    object_types(layout)
        .map(|(kind, _)| kind)
        .find(|kind| kind.is(Trait::Lamp) && has_place(layout, kind))
}

/// Returns true if the layout has a receptacle in which such objects are usually found.
fn has_place(layout: &Layout, kind: &ObjectType) -> bool {
    kind.places.iter().any(|&(place, _)| layout.has(place))
}

fn object_types(layout: &Layout) -> impl Iterator<Item = (&'static ObjectType, u32)> {
    let objects = match layout.size {
        Size::Small | Size::Full => layout.room.objects(),
        Size::Alfworld => alfworld::room(layout.room).objects,
    };
    objects
        .iter()
        .filter_map(|&(name, presence)| Some((catalog::object_type(name)?, presence)))
}

/// Draws object types and the number of each: the target, the lamp, and other objects of the room.
fn draw_objects(
    layout: &Layout,
    goal: &Goal,
    rng: &mut SplitMix64,
) -> Vec<(&'static ObjectType, usize)> {
    let (fewest, most) = match layout.size {
        Size::Small => (6, 14),
        Size::Full => (12, 44),
        Size::Alfworld => alfworld::room(layout.room).total,
    };
    let targets = match goal.task_type {
        TaskType::PickTwoObjAndPlace => 2 + usize::from(rng.percent(30)),
        _ => 1 + usize::from(rng.percent(30)) + usize::from(rng.percent(8)),
    };
    let mut drawn = vec![(goal.target, targets)];
    drawn.extend(goal.lamp.map(|lamp| (lamp, 1)));

    let mut others: Vec<_> = object_types(layout)
        .filter(|(kind, _)| has_place(layout, kind) && drawn.iter().all(|(have, _)| have != kind))
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
                (true, Size::Alfworld) => 1 + rng.below(3),
            };
            let count = count.min(enough - total);
            drawn.push((kind, count));
            total += count;
        }
    }
    drawn
}

/// Draws a receptacle by the prior of the catalog. If the task is only to put the object somewhere,
/// the object does not start there.
fn draw_place(
    layout: &Layout,
    kind: &'static ObjectType,
    goal: &Goal,
    rng: &mut SplitMix64,
) -> Option<usize> {
    let weights: Vec<u32> = layout
        .receptacles
        .iter()
        .map(|receptacle| {
            let alike = layout
                .receptacles
                .iter()
                .filter(|other| other.kind == receptacle.kind)
                .count() as u32;
            let is_excluded = goal.treatment.is_none()
                && kind == goal.target
                && Some(receptacle.kind) == goal.parent;
            if is_excluded {
                0
            } else {
                weight(kind, receptacle.kind.name) * 60 / alike
            }
        })
        .collect();
    rng.weighted(&weights)
}

/// Returns the weight of a receptacle type among the usual places of an object type.
fn weight(kind: &ObjectType, receptacle: &str) -> u32 {
    kind.places
        .iter()
        .find(|&&(place, _)| place == receptacle)
        .map_or(0, |&(_, weight)| weight)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the lines of a text that another text lacks, in order.
    fn lines_only_in<'a>(text: &'a str, other: &str) -> Vec<&'a str> {
        text.lines()
            .filter(|line| !other.lines().any(|l| l == *line))
            .collect()
    }

    #[test]
    fn the_older_texts_differ_in_put_arrive_and_help_only() {
        let (older_domain, older) = domain_and_grammar(TextVersion::V2_1_1);
        let (newer_domain, newer) = domain_and_grammar(TextVersion::V2_1_3);
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
        assert_eq!(
            lines_only_in(without_help, older),
            [
                r##"        "arrival": [{"rhs": "You arrive at {r.name}. #contents#"}],"##,
                r#"        "moving": [{"rhs": "You move the {o.name} to the {r.name}."}],"#,
                r##"action Move { template :: "move {o} to {r}"; feedback :: "#moving#"; }"##,
            ]
        );
        assert_eq!(
            lines_only_in(older, without_help),
            [
                r##"        "arrival": [{"rhs": "You arrive at {to.name}. #contents#"}],"##,
                r#"        "moving": [{"rhs": "You put the {o.name} in/on the {r.name}."}],"#,
                r##"action Move { template :: "put {o} in/on {r}"; feedback :: "#moving#"; }"##,
            ]
        );
    }
}
