//! The conditions and effects of an operator as atom numbers.

use super::grounded::{ALWAYS, GroundEffect, Setting, setting};
use super::grounder::{GroundResult, Grounder};
use super::literal::GroundLiteral;
use super::prune::{AtomChange, prune};
use super::rules::{GroundRule, RuleHead, is_plain};
use crate::native::pddl::{Action, ActionEffect, ConditionBranch, PredicateId, Slot, Test};

/// Buffers that are reused from one operator to the next.
#[derive(Default)]
pub(super) struct OperatorBuffers {
    conditions: Vec<Setting>,
    effects: Vec<GroundEffect>,
}

impl<'a> Grounder<'a> {
    /// Adds the operator of a rule and a frame. Does nothing if it can never apply or changes
    /// nothing, or if the rule is not that of an action. `frame` may be longer than needed.
    pub(super) fn finish_operator(
        &mut self,
        rule: &GroundRule<'a>,
        frame: &[u16],
        buffers: &mut OperatorBuffers,
    ) -> GroundResult<()> {
        let RuleHead::Operator {
            action: index,
            effects: literals,
            plain,
            ..
        } = &rule.head
        else {
            return Ok(());
        };
        let OperatorBuffers {
            conditions,
            effects,
        } = buffers;
        let frame = &frame[..rule.body.frame_size()];
        let action = &self.domain.actions[*index];
        self.at = action.at;
        conditions.clear();
        if !self.settings_into(&rule.body, frame, conditions)? {
            return Ok(());
        }
        effects.clear();
        if *plain {
            self.plain_effects(literals, frame, conditions, effects);
        } else {
            let mut changes = self.changes(action, literals, frame)?;
            prune(&mut changes, conditions);
            for change in changes {
                let mut condition = ALWAYS;
                if !change.condition.is_empty() {
                    condition = self.grounded.effect_conditions.len() as u32;
                    self.grounded.effect_conditions.push(change.condition);
                }
                effects.push(GroundEffect {
                    setting: change.setting,
                    condition,
                });
            }
        }
        if effects.is_empty() {
            return Ok(());
        }
        let grounded = &mut self.grounded;
        grounded.effects.push(effects.iter().copied());
        grounded.actions.push(*index as u16);
        let parameters = &frame[..action.parameters.len()];
        grounded.parameters.push(parameters.iter().copied());
        grounded.conditions.push(conditions.iter().copied());
        Ok(())
    }

    /// Appends effects that have no condition of their own. If an atom is both added and deleted,
    /// it is added. An effect that repeats a condition is dropped.
    fn plain_effects(
        &self,
        literals: &[GroundLiteral],
        frame: &[u16],
        conditions: &[Setting],
        effects: &mut Vec<GroundEffect>,
    ) {
        for literal in literals {
            let Test::Predicate(predicate) = literal.test else {
                continue;
            };
            if let Some(atom) = self.facts.find(predicate, &literal.args, frame) {
                effects.push(GroundEffect {
                    setting: setting(atom, !literal.negated),
                    condition: ALWAYS,
                });
            }
        }
        effects.sort_unstable_by_key(|effect| effect.setting ^ 1);
        let mut last_atom = u32::MAX;
        effects.retain(|effect| {
            let atom = effect.setting >> 1;
            let is_kept = atom != last_atom && conditions.binary_search(&effect.setting).is_err();
            last_atom = atom;
            is_kept
        });
    }

    /// Returns all effects of an operator that can matter, before pruning.
    fn changes(
        &mut self,
        action: &'a Action,
        literals: &[GroundLiteral],
        frame: &[u16],
    ) -> GroundResult<Vec<AtomChange>> {
        let mut changes = Vec::with_capacity(action.effects.len());
        for (effect, literal) in action.effects.iter().zip(literals) {
            let Test::Predicate(predicate) = literal.test else {
                continue;
            };
            for condition in &*effect.conditions {
                if is_plain(effect, condition) {
                    let change = self.change(predicate, literal, frame, Vec::new());
                    changes.extend(change);
                } else {
                    let found =
                        self.conditional_changes(action, effect, condition, literal, frame)?;
                    changes.extend(found);
                }
            }
        }
        Ok(changes)
    }

    /// Returns the changes of one effect under one alternative of its condition.
    fn conditional_changes(
        &mut self,
        action: &'a Action,
        effect: &ActionEffect,
        condition: &ConditionBranch,
        literal: &GroundLiteral,
        frame: &[u16],
    ) -> GroundResult<Vec<AtomChange>> {
        let mut changes = Vec::new();
        let Test::Predicate(predicate) = literal.test else {
            return Ok(changes);
        };
        let variables = effect.variables.iter().copied();
        let body = self.body(&action.slot_types, variables, &[condition]);
        if !body.has_declared_types() {
            return Ok(changes);
        }
        let bound: Vec<Slot> = (0..action.slot_types.len() as Slot)
            .filter(|slot| !body.slots.contains(slot))
            .collect();
        let steps = self.facts.plan(&body, &bound, None);
        let mut frame = frame.to_vec();
        let mut found = Vec::new();
        self.join(&body, &steps, None, &mut frame, &mut found)?;
        for frame in found.chunks_exact(frame.len()) {
            if let Some(condition) = self.settings(&body, frame)? {
                changes.extend(self.change(predicate, literal, frame, condition));
            }
        }
        Ok(changes)
    }

    /// Returns the change that a literal makes, or `None` if its fact can never be true.
    fn change(
        &self,
        predicate: PredicateId,
        literal: &GroundLiteral,
        frame: &[u16],
        condition: Vec<Setting>,
    ) -> Option<AtomChange> {
        let atom = self.facts.find(predicate, &literal.args, frame)?;
        Some(AtomChange {
            setting: setting(atom, !literal.negated),
            condition,
        })
    }
}
