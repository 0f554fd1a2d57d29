//! How far the goal is: the length of a plan found by A* over the commands of relaxed plans.
//!
//! In the delete relaxation what has come to hold, a negative condition included, holds for ever. Costs of its facts are
//! h_add (Bonet & Geffner, "Planning as heuristic search", Artificial Intelligence 129, 2001), and the plan that its
//! cheapest supporters make up is h_FF (Hoffmann & Nebel, "The FF planning system", JAIR 14, 2001). The search goes on with
//! the commands of that plan that can be performed at once, a few of FF's helpful actions, so that it is quick and may miss
//! a shorter way; h_FF may overestimate, which has the same effect. It knows the hidden state and nothing of kitchens.
//!
//! Where the search finds no plan, the length of the relaxed one stands for it. That a derived atom is false, which no
//! single effect brings about, is taken to come for free.

use super::engine::{NativeGame, State};
use super::ground::{ALWAYS, Grounded, Lists, Setting, setting};
use super::text::bit;
use rustc_hash::FxHashSet;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// States that a search may look at.
const STATE_LIMIT: usize = 500;
/// Stands for the rule of a fact that holds at once.
const GIVEN: u32 = u32::MAX;
/// Stands for a cost that is not known, and for the operator of a rule that is none.
const NONE: u32 = u32::MAX;

/// The delete relaxation of a game: rules that only ever bring facts about. A fact is a [`Setting`].
#[derive(Debug)]
pub(crate) struct Relaxed {
    conditions: Lists<Setting>,
    effects: Lists<Setting>,
    /// By rule; [`NONE`] for a conjunction of a derived atom, which costs nothing.
    operators: Vec<u32>,
    /// By fact: the rules that ask for it.
    watchers: Lists<u32>,
    /// Those behind the fluents are derived.
    fluents: u32,
    atoms: u32,
    goal: Setting,
}

