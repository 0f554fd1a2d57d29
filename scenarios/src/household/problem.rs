//! The PDDL problem of a game: its objects, its facts and its goal.

use super::catalog::{Trait, Use};
use super::goal::{Goal, House};
use super::layout::Door;
use crate::task::TaskType;
use std::collections::BTreeSet;
use std::fmt::Write as _;

const AGENT: &str = "agent1";
/// The middle of the room, outside the grid of every layout.
const START: &str = "loc_bar_50_bar_50";

/// Returns the whole problem, with every list sorted.
pub(super) fn text(house: House, goal: &Goal, trial: &str) -> String {
    let mut text = format!(
        "(define (problem {})\n    (:domain household)\n",
        trial.to_ascii_lowercase()
    );
    section(&mut text, "objects", declarations(house));
    section(&mut text, "init", facts(house));
    // Writing to a String cannot fail.
    let _ = write!(text, "    (:goal\n        {}\n    )\n)\n", goal_text(goal));
    text
}

fn section(text: &mut String, name: &str, lines: BTreeSet<String>) {
    let _ = writeln!(text, "    (:{name}"); // writing to a String cannot fail
    for line in lines {
        let _ = writeln!(text, "        {line}");
    }
    text.push_str("    )\n");
}

fn declarations(house: House) -> BTreeSet<String> {
    let mut lines = BTreeSet::from([format!("{AGENT} - agent"), format!("{START} - location")]);
    for receptacle in house.receptacles {
        lines.insert(format!("{} - receptacle", receptacle.id));
        lines.insert(format!("{} - location", receptacle.location));
        lines.insert(format!("{}type - rtype", receptacle.kind.name));
    }
    for object in house.objects {
        lines.insert(format!("{} - item", object.id));
        lines.insert(format!("{}type - otype", object.kind.name));
    }
    lines
}

fn facts(house: House) -> BTreeSet<String> {
    let mut facts = BTreeSet::from([format!("(atLocation {AGENT} {START})")]);
    for receptacle in house.receptacles {
        let id = &receptacle.id;
        facts.insert(format!(
            "(receptacleAtLocation {id} {})",
            receptacle.location
        ));
        facts.insert(format!(
            "(receptacleType {id} {}type)",
            receptacle.kind.name
        ));
        facts.extend(
            door_facts(receptacle.door)
                .iter()
                .map(|predicate| format!("({predicate} {id})")),
        );
        facts.extend(
            receptacle
                .kind
                .does
                .map(|does| format!("({} {id})", use_predicate(does))),
        );
        for object in house
            .objects
            .iter()
            .filter(|object| receptacle.kind.holds(object.kind.name))
        {
            facts.insert(format!(
                "(canContain {}type {}type)",
                receptacle.kind.name, object.kind.name
            ));
        }
    }
    for object in house.objects {
        let id = &object.id;
        facts.insert(format!("(objectType {id} {}type)", object.kind.name));
        facts.insert(format!(
            "(inReceptacle {id} {})",
            house.receptacles[object.place].id
        ));
        facts.extend(
            object
                .kind
                .traits
                .iter()
                .filter_map(|&which| Some(format!("({} {id})", trait_predicate(which)?))),
        );
        if object.kind.pickupable() {
            facts.insert(format!("(pickupable {id})"));
        }
    }
    facts
}

fn door_facts(door: Door) -> &'static [&'static str] {
    match door {
        Door::Absent => &[],
        Door::Closed => &["openable"],
        Door::Open => &["openable", "opened"],
    }
}

fn use_predicate(does: Use) -> &'static str {
    match does {
        Use::Heats => "heats",
        Use::Cools => "cools",
        Use::Cleans => "cleans",
    }
}

fn trait_predicate(which: Trait) -> Option<&'static str> {
    match which {
        Trait::Cleanable => Some("cleanable"),
        Trait::Heatable => Some("heatable"),
        Trait::Coolable => Some("coolable"),
        Trait::Sliceable => Some("sliceable"),
        Trait::Blade => Some("blade"),
        Trait::Vessel => Some("vessel"),
        Trait::Lamp => Some("toggleable"),
        Trait::Fixed => None,
    }
}

fn goal_text(goal: &Goal) -> String {
    let target = format!("{}type", goal.target.name);
    let parent = goal
        .parent
        .map_or(String::new(), |parent| format!("{}type", parent.name));
    let lamp = goal
        .lamp
        .map_or(String::new(), |lamp| format!("{}type", lamp.name));
    let became = match goal.treatment {
        Some(Use::Heats) => " (isHot ?o)",
        Some(Use::Cools) => " (isCool ?o)",
        Some(Use::Cleans) => " (isClean ?o)",
        None => "",
    };
    match goal.task_type {
        TaskType::LookAtObjInLight => format!(
            "(and (exists (?o - item ?a - agent) (and (objectType ?o {target}) (holds ?a ?o))) \
             (exists (?o - item ?r - receptacle ?a - agent ?l - location) (and (objectType ?o {lamp}) (isToggled ?o) \
             (inReceptacle ?o ?r) (receptacleAtLocation ?r ?l) (atLocation ?a ?l))))"
        ),
        TaskType::PickTwoObjAndPlace => format!(
            "(exists (?r - receptacle ?o1 - item ?o2 - item) (and (not (= ?o1 ?o2)) (receptacleType ?r {parent}) \
             (objectType ?o1 {target}) (inReceptacle ?o1 ?r) (objectType ?o2 {target}) (inReceptacle ?o2 ?r)))"
        ),
        _ => format!(
            "(exists (?r - receptacle ?o - item) (and (receptacleType ?r {parent}) (objectType ?o {target}) \
             (inReceptacle ?o ?r){became}))"
        ),
    }
}
