//! One room variant: which receptacles and objects it has, where they are, and their numbers.

use super::facts::{NamedFact, ProblemFacts};
use crate::household::catalog::{self, ReceptacleType, Use};
use crate::household::rooms::RoomKind;
use crate::seed::SplitMix64;
use std::collections::{BTreeMap, BTreeSet};

/// Percentage of the receptacle types that the room has once and does not need, that are removed.
/// The same percentage of the types that can occur twice get a second one.
const SINGLE_CHANGES: u32 = 10;
/// Percentage of the rooms that get a receptacle type of their room type that they lacked.
const NEW_TYPE: u32 = 40;
/// Percentage of the objects that are removed, and of the object types that get one more.
const OBJECT_CHANGES: u32 = 20;
/// Percentage of the movable objects that are placed anew.
const MOVES: u32 = 75;
/// The largest number of receptacles, and of objects in them, as in ALFWorld's games.
const MOST: (usize, usize) = (54, 64);

/// What a goal needs: it must not be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct GoalNeeds {
    /// Type names that occur in the goal, without the ending `type`.
    kinds: BTreeSet<String>,
    /// Number of objects of each type in the goal.
    objects: usize,
    /// What must be done to the object.
    treatment: Option<Use>,
    /// Whether an object must be held under a lamp, so that it may start anywhere.
    is_examined: bool,
}

impl GoalNeeds {
    fn new(goal: &str) -> Self {
        let words = goal.split(|c: char| c.is_ascii_whitespace() || "()".contains(c));
        let kinds = words.filter_map(|word| word.strip_suffix("type"));
        let treatment = [
            ("(ishot", Use::Heats),
            ("(iscool", Use::Cools),
            ("(isclean", Use::Cleans),
        ];
        Self {
            kinds: kinds.map(str::to_owned).collect(),
            objects: if goal.contains("(=") { 2 } else { 1 },
            treatment: treatment
                .into_iter()
                .find(|(predicate, _)| goal.contains(predicate))
                .map(|(_, treatment)| treatment),
            is_examined: goal.contains("(holds"),
        }
    }

    fn has_receptacle(&self, kind: &str) -> bool {
        let does = catalog::receptacle_type(kind).and_then(|kind| kind.does);
        self.kinds.contains(kind) || (does.is_some() && does == self.treatment)
    }

    /// Returns true if an object of that type must not start in such a receptacle, because it would
    /// be delivered already.
    fn excludes(&self, object: &str, receptacle: &str) -> bool {
        self.treatment.is_none()
            && !self.is_examined
            && self.kinds.contains(object)
            && self.kinds.contains(receptacle)
    }
}

/// A receptacle or an object: its id and its type name without the ending `type`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct RoomThing {
    id: String,
    kind: String,
}

/// A room that is being changed.
pub(super) struct RoomEditor {
    problem: ProblemFacts,
    needs: GoalNeeds,
    rng: SplitMix64,
    /// Number of ids that were made.
    made: usize,
    /// Objects whose receptacle was removed.
    homeless: BTreeSet<String>,
}

/// Returns a variant of a problem, or `None` if this draw gives none: a needed object has no place,
/// or the room has the same receptacles as before.
pub(super) fn vary(problem: ProblemFacts, rng: SplitMix64) -> Option<ProblemFacts> {
    let needs = GoalNeeds::new(&problem.goal);
    let mut editor = RoomEditor {
        problem,
        needs,
        rng,
        made: 0,
        homeless: BTreeSet::new(),
    };
    let before = editor.receptacle_counts();
    editor.change_receptacles();
    editor.add_receptacle_type();
    if editor.receptacle_counts() == before {
        return None;
    }
    editor.change_objects();
    editor.place_objects()?;
    editor.renumber();
    Some(editor.problem)
}

impl RoomEditor {
    /// Returns the receptacles that have a location.
    fn receptacles(&self) -> Vec<RoomThing> {
        let placed: BTreeSet<&String> =
            self.problem.of("receptacleatlocation").map(first).collect();
        self.things("receptacletype", &placed)
    }

