//! The shortest walkthrough of a game, by exact search over a reduced house.
//!
//! A plan that wins needs only one object (two for the two-object task), one destination, and one
//! tool or lamp. If all commands about other things are removed from it, it still wins. So a
//! breadth-first search over those receptacles alone, for every choice of them, finds a shortest
//! plan. A test compares it with a search over the whole house.

use super::goal::{Goal, House};
use super::layout::Door;
use crate::task::TaskType;
use crate::text_version::TextVersion;
use std::collections::{HashMap, VecDeque};

/// Returns the fewest commands that win, in the given text version. Returns `None` if the game
/// cannot be won, and an empty list if the goal holds at the start.
pub(super) fn walkthrough(house: House, goal: &Goal, text: TextVersion) -> Option<Vec<String>> {
    let best = scopes(house, goal)
        .into_iter()
        .filter_map(|scope| PlanSearch { house, goal, scope }.shortest())
        .min_by_key(Vec::len)?;
    Some(
        best.into_iter()
            .map(|command| command.text(house, goal, text))
            .collect(),
    )
}

/// The receptacles and objects that a search uses: indices into a house.
#[derive(Debug, Clone)]
struct PlanScope {
    spots: Vec<usize>,
    objects: Vec<usize>,
}

/// Returns one scope for every choice of objects, destination and tool.
fn scopes(house: House, goal: &Goal) -> Vec<PlanScope> {
    let targets: Vec<usize> = indices(house.objects, |object| object.kind == goal.target);
    let carried: Vec<Vec<usize>> = match goal.task_type {
        TaskType::PickTwoObjAndPlace => pairs(&targets),
        _ => targets.iter().map(|&object| vec![object]).collect(),
    };
    let destinations = optional(indices(house.receptacles, |spot| {
        Some(spot.kind) == goal.parent
    }));
    let tools = optional(match goal.task_type {
        TaskType::LookAtObjInLight => {
            indices(house.objects, |object| Some(object.kind) == goal.lamp)
                .into_iter()
                .map(|lamp| house.objects[lamp].place)
                .collect()
        }
        _ => indices(house.receptacles, |spot| {
            goal.treatment.is_some() && spot.kind.does == goal.treatment
        }),
    });
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
                scopes.push(PlanScope {
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

/// Returns the items as choices. If there are none, the only choice is `None`.
fn optional(items: Vec<usize>) -> Vec<Option<usize>> {
    if items.is_empty() {
        vec![None]
    } else {
        items.into_iter().map(Some).collect()
    }
}

/// Most objects that a search can track.
const OBJECTS: usize = 4;
/// The position of an agent that is at no receptacle of the scope.
const NOWHERE: u8 = u8::MAX;
/// The place of a held object.
const HAND: u8 = u8::MAX - 1;

/// The positions of the agent and the objects; all numbers index a [`PlanScope`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct PlanState {
    at: u8,
    places: [u8; OBJECTS],
    /// One bit per object: whether it has been heated, cooled or cleaned, as the task requires.
    treated: u8,
    /// One bit per spot: whether its door is open.
    open: u64,
    lit: bool,
}

/// A command with indices into a house: objects before receptacles.
#[derive(Debug, Clone, Copy)]
enum PlanCommand {
    GoTo(usize),
    Open(usize),
    Take(usize, usize),
    Move(usize, usize),
    Treat(usize, usize),
    Use(usize),
}

/// A breadth-first search for one goal within one scope.
struct PlanSearch<'a> {
    house: House<'a>,
    goal: &'a Goal,
    scope: PlanScope,
}

impl PlanSearch<'_> {
    fn shortest(&self) -> Option<Vec<PlanCommand>> {
        let start = self.start();
        let mut came_from: HashMap<PlanState, Option<(PlanState, PlanCommand)>> =
            HashMap::from([(start, None)]);
        let mut queue = VecDeque::from([start]);
        while let Some(state) = queue.pop_front() {
            if self.wins(state) {
                return Some(path_to(&came_from, state));
            }
            for (command, next) in self.successors(state) {
                came_from.entry(next).or_insert_with(|| {
                    queue.push_back(next);
                    Some((state, command))
                });
            }
        }
        None
    }

    fn start(&self) -> PlanState {
        let mut places = [NOWHERE; OBJECTS];
        for (place, &object) in places.iter_mut().zip(&self.scope.objects) {
            let spot = self
                .scope
                .spots
                .iter()
                .position(|&spot| spot == self.house.objects[object].place);
            *place = spot.map_or(NOWHERE, |spot| spot as u8);
        }
        let mut open = 0;
        for (bit, &spot) in self.scope.spots.iter().enumerate() {
            open |= u64::from(self.house.receptacles[spot].door != Door::Closed) << bit;
        }
        PlanState {
            at: NOWHERE,
            places,
            treated: 0,
            open,
            lit: false,
        }
    }

    /// Returns the commands that change the state, with the states after them. Their order breaks
    /// ties: if it costs nothing, a lamp is switched on with the object already in hand.
    fn successors(&self, state: PlanState) -> Vec<(PlanCommand, PlanState)> {
        let mut next = Vec::new();
        for (at, &spot) in (0..).zip(&self.scope.spots) {
            if at != state.at {
                next.push((PlanCommand::GoTo(spot), PlanState { at, ..state }));
            }
        }
        let Some(&spot) = self.scope.spots.get(usize::from(state.at)) else {
            return next;
        };
        let open = state.open | 1 << state.at;
        if open != state.open {
            next.push((PlanCommand::Open(spot), PlanState { open, ..state }));
        }
        next.extend(self.by_hand(state, spot));
        if self.has_lamp(spot) && !state.lit {
            next.push((PlanCommand::Use(spot), PlanState { lit: true, ..state }));
        }
        next
    }

    /// Returns the commands that use the hand at `spot`, with the states after them.
    fn by_hand(&self, state: PlanState, spot: usize) -> Vec<(PlanCommand, PlanState)> {
        let kind = self.house.receptacles[spot].kind;
        let is_open = state.open >> state.at & 1 == 1;
        let mut next = Vec::new();
        if let Some(held) = state.places.iter().position(|&place| place == HAND) {
            let object = self.scope.objects[held];
            if kind.does.is_some() && kind.does == self.goal.treatment {
                let treated = state.treated | 1 << held;
                next.push((
                    PlanCommand::Treat(object, spot),
                    PlanState { treated, ..state },
                ));
            }
            if is_open && kind.holds(self.house.objects[object].kind.name) {
                next.push((
                    PlanCommand::Move(object, spot),
                    placed(state, held, state.at),
                ));
            }
        } else if is_open {
            for (index, &object) in self.scope.objects.iter().enumerate() {
                if state.places[index] == state.at {
                    next.push((PlanCommand::Take(object, spot), placed(state, index, HAND)));
                }
            }
        }
        next
    }

    fn has_lamp(&self, spot: usize) -> bool {
        let lamp = self.goal.lamp;
        lamp.is_some()
            && self
                .house
                .objects
                .iter()
                .any(|object| object.place == spot && Some(object.kind) == lamp)
    }

    fn wins(&self, state: PlanState) -> bool {
        match self.goal.task_type {
            TaskType::LookAtObjInLight => {
                let here = self.scope.spots.get(usize::from(state.at));
                here.is_some_and(|&spot| self.has_lamp(spot))
                    && state.lit
                    && state.places.contains(&HAND)
            }
            TaskType::PickTwoObjAndPlace => self.is_delivered(state, 2),
            _ => self.is_delivered(state, 1),
        }
    }

    /// Returns true if one receptacle of the target type holds at least `count` finished objects.
    fn is_delivered(&self, state: PlanState, count: usize) -> bool {
        self.scope.spots.iter().enumerate().any(|(spot, &index)| {
            Some(self.house.receptacles[index].kind) == self.goal.parent
                && self.finished_at(state, spot) >= count
        })
    }

    /// Returns the number of objects at `spot` that have been treated, if the goal has a treatment.
    fn finished_at(&self, state: PlanState, spot: usize) -> usize {
        (0..self.scope.objects.len())
            .filter(|&object| {
                let is_treated = self.goal.treatment.is_none() || state.treated >> object & 1 == 1;
                usize::from(state.places[object]) == spot && is_treated
            })
            .count()
    }
}

