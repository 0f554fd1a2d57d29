//! The delete relaxation of a game, and its relaxed plans.
//!
//! In the relaxation a fact that has become true stays true; this includes negative conditions. The
//! costs of facts are h_add (Bonet & Geffner, "Planning as heuristic search", Artificial
//! Intelligence 129, 2001). The relaxed plan consists of the cheapest supporters of the goal, which
//! gives h_FF (Hoffmann & Nebel, "The FF planning system", JAIR 14, 2001).
//!
//! The cost of a false derived atom is taken to be 0, because no single effect makes it false.

use super::bits::bit;
use super::ground::{ALWAYS, Grounded, Setting, setting};
use super::lists::Lists;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// In place of the rule of a fact: the fact holds in the start state.
const GIVEN: u32 = u32::MAX;
/// In place of a cost: unknown. In place of the operator of a rule: the rule has none.
const NONE: u32 = u32::MAX;

/// The delete relaxation of a game: rules that only add facts. A fact is a [`Setting`].
#[derive(Debug)]
pub(crate) struct Relaxed {
    /// By rule: its conditions.
    conditions: Lists<Setting>,
    /// By rule: its effects.
    effects: Lists<Setting>,
    /// By rule: its operator, or [`NONE`] if it is a conjunction of a derived atom, which costs 0.
    operators: Vec<u32>,
    /// By fact: the rules that have it as a condition.
    watchers: Lists<u32>,
    /// The number of fluents. The atoms after them are derived.
    fluents: u32,
    atoms: u32,
    goal: Setting,
}

impl Relaxed {
    /// Builds the relaxation, reduced to the rules and effects that the goal depends on.
    pub(crate) fn new(grounded: &Grounded) -> Self {
        let mut relaxed = Self {
            conditions: Lists::default(),
            effects: Lists::default(),
            operators: Vec::new(),
            watchers: Lists::default(),
            fluents: grounded.fluents as u32,
            atoms: (grounded.fluents + grounded.derived) as u32,
            goal: setting(grounded.goal, true),
        };
        let operators = grounded.actions.len();
        for operator in 0..operators {
            let conditions = grounded.conditions.get(operator);
            let effects = grounded.effects.get(operator);
            let plain = effects.iter().filter(|effect| effect.condition == ALWAYS);
            relaxed.push(
                operator as u32,
                conditions.to_vec(),
                plain.map(|effect| effect.setting).collect(),
            );
            for effect in effects.iter().filter(|effect| effect.condition != ALWAYS) {
                let own = grounded.effect_conditions.get(effect.condition as usize);
                relaxed.push(
                    operator as u32,
                    [conditions, own].concat(),
                    vec![effect.setting],
                );
            }
        }
        for (conjunction, atom) in grounded.supports.iter().enumerate() {
            let conditions = grounded.conditions.get(operators + conjunction).to_vec();
            relaxed.push(NONE, conditions, vec![setting(*atom, true)]);
        }
        relaxed.keep_relevant_rules();
        relaxed
    }

    fn push(&mut self, operator: u32, mut conditions: Vec<Setting>, effects: Vec<Setting>) {
        conditions.sort_unstable();
        conditions.dedup();
        self.conditions.push(conditions);
        self.effects.push(effects);
        self.operators.push(operator);
    }

    /// Drops the rules and effects that the goal does not depend on, and builds the watchers.
    fn keep_relevant_rules(&mut self) {
        let facts = 2 * self.atoms as usize;
        let makers = by_fact(facts, &self.effects);
        let mut is_required = vec![false; facts];
        let mut is_relevant = vec![false; self.operators.len()];
        let mut open = vec![self.goal];
        is_required[self.goal as usize] = true;
        while let Some(fact) = open.pop() {
            for rule in makers.get(fact as usize) {
                if std::mem::replace(&mut is_relevant[*rule as usize], true) {
                    continue;
                }
                for condition in self.conditions.get(*rule as usize) {
                    if !std::mem::replace(&mut is_required[*condition as usize], true) {
                        open.push(*condition);
                    }
                }
            }
        }
        let operators = std::mem::take(&mut self.operators);
        let conditions = std::mem::take(&mut self.conditions);
        let effects = std::mem::take(&mut self.effects);
        for rule in (0..operators.len()).filter(|rule| is_relevant[*rule]) {
            let required = effects
                .get(rule)
                .iter()
                .copied()
                .filter(|effect| is_required[*effect as usize]);
            let required = required.collect();
            self.push(operators[rule], conditions.get(rule).to_vec(), required);
        }
        self.watchers = by_fact(facts, &self.conditions);
    }

