//! The variables of an action, an axiom or a goal.

use super::list::TypedName;
use super::types::{TypeId, Types};
use crate::error::Fault;

/// The largest number of variables of an action or a goal, quantified variables included.
const VARIABLE_LIMIT: usize = 100;

/// Index of a variable in the frame of its action, axiom or goal.
pub(crate) type Slot = u16;

/// The variables in scope and the type of every slot assigned so far.
#[derive(Default)]
pub(super) struct VariableScope<'a> {
    names: Vec<(&'a str, Slot)>,
    pub(super) slot_types: Vec<Option<TypeId>>,
}

impl<'a> VariableScope<'a> {
    /// Declares variables and returns their slots.
    pub(super) fn declare(
        &mut self,
        typed: &[TypedName<'a>],
        types: &Types,
    ) -> Result<Vec<Slot>, Fault> {
        let mut slots = Vec::new();
        for variable in typed {
            if !variable.name.starts_with('?') {
                return Err(Fault::new(
                    variable.at,
                    format!("expected a variable, found {:?}", variable.name),
                ));
            }
            if self.slot_types.len() == VARIABLE_LIMIT {
                return Err(Fault::new(
                    variable.at,
                    format!("more than {VARIABLE_LIMIT} variables"),
                ));
            }
            let slot = self.slot_types.len() as Slot;
            self.slot_types.push(types.id(variable.type_name));
            self.names.push((variable.name, slot));
            slots.push(slot);
        }
        Ok(slots)
    }

    /// Returns the slot of the innermost variable with this name.
    pub(super) fn slot(&self, name: &str) -> Option<Slot> {
        self.names
            .iter()
            .rev()
            .find(|(known, _)| *known == name)
            .map(|(_, slot)| *slot)
    }

    /// Returns the number of variables in scope, for [`Self::leave`].
    pub(super) fn depth(&self) -> usize {
        self.names.len()
    }

    /// Removes the variables that were declared since [`Self::depth`] returned `depth`. Their slots
    /// stay assigned.
    pub(super) fn leave(&mut self, depth: usize) {
        self.names.truncate(depth);
    }
}
