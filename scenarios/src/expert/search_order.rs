//! The order in which the expert considers receptacles: which one to search, approach or use next.

use super::habits;
use super::room::RoomBelief;
use super::text::{self, ExpertGoal, SeenDoor};
use crate::seed;
use std::cmp::Reverse;

/// The order of the receptacles of a room for one seed.
#[derive(Debug, Clone, Copy)]
pub(super) struct SearchOrder<'a> {
    pub(super) seed: u64,
    pub(super) room: &'a RoomBelief,
}

impl SearchOrder<'_> {
    /// Returns the receptacle with the highest expected gain that was not searched yet, or `None`
    /// if all were searched. If `goal` is given, receptacles of the target type count as unlikely.
    pub(super) fn most_promising(&self, object: &str, goal: Option<&ExpertGoal>) -> Option<usize> {
        self.room
            .indices()
            .filter(|place| !self.room.places[*place].searched)
            .min_by(|a, b| {
                let gain_of_a = self.gain(object, self.room.places[*a].kind(), goal);
                let gain_of_b = self.gain(object, self.room.places[*b].kind(), goal);
                gain_of_b
                    .total_cmp(&gain_of_a)
                    .then(self.tie_break(*a).cmp(&self.tie_break(*b)))
            })
    }

    /// Returns the expected gain of one turn spent on a receptacle of this type: the percentage
    /// that holds the object, divided by the turns that a look costs. The seed changes it by up to
    /// a sixth.
    fn gain(&self, object: &str, kind: &str, goal: Option<&ExpertGoal>) -> f64 {
        let turns = if habits::usually_closed(kind) {
            2.0
        } else {
            1.0
        };
        let percent = if goal.is_some_and(|goal| goal.is_settled_in(kind)) {
            0.01
        } else {
            habits::percent(object, kind)
        };
        let noise = u16::try_from(seed::of_word(self.seed, kind) % 1000)
            .map_or(0.0, |draw| (f64::from(draw) - 500.0) / 3000.0);
        percent / turns * (1.0 + noise)
    }

    /// Returns the best receptacle of a type into which to put `object`. If the goal needs two
    /// objects, it is the one that already holds most of them. Otherwise one at hand comes first,
    /// then one whose door is not known to be closed.
    pub(super) fn nearest(&self, kind: &str, object: &str, goal: &ExpertGoal) -> Option<usize> {
        self.room
            .indices()
            .filter(|index| {
                let place = &self.room.places[*index];
                place.kind() == kind && !place.refuses(object)
            })
            .min_by_key(|index| self.target_rank(*index, goal))
    }

    fn target_rank(&self, index: usize, goal: &ExpertGoal) -> (Reverse<usize>, bool, bool, u64) {
        let place = &self.room.places[index];
        let count = if goal.count > 1 {
            place.count(&goal.object)
        } else {
            0
        };
        // If a receptacle holds an object, it stays the target wherever the agent is. Otherwise the
        // target would alternate between two such receptacles.
        let is_away = count == 0 && !self.room.is_here(index);
        let is_closed = count == 0 && place.door == SeenDoor::Closed;
        (Reverse(count), is_away, is_closed, self.tie_break(index))
    }

    /// Returns an object that was seen and its receptacle; one at hand comes first.
    pub(super) fn find(&self, wanted: impl Fn(&str) -> bool) -> Option<(String, usize)> {
        let mut found = Vec::new();
        for index in self.room.indices() {
            let objects = &self.room.places[index].objects;
            found.extend(
                objects
                    .iter()
                    .filter(|object| wanted(object))
                    .map(|object| (object, index)),
            );
        }
        let (object, index) = found
            .into_iter()
            .min_by_key(|(_, index)| (!self.room.is_here(*index), self.tie_break(*index)))?;
        Some((object.clone(), index))
    }

    /// Returns the rank of a receptacle among others of its type: by number, ascending or
    /// descending. The seed selects which.
    ///
    /// A single order for all seeds would be easier to imitate, but a model would learn less from
    /// it: if the route is always the same, the model does not learn to read the observation
    /// (results/LOG.md).
    fn tie_break(&self, index: usize) -> u64 {
        let place = &self.room.places[index];
        let number = text::number(&place.name);
        if seed::of_word(self.seed, place.kind()) & 1024 == 0 {
            u64::MAX - number
        } else {
            number
        }
    }
}
