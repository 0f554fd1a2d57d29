//! Derived atoms: the values of axioms and of the goal.

use super::explore::OPERATOR_LIMIT;
use super::facts::{STATIC, are_equal};
use super::grounded::{Setting, setting};
use super::grounder::{DerivedValue, GroundResult, Grounder};
use super::literal::{GroundLiteral, JoinBody};
use crate::native::pddl::{Axiom, Test};

/// In place of the number of an axiom: the goal.
const GOAL: usize = usize::MAX;

/// What an open literal requires of a state.
enum Requirement {
    /// Nothing: it always holds.
    Met,
    /// It never holds.
    Impossible,
    Setting(Setting),
}

impl<'a> Grounder<'a> {
    /// Grounds the goal, and adds the conjunctions of all derived atoms.
    pub(super) fn finish_goal(&mut self) -> GroundResult<()> {
        self.at = self.problem.goal_at;
        self.in_problem = true;
        self.grounded.goal = match self.derive(GOAL, &[])? {
            DerivedValue::Atom(atom) => atom,
            DerivedValue::Always => return Err(self.fault("the goal always holds")),
            DerivedValue::Never => return Err(self.fault("the goal can never hold")),
        };
        for (atom, conditions) in std::mem::take(&mut self.conjunctions) {
            self.grounded.supports.push(atom);
            self.grounded.conditions.push(conditions);
        }
        Ok(())
    }

    /// Returns the settings that a joined conjunction requires, or `None` if it never holds.
    pub(super) fn settings(
        &mut self,
        body: &JoinBody<'_>,
        frame: &[u16],
    ) -> GroundResult<Option<Vec<Setting>>> {
        let mut settings = Vec::new();
        Ok(self
            .settings_into(body, frame, &mut settings)?
            .then_some(settings))
    }

    /// Appends the settings that a joined conjunction requires to an empty list, sorted. Returns
    /// `false` if the conjunction never holds.
    pub(super) fn settings_into(
        &mut self,
        body: &JoinBody<'_>,
        frame: &[u16],
        settings: &mut Vec<Setting>,
    ) -> GroundResult<bool> {
        for open in &body.open {
            match self.requirement(&body.literals[*open], frame)? {
                Requirement::Met => {}
                Requirement::Impossible => return Ok(false),
                Requirement::Setting(setting) => settings.push(setting),
            }
        }
        settings.sort_unstable();
        settings.dedup();
        Ok(!settings.windows(2).any(|pair| pair[0] ^ 1 == pair[1]))
    }

    fn requirement(&mut self, literal: &GroundLiteral, frame: &[u16]) -> GroundResult<Requirement> {
        let negated = literal.negated;
        Ok(match literal.test {
            Test::Predicate(predicate) => {
                match (self.facts.find(predicate, &literal.args, frame), negated) {
                    (Some(STATIC), false) | (None, true) => Requirement::Met,
                    (Some(STATIC), true) | (None, false) => Requirement::Impossible,
                    (Some(atom), _) => Requirement::Setting(setting(atom, !negated)),
                }
            }
            Test::Equal if are_equal(literal, frame) == negated => Requirement::Impossible,
            Test::Equal => Requirement::Met,
            Test::Axiom(axiom) => {
                let values: Vec<u16> = self
                    .axiom(axiom)
                    .free
                    .iter()
                    .map(|slot| frame[usize::from(*slot)])
                    .collect();
                // The literal is "no counterexample exists".
                match self.derive(axiom, &values)? {
                    DerivedValue::Always => Requirement::Impossible,
                    DerivedValue::Never => Requirement::Met,
                    DerivedValue::Atom(atom) => Requirement::Setting(setting(atom, false)),
                }
            }
        })
    }

    fn axiom(&self, index: usize) -> &'a Axiom {
        if index == GOAL {
            return &self.problem.goal;
        }
        let own = self.domain.axioms.len();
        if index < own {
            &self.domain.axioms[index]
        } else {
            &self.problem.goal_axioms[index - own]
        }
    }

    /// Returns the value of an axiom or of [`GOAL`] under given free variables.
    fn derive(&mut self, index: usize, values: &[u16]) -> GroundResult<DerivedValue> {
        let key = (index, values.to_vec());
        if let Some(&known) = self.derived_values.get(&key) {
            return Ok(known);
        }
        let mut conjunctions = self.conjunctions_of(self.axiom(index), values)?;
        let derived = if conjunctions.iter().any(Vec::is_empty) {
            DerivedValue::Always
        } else if conjunctions.is_empty() {
            DerivedValue::Never
        } else {
            let atom = (self.grounded.fluents + self.grounded.derived) as u32;
            self.grounded.derived += 1;
            conjunctions.sort_unstable();
            conjunctions.dedup();
            self.conjunctions
                .extend(conjunctions.into_iter().map(|settings| (atom, settings)));
            DerivedValue::Atom(atom)
        };
        self.derived_values.insert(key, derived);
        Ok(derived)
    }

    /// Returns the conjunctions of settings under which an axiom holds.
    fn conjunctions_of(
        &mut self,
        axiom: &'a Axiom,
        values: &[u16],
    ) -> GroundResult<Vec<Vec<Setting>>> {
        let mut conjunctions: Vec<Vec<Setting>> = Vec::new();
        for branch in &axiom.branches {
            let body = self.body(&axiom.slot_types, [], &[branch]);
            if !body.has_declared_types() {
                continue;
            }
            let steps = self.facts.plan(&body, &axiom.free, None);
            let mut frame = vec![0; body.frame_size()];
            for (slot, value) in axiom.free.iter().zip(values) {
                frame[usize::from(*slot)] = *value;
            }
            let mut found = Vec::new();
            self.join(&body, &steps, None, &mut frame, &mut found)?;
            for frame in found.chunks_exact(frame.len()) {
                let Some(settings) = self.settings(&body, frame)? else {
                    continue;
                };
                conjunctions.push(settings);
                if conjunctions.len() + self.conjunctions.len() > OPERATOR_LIMIT {
                    return Err(self.fault(format!(
                        "conditions expand into more than {OPERATOR_LIMIT} cases"
                    )));
                }
            }
        }
        Ok(conjunctions)
    }
}