    /// Returns the objects that are in a receptacle.
    fn objects(&self) -> Vec<RoomThing> {
        let placed: BTreeSet<&String> = self.problem.of("inreceptacle").map(first).collect();
        let mut objects = self.things("objecttype", &placed);
        objects.retain(|object| !self.homeless.contains(&object.id));
        let homeless: BTreeSet<&String> = self.homeless.iter().collect();
        objects.extend(self.things("objecttype", &homeless));
        objects
    }

    fn things(&self, predicate: &str, among: &BTreeSet<&String>) -> Vec<RoomThing> {
        let typed = self.problem.of(predicate);
        typed
            .filter(|args| args.len() == 2 && among.contains(&args[0]))
            .map(|args| RoomThing {
                id: args[0].clone(),
                kind: kind_of(&args[1]).into(),
            })
            .collect()
    }

    fn receptacle_counts(&self) -> BTreeMap<String, usize> {
        counts(&self.receptacles())
    }

    fn is(&self, predicate: &str, id: &str) -> bool {
        self.problem.holds(predicate, &[id])
    }

    /// Returns an id of the same base name that no object has.
    fn new_id(&mut self, like: &str) -> String {
        self.made += 1;
        let base = like.split("_bar_").next().unwrap_or(like);
        let ending = ending(like).map_or(String::new(), |ending| format!("_bar_{ending}"));
        format!("{base}_bar_new{}{ending}", self.made)
    }

    /// Draws a new number of receptacles for every type of the room.
    fn change_receptacles(&mut self) {
        let receptacles = self.receptacles();
        let mut total = receptacles.len();
        for (kind, count) in counts(&receptacles) {
            let needed = usize::from(self.needs.has_receptacle(&kind));
            let wanted = self.draw_count(&kind, count, needed);
            let mut alike: Vec<&RoomThing> = receptacles
                .iter()
                .filter(|thing| thing.kind == kind)
                .collect();
            self.rng.shuffle(&mut alike);
            for receptacle in alike.iter().skip(wanted.max(needed)) {
                self.remove_receptacle(&receptacle.id);
                total -= 1;
            }
            for _ in count..wanted {
                if total < MOST.0
                    && let Some(like) = alike.first()
                {
                    self.copy_receptacle(&like.id);
                    total += 1;
                }
            }
        }
    }

    fn draw_count(&mut self, kind: &str, count: usize, needed: usize) -> usize {
        let most = most_in_a_room(kind).max(count);
        if count > 1 {
            return self
                .rng
                .within((count.div_ceil(2), most.min(count + count / 2)));
        }
        match self.rng.below(100) as u32 {
            draw if draw < SINGLE_CHANGES => needed,
            draw if draw < 2 * SINGLE_CHANGES => most.min(2),
            _ => 1,
        }
    }

    fn remove_receptacle(&mut self, id: &str) {
        let inside = self.problem.of("inreceptacle").filter(|args| args[1] == id);
        let inside: Vec<String> = inside.map(|args| args[0].clone()).collect();
        self.problem.remove(id);
        for object in inside {
            if !self
                .problem
                .of("inreceptacle")
                .any(|args| args[0] == object)
            {
                self.homeless.insert(object);
            }
        }
    }

    /// Adds an empty receptacle of the same type at a location of its own.
    fn copy_receptacle(&mut self, like: &str) {
        let id = self.new_id(like);
        let apart = ["inreceptacle", "receptacleatlocation"];
        self.problem.copy(like, &id, &apart);
        self.add_location(&id);
    }

    fn add_location(&mut self, receptacle: &str) {
        let location = self.new_id("loc");
        self.problem
            .objects
            .push((location.clone(), "location".into()));
        self.add("receptacleatlocation", &[receptacle, &location]);
    }

    fn add(&mut self, predicate: &str, args: &[&str]) {
        self.problem.facts.push(NamedFact::new(predicate, args));
    }

