//! The distance to the goal: the length of a plan found by A* over the commands of relaxed plans.
//!
//! The search continues a state only with the commands of its relaxed plan that are admissible.
//! These are some of FF's helpful actions. This makes the search fast, but it can miss a shorter
//! plan; h_FF can overestimate, which has the same effect. The search reads the hidden state and
//! contains nothing about kitchens. See `relaxed` for the relaxed plan.
//!
//! If the search finds no plan, the result is the length of the relaxed plan.

use super::relaxed::Relaxed;
use super::simulator::{GameState, NativeGame};
use rustc_hash::FxHashSet;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The largest number of states that a search visits.
const STATE_LIMIT: usize = 500;

impl NativeGame {
    /// Returns an estimate of the fewest commands from a state to the goal. It is the length of a
    /// plan that leads there, so it is rarely more than the shortest plan.
    ///
    /// The result is 0 if and only if the goal holds. It is `usize::MAX` if the goal is out of
    /// reach even if nothing that was true could become false.
    ///
    /// # Panics
    /// Panics if `state` belongs to another game.
    #[must_use]
    pub fn remaining(&self, state: &GameState) -> usize {
        self.assert_own(state);
        if self.won(state) {
            return 0;
        }
        to_goal(self, self.relaxed(), state)
    }
}

/// A state that the search has reached.
struct PlanNode {
    state: GameState,
    commands: usize,
    /// The operators of its relaxed plan.
    relaxed: Vec<u32>,
}

/// Returns the number of commands to the goal from a state in which it does not hold. See the head
/// of this file.
fn to_goal(game: &NativeGame, relaxed: &Relaxed, state: &GameState) -> usize {
    let Some(plan) = relaxed.plan(game.truth(state)) else {
        return usize::MAX;
    };
    let estimate = plan.len().max(1);
    let mut seen: FxHashSet<Box<[u64]>> = FxHashSet::default();
    seen.insert(game.truth(state).into());
    let mut nodes = vec![PlanNode {
        state: state.clone(),
        commands: 0,
        relaxed: plan,
    }];
    let mut open = BinaryHeap::from([Reverse((estimate, estimate, 0))]);
    while let Some(Reverse((_, _, index))) = open.pop() {
        if game.won(&nodes[index].state) {
            return nodes[index].commands;
        }
        for operator in std::mem::take(&mut nodes[index].relaxed) {
            if nodes.len() >= STATE_LIMIT {
                break;
            }
            let node = &nodes[index];
            let Some(command) = game.command_of(&node.state, operator) else {
                continue;
            };
            let commands = node.commands + 1;
            let mut next = node.state.clone();
            game.apply(&mut next, command);
            if !seen.insert(game.truth(&next).into()) {
                continue;
            }
            let plan = if game.won(&next) {
                Some(Vec::new())
            } else {
                relaxed.plan(game.truth(&next))
            };
            let Some(plan) = plan else { continue };
            open.push(Reverse((commands + plan.len(), plan.len(), nodes.len())));
            nodes.push(PlanNode {
                state: next,
                commands,
                relaxed: plan,
            });
        }
    }
    estimate
}