fn placed(mut state: PlanState, object: usize, place: u8) -> PlanState {
    state.places[object] = place;
    state
}

/// Returns the commands from the start to `state`.
fn path_to(
    came_from: &HashMap<PlanState, Option<(PlanState, PlanCommand)>>,
    mut state: PlanState,
) -> Vec<PlanCommand> {
    let mut commands = Vec::new();
    while let Some(Some((before, command))) = came_from.get(&state) {
        commands.push(*command);
        state = *before;
    }
    commands.reverse();
    commands
}

impl PlanCommand {
    fn text(self, house: House, goal: &Goal, text: TextVersion) -> String {
        match self {
            Self::GoTo(at) => format!("go to {}", receptacle_name(house, at)),
            Self::Open(at) => format!("open {}", receptacle_name(house, at)),
            Self::Take(what, at) => {
                let object = object_name(house, what);
                format!("take {object} from {}", receptacle_name(house, at))
            }
            Self::Move(what, at) => {
                text.put_command(object_name(house, what), receptacle_name(house, at))
            }
            Self::Treat(what, at) => {
                let object = object_name(house, what);
                format!(
                    "{} {object} with {}",
                    goal.verb(),
                    receptacle_name(house, at)
                )
            }
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

fn receptacle_name(house: House<'_>, index: usize) -> &str {
    &house.receptacles[index].name
}

fn object_name(house: House<'_>, index: usize) -> &str {
    &house.objects[index].name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::household::game;
    use crate::household::{Size, layouts};

    /// Returns the whole house as one scope: every receptacle, and every object of the target type.
    fn whole(house: House, goal: &Goal) -> Option<PlanScope> {
        let objects = indices(house.objects, |object| object.kind == goal.target);
        let spots = (0..house.receptacles.len()).collect();
        (objects.len() <= OBJECTS).then_some(PlanScope { spots, objects })
    }

    #[test]
    fn no_plan_over_the_whole_house_is_shorter() {
        let mut layouts = layouts(Size::Small);
        layouts.retain(|layout| {
            layout
                .receptacles
                .iter()
                .filter(|r| r.door == Door::Closed)
                .count()
                <= 3
        });
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
                let search = PlanSearch {
                    house,
                    goal: &goal,
                    scope,
                };
                let all = search.shortest().expect("solvable");
                let few = walkthrough(house, &goal, TextVersion::V2_1_3).expect("solvable");
                assert_eq!(all.len(), few.len(), "{few:?}");
                compared += 1;
            }
        }
        assert!(compared >= 10, "only {compared} games compared");
    }
}
