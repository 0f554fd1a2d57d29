//! The distance to the goal: the length of a plan found by A* over the commands of relaxed plans.
//!
//! The search continues a state only with the commands of its relaxed plan that are admissible.
//! These are some of FF's helpful actions. This makes the search fast, but it can miss a shorter
//! plan; h_FF can overestimate, which has the same effect. The search reads the hidden state and
//! contains nothing about kitchens. See `relaxed` for the relaxed plan.
//!
//! If the search finds no plan, the result is the length of the relaxed plan.

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
        let Some(relaxed) = self.relaxed().plan(self.truth(state)) else {
            return usize::MAX;
        };
        let estimate = relaxed.len().max(1);
        to_goal(self, state, relaxed).map_or(estimate, |plan| plan.len())
    }

    /// Returns the commands of the plan whose length [`NativeGame::remaining`] returns. The list is
    /// empty if the goal holds. Returns `None` if the search finds no plan.
    ///
    /// # Panics
    /// Panics if `state` belongs to another game.
    #[must_use]
    pub fn plan(&self, state: &GameState) -> Option<Vec<&str>> {
        self.assert_own(state);
        if self.won(state) {
            return Some(Vec::new());
        }
        let relaxed = self.relaxed().plan(self.truth(state))?;
        let plan = to_goal(self, state, relaxed)?;
        Some(
            plan.into_iter()
                .map(|command| self.command(command))
                .collect(),
        )
    }
}

/// A state that the search has reached.
struct PlanNode {
    state: GameState,
    commands: usize,
    /// The index of the state before it, and the command that led here.
    from: Option<(usize, usize)>,
    /// The operators of its relaxed plan.
    relaxed: Vec<u32>,
}

/// Returns the commands from a state in which the goal does not hold to the goal, or `None` if the
/// search finds no plan. `plan` is the relaxed plan of the state. See the head of this file.
fn to_goal(game: &NativeGame, state: &GameState, plan: Vec<u32>) -> Option<Vec<usize>> {
    let relaxed = game.relaxed();
    let estimate = plan.len().max(1);
    let mut seen: FxHashSet<Box<[u64]>> = FxHashSet::default();
    seen.insert(game.truth(state).into());
    let mut nodes = vec![PlanNode {
        state: state.clone(),
        commands: 0,
        from: None,
        relaxed: plan,
    }];
    let mut open = BinaryHeap::from([Reverse((estimate, estimate, 0))]);
    while let Some(Reverse((_, _, index))) = open.pop() {
        if game.won(&nodes[index].state) {
            return Some(commands_to(&nodes, index));
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
                from: Some((index, command)),
                relaxed: plan,
            });
        }
    }
    None
}

/// Returns the commands that led to a node, in the order of play.
fn commands_to(nodes: &[PlanNode], mut index: usize) -> Vec<usize> {
    let mut commands = Vec::with_capacity(nodes[index].commands);
    while let Some((before, command)) = nodes[index].from {
        commands.push(command);
        index = before;
    }
    commands.reverse();
    commands
}