    /// Returns the operators of a relaxed plan, ascending, from a state with this truth of atoms.
    /// Returns `None` if there is no relaxed plan.
    pub(crate) fn plan(&self, truth: &[u64]) -> Option<Vec<u32>> {
        let supporters = self.supporters(truth)?;
        let mut operators = Vec::new();
        let mut is_done = vec![false; supporters.len()];
        let mut open = vec![self.goal];
        while let Some(fact) = open.pop() {
            let rule = supporters[fact as usize];
            if rule == GIVEN || std::mem::replace(&mut is_done[fact as usize], true) {
                continue;
            }
            operators.push(self.operators[rule as usize]);
            open.extend(self.conditions.get(rule as usize));
        }
        operators.sort_unstable();
        operators.dedup();
        operators.pop_if(|last| *last == NONE);
        Some(operators)
    }

    /// Returns, by fact, the cheapest rule that adds it, as far as the goal needs it. Returns
    /// `None` if no rules add the goal.
    fn supporters(&self, truth: &[u64]) -> Option<Vec<u32>> {
        let facts = 2 * self.atoms as usize;
        let mut costs = FactCosts {
            relaxed: self,
            costs: vec![NONE; facts],
            supporters: vec![GIVEN; facts],
            queue: BinaryHeap::new(),
        };
        // By rule: the number of conditions without a final cost, and the sum of the other costs.
        let mut open_rules: Vec<(u32, u32)> = (0..self.operators.len())
            .map(|rule| (self.conditions.get(rule).len() as u32, 0))
            .collect();
        for atom in 0..self.atoms {
            let holds = bit(truth, atom);
            costs.give(setting(atom, holds));
            if holds && atom >= self.fluents {
                costs.give(setting(atom, false));
            }
        }
        for (rule, (unmet, _)) in open_rules.iter().enumerate() {
            if *unmet == 0 {
                costs.fire(rule as u32, 0);
            }
        }
        while let Some(Reverse((cost, fact))) = costs.queue.pop() {
            if fact == self.goal {
                return Some(costs.supporters);
            }
            if cost > costs.costs[fact as usize] {
                continue;
            }
            for rule in self.watchers.get(fact as usize) {
                let (unmet, sum) = &mut open_rules[*rule as usize];
                *unmet -= 1;
                *sum = sum.saturating_add(cost);
                if *unmet == 0 {
                    costs.fire(*rule, *sum);
                }
            }
        }
        None
    }
}

/// The costs of facts (h_add), computed with Dijkstra's algorithm.
struct FactCosts<'r> {
    relaxed: &'r Relaxed,
    /// By fact: the lowest cost found so far, or [`NONE`].
    costs: Vec<u32>,
    /// By fact: the rule with that cost, or [`GIVEN`].
    supporters: Vec<u32>,
    queue: BinaryHeap<Reverse<(u32, Setting)>>,
}

impl FactCosts<'_> {
    /// Adds a fact that holds in the start state.
    fn give(&mut self, fact: Setting) {
        self.costs[fact as usize] = 0;
        self.queue.push(Reverse((0, fact)));
    }

    /// Adds the effects of a rule whose conditions cost `sum` together.
    fn fire(&mut self, rule: u32, sum: u32) {
        let cost = sum + u32::from(self.relaxed.operators[rule as usize] != NONE);
        for effect in self.relaxed.effects.get(rule as usize) {
            if cost < self.costs[*effect as usize] {
                self.costs[*effect as usize] = cost;
                self.supporters[*effect as usize] = rule;
                self.queue.push(Reverse((cost, *effect)));
            }
        }
    }
}

/// Returns, by fact, the rules whose list contains it.
fn by_fact(facts: usize, lists: &Lists<Setting>) -> Lists<u32> {
    let mut rules_of: Vec<Vec<u32>> = vec![Vec::new(); facts];
    for rule in 0..lists.len() {
        for fact in lists.get(rule) {
            rules_of[*fact as usize].push(rule as u32);
        }
    }
    let mut by_fact = Lists::default();
    for rules in rules_of {
        by_fact.push(rules);
    }
    by_fact
}
