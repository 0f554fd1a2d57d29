//! Literals and conjunctions whose object names are looked up.

use crate::native::pddl::{Slot, Test, TypeId};

/// An argument of a literal.
#[derive(Debug, Clone, Copy)]
pub(super) enum GroundArgument {
    Slot(Slot),
    Object(u16),
    /// A name that belongs to no object.
    Missing,
}

/// A literal whose object names are looked up.
#[derive(Debug, Clone)]
pub(super) struct GroundLiteral {
    pub(super) negated: bool,
    pub(super) test: Test,
    pub(super) args: Vec<GroundArgument>,
}

/// A conjunction to be joined.
pub(super) struct JoinBody<'a> {
    pub(super) slot_types: &'a [Option<TypeId>],
    /// The slots that the join must bind.
    pub(super) slots: Vec<Slot>,
    pub(super) literals: Vec<GroundLiteral>,
    /// The literals that a finished join does not decide: fluents and negated literals.
    pub(super) open: Vec<usize>,
}

/// How an argument of a literal matches an argument of a fact.
#[derive(Debug, Clone, Copy)]
pub(super) enum RowMatch {
    /// The slot is bound already; the objects must be equal.
    Bound(Slot),
    /// The slot is bound here, to an object of this type.
    Free(Slot, TypeId),
    Object(u16),
    Never,
}

impl JoinBody<'_> {
    /// Returns how a literal's arguments match a fact. `bound` contains, by slot, whether it is
    /// bound before.
    pub(super) fn row_matches(&self, literal: usize, bound: &[bool]) -> Vec<RowMatch> {
        let mut bound = bound.to_vec();
        let mut matches = Vec::new();
        for argument in &self.literals[literal].args {
            matches.push(match *argument {
                GroundArgument::Object(object) => RowMatch::Object(object),
                GroundArgument::Missing => RowMatch::Never,
                GroundArgument::Slot(slot)
                    if std::mem::replace(&mut bound[usize::from(slot)], true) =>
                {
                    RowMatch::Bound(slot)
                }
                GroundArgument::Slot(slot) => self.slot_types[usize::from(slot)]
                    .map_or(RowMatch::Never, |type_id| RowMatch::Free(slot, type_id)),
            });
        }
        matches
    }

    /// Returns whether every slot to be bound has a declared type. If not, no object fits.
    pub(super) fn has_declared_types(&self) -> bool {
        self.slots
            .iter()
            .all(|slot| self.slot_types[usize::from(*slot)].is_some())
    }

    /// Returns the size of a frame. It is one more than the number of slots, so that a frame
    /// without slots still takes up space in a list of frames.
    pub(super) fn frame_size(&self) -> usize {
        self.slot_types.len() + 1
    }
}

/// Returns the object of an argument under a frame, or `None` if there is no such object.
pub(super) fn argument_value(argument: GroundArgument, frame: &[u16]) -> Option<u16> {
    match argument {
        GroundArgument::Slot(slot) => Some(frame[usize::from(slot)]),
        GroundArgument::Object(object) => Some(object),
        GroundArgument::Missing => None,
    }
}

/// Returns whether an argument needs no binding.
pub(super) fn is_bound(argument: GroundArgument, bound: &[bool]) -> bool {
    match argument {
        GroundArgument::Slot(slot) => bound[usize::from(slot)],
        GroundArgument::Object(_) | GroundArgument::Missing => true,
    }
}
