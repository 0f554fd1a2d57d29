//! The shortest walkthrough of a game, by exact search over an abstract house.
//!
//! A plan that wins uses one object (two for the two-object task), one destination, one tool or lamp: commands about anything
//! else can be struck from it and it still wins. So a breadth-first search over those receptacles alone, for every choice of
//! them, finds a plan as short as any. A test compares it with a search over the whole house.

use super::game::{Goal, Object};
use super::layout::{Door, Receptacle};
use crate::task::TaskType;
use crate::text_version::TextVersion;
use std::collections::{HashMap, VecDeque};

/// A room with its things.
#[derive(Debug, Clone, Copy)]
pub(super) struct House<'a> {
    pub(super) receptacles: &'a [Receptacle],
    pub(super) objects: &'a [Object],
}

/// What a search may touch: indices into a house.
#[derive(Debug, Clone)]
struct Scope {
    spots: Vec<usize>,
    objects: Vec<usize>,
}

/// Most objects a search can follow.
const OBJECTS: usize = 4;
/// Not at any receptacle; in nobody's hand.
const NOWHERE: u8 = u8::MAX;
const HAND: u8 = u8::MAX - 1;

/// Where the agent and the objects are; all numbers index a [`Scope`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct State {
    at: u8,
    places: [u8; OBJECTS],
    /// One bit an object: heated, cooled or cleaned, as the task asks.
    treated: u8,
    /// One bit a spot.
    open: u64,
    lit: bool,
}

#[derive(Debug, Clone, Copy)]
enum Command {
    GoTo(usize),
    Open(usize),
    Take(usize, usize),
    Move(usize, usize),
    Treat(usize, usize),
    Use(usize),
}

/// The fewest commands that win, in the words of a text version; `None` when nothing does, empty when the game starts won.
pub(super) fn walkthrough(house: House, goal: &Goal, text: TextVersion) -> Option<Vec<String>> {
    let best = scopes(house, goal)
        .iter()
        .filter_map(|scope| shortest(house, goal, scope))
        .min_by_key(Vec::len)?;
    Some(
        best.into_iter()
            .map(|command| command.text(house, goal, text))
            .collect(),
    )
}

/// One scope for every choice of objects, destination and tool.
fn scopes(house: House, goal: &Goal) -> Vec<Scope> {
    let targets: Vec<usize> = indices(house.objects, |object| object.kind == goal.target);
    let carried: Vec<Vec<usize>> = match goal.task_type {
        TaskType::PickTwoObjAndPlace => pairs(&targets),
        _ => targets.iter().map(|&object| vec![object]).collect(),
    };
    let destinations = optional(indices(house.receptacles, |spot| {
        Some(spot.kind) == goal.parent
    }));
    let tools = match goal.task_type {
        TaskType::LookAtObjInLight => {
            indices(house.objects, |object| Some(object.kind) == goal.lamp)
                .into_iter()
                .map(|lamp| house.objects[lamp].place)
                .collect()
        }
        _ => indices(house.receptacles, |spot| {
            goal.treatment.is_some() && spot.kind.does == goal.treatment
        }),
    };
    let tools = optional(tools);
    let mut scopes = Vec::new();
    for objects in &carried {
        for destination in &destinations {
            for tool in &tools {
                let mut spots: Vec<usize> = objects
                    .iter()
                    .map(|&object| house.objects[object].place)
                    .collect();
                spots.extend(destination.iter().chain(tool));
                spots.sort_unstable();
                spots.dedup();
                scopes.push(Scope {
                    spots,
                    objects: objects.clone(),
                });
            }
        }
    }
    scopes
}

fn indices<T>(items: &[T], wanted: impl Fn(&T) -> bool) -> Vec<usize> {
    (0..items.len())
        .filter(|&index| wanted(&items[index]))
        .collect()
}

