//! The fixpoint: finds every fact that can become true if negative conditions are ignored, and
//! every operator on the way.

use super::grounder::{GroundResult, Grounder};
use super::join::Trigger;
use super::literal::{GroundArgument, argument_value};
use super::rules::{GroundRule, RuleHead};
use crate::native::pddl::{ARITY_LIMIT, PredicateId, Test};

/// The largest number of operators and conjunctions of a game together.
pub(super) const OPERATOR_LIMIT: usize = 400_000;
/// The largest number of atoms of a game.
const ATOM_LIMIT: usize = 1_000_000;

/// The operators that the fixpoint found.
#[derive(Default)]
pub(super) struct FoundOperators {
    /// By operator: its rule and the start of its frame.
    operators: Vec<(u32, u32)>,
    /// All frames, end to end.
    frames: Vec<u16>,
}

impl FoundOperators {
    /// Returns every operator: the number of its rule, and the frames from its own on.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &[u16])> {
        self.operators
            .iter()
            .map(|(rule, start)| (*rule as usize, &self.frames[*start as usize..]))
    }
}

impl<'a> Grounder<'a> {
    /// Runs the fixpoint and returns the operators it finds.
    pub(super) fn explore(&mut self, rules: &[GroundRule<'a>]) -> GroundResult<FoundOperators> {
        let watchers = self.watchers(rules);
        let mut operators = FoundOperators::default();
        let mut found = Vec::new();
        for (number, rule) in rules.iter().enumerate() {
            if !rule.plans.is_empty() {
                continue;
            }
            let steps = self.facts.plan(&rule.body, &[], None);
            let mut frame = vec![0; rule.body.frame_size()];
            self.join(&rule.body, &steps, None, &mut frame, &mut found)?;
            self.fire(number, rule, &mut found, &mut operators)?;
        }
        let mut next = 0;
        let mut frame = Vec::new();
        while next < self.atoms.len() {
            let (predicate, row) = self.atoms[next];
            for &(number, plan) in &watchers[usize::from(predicate)] {
                let rule = &rules[number];
                let plan = &rule.plans[plan];
                frame.clear();
                frame.resize(rule.body.frame_size(), 0);
                let fact = self.facts.tables[usize::from(predicate)].row(row as usize);
                if !self.facts.bind(&plan.matches, fact, &mut frame) {
                    continue;
                }
                let trigger = Trigger {
                    literal: plan.literal,
                    atom: next as u32,
                };
                let trigger = Some(trigger);
                self.join(&rule.body, &plan.steps, trigger, &mut frame, &mut found)?;
                self.fire(number, rule, &mut found, &mut operators)?;
            }
            next += 1;
        }
        Ok(operators)
    }

    /// Returns, by predicate, the rules and their plans that react to a new fact.
    fn watchers(&self, rules: &[GroundRule<'a>]) -> Vec<Vec<(usize, usize)>> {
        let mut watchers = vec![Vec::new(); self.domain.predicates.len()];
        for (number, rule) in rules.iter().enumerate() {
            for (plan_number, plan) in rule.plans.iter().enumerate() {
                if let Test::Predicate(predicate) = rule.body.literals[plan.literal].test {
                    watchers[usize::from(predicate)].push((number, plan_number));
                }
            }
        }
        watchers
    }

    /// Applies a rule to the frames that a join found: adds new facts and, for each frame of an
    /// action, an operator. Empties `found`.
    fn fire(
        &mut self,
        number: usize,
        rule: &GroundRule<'a>,
        found: &mut Vec<u16>,
        operators: &mut FoundOperators,
    ) -> GroundResult<()> {
        for frame in found.chunks_exact(rule.body.frame_size()) {
            match &rule.head {
                RuleHead::Operator { action, adds, .. } => {
                    self.at = self.domain.actions[*action].at;
                    for (predicate, args) in adds {
                        self.reach(*predicate, args, frame)?;
                    }
                    let start = operators.frames.len() as u32;
                    operators.operators.push((number as u32, start));
                    operators.frames.extend_from_slice(frame);
                    if operators.operators.len() > OPERATOR_LIMIT {
                        return Err(self
                            .fault(format!("the game has more than {OPERATOR_LIMIT} operators")));
                    }
                }
                RuleHead::Effect { predicate, args } => self.reach(*predicate, args, frame)?,
            }
        }
        found.clear();
        Ok(())
    }

    /// Adds a fact that can become true.
    fn reach(
        &mut self,
        predicate: PredicateId,
        args: &[GroundArgument],
        frame: &[u16],
    ) -> GroundResult<()> {
        let mut values = [0; ARITY_LIMIT];
        for (slot, arg) in values.iter_mut().zip(args) {
            *slot = argument_value(*arg, frame).ok_or_else(|| {
                self.fault("an effect names an object that the problem does not have")
            })?;
        }
        self.add_fact(predicate, &values[..args.len()]);
        if self.atoms.len() > ATOM_LIMIT {
            return Err(self.fault(format!("the game has more than {ATOM_LIMIT} atoms")));
        }
        Ok(())
    }
}