    /// Adds one receptacle of a type that rooms of this room type can have and this one lacks.
    fn add_receptacle_type(&mut self) {
        let there = self.receptacle_counts();
        let total: usize = there.values().sum();
        let Some(room) = room_kind(&there).filter(|_| self.rng.percent(NEW_TYPE)) else {
            return;
        };
        let lacking: Vec<&ReceptacleType> = room
            .furniture()
            .iter()
            .filter_map(|furniture| catalog::receptacle_type(furniture.name))
            .filter(|kind| kind.does.is_none() && !there.contains_key(kind.name))
            .collect();
        let Some(&kind) = self.rng.pick(&lacking).filter(|_| total < MOST.0) else {
            return;
        };
        let type_name = format!("{}type", kind.name);
        if self
            .problem
            .objects
            .iter()
            .all(|(name, _)| *name != type_name)
        {
            self.problem
                .objects
                .push((type_name.clone(), "rtype".into()));
        }
        let id = match kind.name.strip_suffix("basin") {
            Some(stem) => self.new_id(&format!("{stem}_bar_{}", kind.name)),
            None => self.new_id(kind.name),
        };
        self.problem.objects.push((id.clone(), "receptacle".into()));
        self.add("receptacletype", &[&id, &type_name]);
        if kind.openable {
            self.add("openable", &[&id]);
        }
        self.add_location(&id);
        // If no receptacle of this game may contain an object type, the new one may not either.
        let containable: BTreeSet<String> = self
            .problem
            .of("cancontain")
            .map(|args| args[1].clone())
            .filter(|object| kind.holds(kind_of(object)))
            .collect();
        for object in containable {
            self.add("cancontain", &[&type_name, &object]);
        }
    }

    /// Removes and adds objects. The goal keeps as many as it needs.
    fn change_objects(&mut self) {
        let objects = self.objects();
        let mut left = counts(&objects);
        let mut total = objects.len();
        for object in &objects {
            let needed = self.needed(&object.kind);
            let count = left.entry(object.kind.clone()).or_default();
            if *count > needed && self.rng.percent(OBJECT_CHANGES) {
                *count -= 1;
                total -= 1;
                self.homeless.remove(&object.id);
                self.problem.remove(&object.id);
            }
        }
        for kind in counts(&objects).into_keys() {
            let mut alike = objects.iter().filter(|object| object.kind == kind);
            let model = alike.find(|object| self.is("pickupable", &object.id));
            if let Some(model) = model
                && total < MOST.1
                && self.rng.percent(OBJECT_CHANGES)
                && self
                    .problem
                    .objects
                    .iter()
                    .any(|(name, _)| *name == model.id)
            {
                let id = self.new_id(&model.id);
                let apart = ["inreceptacle", "inreceptacleobject", "objectatlocation"];
                self.problem.copy(&model.id, &id, &apart);
                self.homeless.insert(id);
                total += 1;
            }
        }
    }

    fn needed(&self, kind: &str) -> usize {
        if self.needs.kinds.contains(kind) {
            self.needs.objects
        } else {
            0
        }
    }

    /// Places most movable objects anew, and all whose receptacle was removed. Returns `None` if an
    /// object that the goal needs has no place.
    fn place_objects(&mut self) -> Option<()> {
        let receptacles = self.receptacles();
        for object in self.objects() {
            let is_homeless = self.homeless.contains(&object.id);
            let is_lamp = self.is("toggleable", &object.id);
            let is_movable = is_lamp || self.is("pickupable", &object.id);
            let stays = !is_homeless && (!is_movable || !self.rng.percent(MOVES));
            if stays {
                continue;
            }
            let weights = self.weights(&object, is_lamp, &receptacles);
            match self.rng.weighted(&weights) {
                Some(index) if is_movable => self.place(&object.id, &receptacles[index].id),
                _ if !is_homeless => {}
                _ if self.needed(&object.kind) > 0 => return None,
                _ => self.problem.remove(&object.id),
            }
        }
        Some(())
    }

    /// Returns how likely each receptacle is for an object: the prior of the catalog, divided among
    /// receptacles of one type. If the catalog gives none, all that may contain it are equal.
    fn weights(&self, object: &RoomThing, is_lamp: bool, receptacles: &[RoomThing]) -> Vec<u32> {
        let alike = counts(receptacles);
        let object_type = format!("{}type", object.kind);
        let allowed: Vec<bool> = receptacles
            .iter()
            .map(|receptacle| {
                let receptacle_type = format!("{}type", receptacle.kind);
                let may_contain = is_lamp
                    || self
                        .problem
                        .holds("cancontain", &[&receptacle_type, &object_type]);
                may_contain && !self.needs.excludes(&object.kind, &receptacle.kind)
            })
            .collect();
        let weights: Vec<u32> = receptacles
            .iter()
            .zip(&allowed)
            .map(|(receptacle, &is_allowed)| {
                let prior = catalog::prior(&object.kind, &receptacle.kind);
                let share = prior / alike[&receptacle.kind] as f64;
                if is_allowed { (1e6 * share) as u32 } else { 0 }
            })
            .collect();
        if is_lamp || weights.iter().any(|&weight| weight > 0) {
            return weights;
        }
        allowed.into_iter().map(u32::from).collect()
    }