fn pairs(items: &[usize]) -> Vec<Vec<usize>> {
    items
        .iter()
        .enumerate()
        .flat_map(|(i, &a)| items[i + 1..].iter().map(move |&b| vec![a, b]))
        .collect()
}

/// Each item, or the one choice of none.
fn optional(items: Vec<usize>) -> Vec<Option<usize>> {
    if items.is_empty() {
        vec![None]
    } else {
        items.into_iter().map(Some).collect()
    }
}

fn shortest(house: House, goal: &Goal, scope: &Scope) -> Option<Vec<Command>> {
    let start = start(house, scope);
    let mut came_from: HashMap<State, Option<(State, Command)>> = HashMap::from([(start, None)]);
    let mut queue = VecDeque::from([start]);
    while let Some(state) = queue.pop_front() {
        if wins(house, goal, scope, state) {
            return Some(unwind(&came_from, state));
        }
        for (command, next) in successors(house, goal, scope, state) {
            came_from.entry(next).or_insert_with(|| {
                queue.push_back(next);
                Some((state, command))
            });
        }
    }
    None
}

fn start(house: House, scope: &Scope) -> State {
    let mut places = [NOWHERE; OBJECTS];
    for (place, &object) in places.iter_mut().zip(&scope.objects) {
        let spot = scope
            .spots
            .iter()
            .position(|&spot| spot == house.objects[object].place);
        *place = spot.map_or(NOWHERE, |spot| spot as u8);
    }
    let mut open = 0;
    for (bit, &spot) in scope.spots.iter().enumerate() {
        open |= u64::from(house.receptacles[spot].door != Door::Closed) << bit;
    }
    State {
        at: NOWHERE,
        places,
        treated: 0,
        open,
        lit: false,
    }
}

fn unwind(came_from: &HashMap<State, Option<(State, Command)>>, mut state: State) -> Vec<Command> {
    let mut commands = Vec::new();
    while let Some(Some((before, command))) = came_from.get(&state) {
        commands.push(*command);
        state = *before;
    }
    commands.reverse();
    commands
}

/// The order settles ties: a lamp is switched on with the object already in hand, where that costs nothing.
fn successors(house: House, goal: &Goal, scope: &Scope, state: State) -> Vec<(Command, State)> {
    let mut next = Vec::new();
    for (at, &spot) in (0..).zip(&scope.spots) {
        if at != state.at {
            next.push((Command::GoTo(spot), State { at, ..state }));
        }
    }
    let Some(&spot) = scope.spots.get(usize::from(state.at)) else {
        return next;
    };
    let open = state.open | 1 << state.at;
    if open != state.open {
        next.push((Command::Open(spot), State { open, ..state }));
    }
    next.extend(by_hand(house, goal, scope, state, spot));
    if has_lamp(house, goal, spot) && !state.lit {
        next.push((Command::Use(spot), State { lit: true, ..state }));
    }
    next
}

/// What the hand can do at `spot`.
fn by_hand(
    house: House,
    goal: &Goal,
    scope: &Scope,
    state: State,
    spot: usize,
) -> Vec<(Command, State)> {
    let kind = house.receptacles[spot].kind;
    let is_open = state.open >> state.at & 1 == 1;
    let mut next = Vec::new();
    if let Some(held) = state.places.iter().position(|&place| place == HAND) {
        let object = scope.objects[held];
        if kind.does.is_some() && kind.does == goal.treatment {
            let treated = state.treated | 1 << held;
            next.push((Command::Treat(object, spot), State { treated, ..state }));
        }
        if is_open && kind.holds(house.objects[object].kind.name) {
            next.push((Command::Move(object, spot), placed(state, held, state.at)));
        }
    } else if is_open {
        for (index, &object) in scope.objects.iter().enumerate() {
            if state.places[index] == state.at {
                next.push((Command::Take(object, spot), placed(state, index, HAND)));
            }
        }
    }
    next
}

