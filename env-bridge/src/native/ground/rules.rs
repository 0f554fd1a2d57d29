//! The rules of the fixpoint: what follows if a conjunction is true.

use super::grounder::{GroundResult, Grounder};
use super::join::JoinStep;
use super::literal::{GroundArgument, GroundLiteral, JoinBody, RowMatch};
use crate::native::pddl::{Action, ActionEffect, ConditionBranch, PredicateId, Slot, Test};

/// What a rule derives.
pub(super) enum RuleHead {
    /// An operator, and the facts that it adds without a further condition.
    Operator {
        action: usize,
        adds: Vec<(PredicateId, Vec<GroundArgument>)>,
        effects: Vec<GroundLiteral>,
        /// Whether no effect has a condition or variables of its own.
        plain: bool,
    },
    /// A fact that an effect with a condition of its own adds.
    Effect {
        predicate: PredicateId,
        args: Vec<GroundArgument>,
    },
}

/// A rule of the fixpoint.
pub(super) struct GroundRule<'a> {
    pub(super) head: RuleHead,
    pub(super) body: JoinBody<'a>,
    /// One plan for every positive fluent literal.
    pub(super) plans: Vec<JoinPlan>,
}

/// How a rule reacts to a new fact: the literal that matches it, and the rest of the join.
pub(super) struct JoinPlan {
    pub(super) literal: usize,
    pub(super) matches: Vec<RowMatch>,
    pub(super) steps: Vec<JoinStep>,
}

/// The additions of one alternative of an action.
struct Additions<'a> {
    /// Those without a condition of their own.
    plain: Vec<(PredicateId, Vec<GroundArgument>)>,
    /// Those with one, each as a rule.
    conditional: Vec<(RuleHead, JoinBody<'a>)>,
}

impl<'a> Grounder<'a> {
    /// Returns one rule for every alternative of every action, and one for every addition that has
    /// a condition of its own.
    pub(super) fn rules(&mut self) -> GroundResult<Vec<GroundRule<'a>>> {
        let mut rules = Vec::new();
        for (index, action) in self.domain.actions.iter().enumerate() {
            for branch in &action.branches {
                self.at = action.at;
                let additions = self.additions(action, branch)?;
                let head = RuleHead::Operator {
                    action: index,
                    adds: additions.plain,
                    effects: action
                        .effects
                        .iter()
                        .map(|effect| self.look_up(&effect.literal))
                        .collect(),
                    plain: action.effects.iter().all(has_plain_conditions),
                };
                let body = self.body(&action.slot_types, parameters(action), &[branch]);
                for (head, body) in std::iter::once((head, body)).chain(additions.conditional) {
                    // If a type has no objects, the rule never applies.
                    if body.has_declared_types() {
                        rules.push(self.planned(head, body));
                        self.check_work()?;
                    }
                }
            }
        }
        Ok(rules)
    }

    fn additions(
        &mut self,
        action: &'a Action,
        branch: &ConditionBranch,
    ) -> GroundResult<Additions<'a>> {
        let mut additions = Additions {
            plain: Vec::new(),
            conditional: Vec::new(),
        };
        for effect in &action.effects {
            let Test::Predicate(predicate) = effect.literal.test else {
                continue;
            };
            if effect.literal.negated {
                continue;
            }
            let args = self.look_up(&effect.literal).args;
            for condition in &*effect.conditions {
                let args = args.clone();
                if is_plain(effect, condition) {
                    additions.plain.push((predicate, args));
                    continue;
                }
                let slots = parameters(action).chain(effect.variables.iter().copied());
                let body = self.body(&action.slot_types, slots, &[branch, condition]);
                additions
                    .conditional
                    .push((RuleHead::Effect { predicate, args }, body));
                self.check_work()?;
            }
        }
        Ok(additions)
    }

    /// Adds the plans to a rule.
    fn planned(&mut self, head: RuleHead, body: JoinBody<'a>) -> GroundRule<'a> {
        let mut plans = Vec::new();
        for (index, literal) in body.literals.iter().enumerate() {
            if let Test::Predicate(predicate) = literal.test
                && !literal.negated
                && self.facts.is_fluent(predicate)
            {
                let slots: Vec<Slot> = literal.args.iter().filter_map(slot_of).collect();
                plans.push(JoinPlan {
                    literal: index,
                    matches: body.row_matches(index, &vec![false; body.slot_types.len()]),
                    steps: self.facts.plan(&body, &slots, Some(index)),
                });
            }
        }
        GroundRule { head, body, plans }
    }
}

/// Returns whether an effect has no condition and no variables, given one of its alternatives.
pub(super) fn is_plain(effect: &ActionEffect, condition: &ConditionBranch) -> bool {
    effect.variables.is_empty() && condition.variables.is_empty() && condition.literals.is_empty()
}

fn has_plain_conditions(effect: &ActionEffect) -> bool {
    effect
        .conditions
        .iter()
        .all(|condition| is_plain(effect, condition))
}

/// Returns the slots of an action's parameters.
fn parameters(action: &Action) -> std::ops::Range<Slot> {
    0..action.parameters.len() as Slot
}

fn slot_of(argument: &GroundArgument) -> Option<Slot> {
    match argument {
        GroundArgument::Slot(slot) => Some(*slot),
        GroundArgument::Object(_) | GroundArgument::Missing => None,
    }
}