    fn place(&mut self, object: &str, receptacle: &str) {
        let had_location = self.problem.of("objectatlocation").next().is_some();
        self.problem.facts.retain(|fact| {
            let is_place = match fact.predicate.as_str() {
                "inreceptacle" | "objectatlocation" => fact.args[0] == object,
                "inreceptacleobject" => fact.args.iter().any(|arg| arg == object),
                _ => false,
            };
            !is_place
        });
        self.add("inreceptacle", &[object, receptacle]);
        let location = self
            .problem
            .of("receptacleatlocation")
            .find(|args| args[0] == receptacle)
            .map(|args| args[1].clone());
        if let Some(location) = location.filter(|_| had_location) {
            self.add("objectatlocation", &[object, &location]);
        }
    }

    /// Gives every numbered thing a random id, so that the numbers in its name change too. The base
    /// name stays, and so does a last word such as `sinkbasin`.
    fn renumber(&mut self) {
        let Self { problem, rng, .. } = self;
        let mut taken = BTreeSet::new();
        let mut names = BTreeMap::new();
        for (id, kind) in &problem.objects {
            if !id.contains("_bar_") {
                continue;
            }
            let base = id.split("_bar_").next().unwrap_or(id);
            let ending = ending(id).map_or(String::new(), |ending| format!("_bar_{ending}"));
            let name = loop {
                let numbers: Vec<String> = match kind.as_str() {
                    "location" => (0..4).map(|_| whole(rng)).collect(),
                    _ => (0..3).map(|_| decimal(rng)).collect(),
                };
                let name = format!("{base}_bar_{}{ending}", numbers.join("_bar_"));
                if taken.insert(name.clone()) {
                    break name;
                }
            };
            names.insert(id.clone(), name);
        }
        problem.rename(&names);
    }
}

/// Returns a coordinate in the form of ALFWorld's ids, such as `_minus_01_dot_25`.
fn decimal(rng: &mut SplitMix64) -> String {
    let sign = if rng.percent(50) { "plus" } else { "minus" };
    format!("_{sign}_{:02}_dot_{:02}", rng.below(10), rng.below(100))
}

/// Returns a coordinate in the form of ALFWorld's locations, such as `_minus_7` or `12`.
fn whole(rng: &mut SplitMix64) -> String {
    let sign = if rng.percent(50) { "" } else { "_minus_" };
    format!("{sign}{}", rng.below(31))
}

/// Returns the last part of an id, if it is a word such as `sinkbasin` and not a coordinate.
fn ending(id: &str) -> Option<&str> {
    let (_, ending) = id.rsplit_once("_bar_")?;
    ending.ends_with("basin").then_some(ending)
}

/// Returns the name of a type without its ending: `mug` of `mugtype`.
fn kind_of(type_name: &str) -> &str {
    type_name.strip_suffix("type").unwrap_or(type_name)
}

fn first(args: &[String]) -> &String {
    &args[0]
}

fn counts(things: &[RoomThing]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for thing in things {
        *counts.entry(thing.kind.clone()).or_default() += 1;
    }
    counts
}

/// Returns the most receptacles of a type that a full-size room has. If the type is unknown,
/// returns 1.
fn most_in_a_room(kind: &str) -> usize {
    let furniture = RoomKind::ALL.into_iter().flat_map(RoomKind::furniture);
    let most = furniture
        .filter(|entry| entry.name == kind)
        .map(|entry| entry.full.1);
    most.max().unwrap_or(1)
}

/// Returns the room type that the receptacles show.
fn room_kind(there: &BTreeMap<String, usize>) -> Option<RoomKind> {
    [
        ("fridge", RoomKind::Kitchen),
        ("toilet", RoomKind::Bathroom),
        ("bed", RoomKind::Bedroom),
        ("sofa", RoomKind::Living),
    ]
    .into_iter()
    .find(|(kind, _)| there.contains_key(*kind))
    .map(|(_, room)| room)
}