fn has_lamp(house: House, goal: &Goal, spot: usize) -> bool {
    let is_lamp = |object: &Object| object.place == spot && Some(object.kind) == goal.lamp;
    goal.lamp.is_some() && house.objects.iter().any(is_lamp)
}

fn placed(mut state: State, object: usize, place: u8) -> State {
    state.places[object] = place;
    state
}

fn wins(house: House, goal: &Goal, scope: &Scope, state: State) -> bool {
    let is_treated = |index: usize| goal.treatment.is_none() || state.treated >> index & 1 == 1;
    let arrived = |spot: usize| {
        let there = |&index: &usize| state.places[index] as usize == spot && is_treated(index);
        (0..scope.objects.len()).filter(there).count()
    };
    match goal.task_type {
        TaskType::LookAtObjInLight => {
            let here = scope.spots.get(usize::from(state.at));
            let in_light = here.is_some_and(|&spot| has_lamp(house, goal, spot));
            in_light && state.lit && state.places.contains(&HAND)
        }
        _ => {
            let wanted = if goal.task_type == TaskType::PickTwoObjAndPlace {
                2
            } else {
                1
            };
            let is_parent =
                |&spot: &usize| Some(house.receptacles[scope.spots[spot]].kind) == goal.parent;
            (0..scope.spots.len())
                .filter(is_parent)
                .any(|spot| arrived(spot) >= wanted)
        }
    }
}

impl Command {
    fn text(self, house: House, goal: &Goal, text: TextVersion) -> String {
        let spot = |index: usize| house.receptacles[index].name.as_str();
        let object = |index: usize| house.objects[index].name.as_str();
        match self {
            Self::GoTo(at) => format!("go to {}", spot(at)),
            Self::Open(at) => format!("open {}", spot(at)),
            Self::Take(what, at) => format!("take {} from {}", object(what), spot(at)),
            Self::Move(what, at) => text.put_command(object(what), spot(at)),
            Self::Treat(what, at) => format!("{} {} with {}", goal.verb(), object(what), spot(at)),
            Self::Use(at) => {
                let lamp = house
                    .objects
                    .iter()
                    .find(|lamp| lamp.place == at && Some(lamp.kind) == goal.lamp);
                format!("use {}", lamp.map_or("lamp", |lamp| lamp.name.as_str()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::household::{Layout, Size, game, layouts};

    /// The whole house at once: every receptacle, and every object of the target type.
    fn whole(house: House, goal: &Goal) -> Option<Scope> {
        let objects = indices(house.objects, |object| object.kind == goal.target);
        let spots = (0..house.receptacles.len()).collect();
        (objects.len() <= OBJECTS).then_some(Scope { spots, objects })
    }

    #[test]
    fn no_plan_over_the_whole_house_is_shorter() {
        let is_simple = |layout: &Layout| {
            layout
                .receptacles
                .iter()
                .filter(|r| r.door == Door::Closed)
                .count()
                <= 3
        };
        let layouts: Vec<_> = layouts(Size::Small).into_iter().filter(is_simple).collect();
        let mut compared = 0;
        for (index, layout) in layouts.iter().enumerate() {
            for task_type in TaskType::ALL {
                let Some((objects, goal)) = game::furnish(layout, task_type, index as u64) else {
                    continue;
                };
                let house = House {
                    receptacles: &layout.receptacles,
                    objects: &objects,
                };
                let targets = objects
                    .iter()
                    .filter(|object| object.kind == goal.target)
                    .count();
                if targets > 2 {
                    continue;
                }
                let scope = whole(house, &goal).expect("two objects fit");
                let all = shortest(house, &goal, &scope).expect("solvable");
                let few = walkthrough(house, &goal, TextVersion::V2_1_3).expect("solvable");
                assert_eq!(all.len(), few.len(), "{few:?}");
                compared += 1;
            }
        }
        assert!(compared >= 10, "only {compared} games compared");
    }
}