impl Relaxed {
    pub(crate) fn new(grounded: &Grounded) -> Self {
        let atoms = (grounded.fluents + grounded.derived) as u32;
        let mut relaxed = Self {
            conditions: Lists::default(),
            effects: Lists::default(),
            operators: Vec::new(),
            watchers: Lists::default(),
            fluents: grounded.fluents as u32,
            atoms,
            goal: setting(grounded.goal, true),
        };
        let operators = grounded.actions.len();
        for operator in 0..operators {
            let (conditions, effects) = (
                grounded.conditions.get(operator),
                grounded.effects.get(operator),
            );
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
        relaxed.keep_what_leads_to_the_goal();
        relaxed
    }

    fn push(&mut self, operator: u32, mut conditions: Vec<Setting>, effects: Vec<Setting>) {
        conditions.sort_unstable();
        conditions.dedup();
        self.conditions.push(conditions);
        self.effects.push(effects);
        self.operators.push(operator);
    }

    /// Drops the rules and effects that nothing asks for, and notes who asks for what.
    fn keep_what_leads_to_the_goal(&mut self) {
        let facts = 2 * self.atoms as usize;
        let makers = by_fact(facts, &self.effects);
        let mut is_asked = vec![false; facts];
        let mut leads = vec![false; self.operators.len()];
        let mut open = vec![self.goal];
        is_asked[self.goal as usize] = true;
        while let Some(fact) = open.pop() {
            for rule in makers.get(fact as usize) {
                if !std::mem::replace(&mut leads[*rule as usize], true) {
                    let conditions = self.conditions.get(*rule as usize).iter();
                    open.extend(
                        conditions.filter(|asked| {
                            !std::mem::replace(&mut is_asked[**asked as usize], true)
                        }),
                    );
                }
            }
        }
        let all = std::mem::take(&mut self.operators);
        let conditions = std::mem::take(&mut self.conditions);
        let effects = std::mem::take(&mut self.effects);
        for rule in (0..all.len()).filter(|rule| leads[*rule]) {
            let asked = effects
                .get(rule)
                .iter()
                .copied()
                .filter(|effect| is_asked[*effect as usize]);
            self.push(all[rule], conditions.get(rule).to_vec(), asked.collect());
        }
        self.watchers = by_fact(facts, &self.conditions);
    }

    /// The operators of a relaxed plan from this truth of atoms, ascending; `None` where there is none.
    fn plan(&self, truth: &[u64]) -> Option<Vec<u32>> {
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

    /// By fact, the rule that brings it about most cheaply, as far as the goal needs it; `None` where nothing brings the
    /// goal about.
    fn supporters(&self, truth: &[u64]) -> Option<Vec<u32>> {
        let facts = 2 * self.atoms as usize;
        let mut costs = vec![NONE; facts];
        let mut supporters = vec![GIVEN; facts];
        let mut queue = BinaryHeap::new();
        let mut sums: Vec<(u32, u32)> = (0..self.operators.len())
            .map(|rule| (self.unmet(rule), 0))
            .collect();
        let fires = |rule: u32,
                     sum: u32,
                     costs: &mut [u32],
                     supporters: &mut [u32],
                     queue: &mut BinaryHeap<_>| {
            let cost = sum + u32::from(self.operators[rule as usize] != NONE);
            for effect in self.effects.get(rule as usize) {
                if cost < costs[*effect as usize] {
                    costs[*effect as usize] = cost;
                    supporters[*effect as usize] = rule;
                    queue.push(Reverse((cost, *effect)));
                }
            }
        };
        for atom in 0..self.atoms {
            let holds = bit(truth, atom);
            let free = (holds && atom >= self.fluents).then(|| setting(atom, false));
            for fact in [setting(atom, holds)].into_iter().chain(free) {
                costs[fact as usize] = 0;
                queue.push(Reverse((0, fact)));
            }
        }
        for rule in (0..self.operators.len()).filter(|rule| sums[*rule].0 == 0) {
            fires(rule as u32, 0, &mut costs, &mut supporters, &mut queue);
        }
        while let Some(Reverse((cost, fact))) = queue.pop() {
            if fact == self.goal {
                return Some(supporters);
            }
            if cost > costs[fact as usize] {
                continue;
            }
            for rule in self.watchers.get(fact as usize) {
                let (unmet, sum) = &mut sums[*rule as usize];
                (*unmet, *sum) = (*unmet - 1, sum.saturating_add(cost));
                if *unmet == 0 {
                    fires(*rule, *sum, &mut costs, &mut supporters, &mut queue);
                }
            }
        }
        None
    }

    fn unmet(&self, rule: usize) -> u32 {
        self.conditions.get(rule).len() as u32
    }
}

/// For each fact, the rules whose list holds it.
fn by_fact(facts: usize, lists: &Lists<Setting>) -> Lists<u32> {
    let mut of: Vec<Vec<u32>> = vec![Vec::new(); facts];
    for rule in 0..lists.len() {
        lists
            .get(rule)
            .iter()
            .for_each(|fact| of[*fact as usize].push(rule as u32));
    }
    let mut by_fact = Lists::default();
    of.into_iter().for_each(|rules| by_fact.push(rules));
    by_fact
}

/// A state that the search has come to.
struct Node {
    state: State,
    commands: usize,
    relaxed: Vec<u32>,
}

/// Commands to the goal from a state in which it does not hold; see the head of this file.
pub(crate) fn to_goal(game: &NativeGame, relaxed: &Relaxed, state: &State) -> usize {
    let Some(plan) = relaxed.plan(game.truth(state)) else {
        return usize::MAX;
    };
    let estimate = plan.len().max(1);
    let mut seen: FxHashSet<Box<[u64]>> = FxHashSet::default();
    seen.insert(game.truth(state).into());
    let mut nodes = vec![Node {
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
            let Node {
                state, commands, ..
            } = &nodes[index];
            let Some(command) = game.command_of(state, operator) else {
                continue;
            };
            let (mut next, commands) = (state.clone(), commands + 1);
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
            nodes.push(Node {
                state: next,
                commands,
                relaxed: plan,
            });
        }
    }
    estimate
}
