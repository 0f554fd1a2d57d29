//! The result of grounding: numbered atoms, operators and conjunctions.

use super::facts::FactTable;
use crate::native::lists::Lists;

/// In place of an index in a [`GroundEffect`]: the effect has no condition.
pub(crate) const ALWAYS: u32 = u32::MAX;

/// An atom and the value that it must have or gets: `atom << 1 | value`.
pub(crate) type Setting = u32;

/// Returns the setting of an atom.
pub(crate) fn setting(atom: u32, value: bool) -> Setting {
    atom << 1 | u32::from(value)
}

/// Changes an atom if a condition holds. All conditions of an operator are tested before any of its
/// effects changes an atom.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GroundEffect {
    pub(crate) setting: Setting,
    /// Index into [`Grounded::effect_conditions`], or [`ALWAYS`].
    pub(crate) condition: u32,
}

/// A game over numbered atoms.
///
/// The atoms are the fluents, then the derived atoms. The owners of conditions are the operators,
/// then the conjunctions of derived atoms.
#[derive(Debug, Default)]
pub(crate) struct Grounded {
    pub(crate) tables: Vec<FactTable>,
    /// The number of fluents.
    pub(crate) fluents: usize,
    /// The number of derived atoms.
    pub(crate) derived: usize,
    /// By fluent: whether it holds at the start.
    pub(crate) initial: Vec<bool>,
    /// By operator: its action.
    pub(crate) actions: Vec<u16>,
    /// By operator: the objects of its parameters.
    pub(crate) parameters: Lists<u16>,
    /// By operator: its effects.
    pub(crate) effects: Lists<GroundEffect>,
    /// The conditions of conditional effects.
    pub(crate) effect_conditions: Lists<Setting>,
    /// By operator, then by conjunction: its conditions.
    pub(crate) conditions: Lists<Setting>,
    /// By conjunction: the derived atom that it makes true.
    pub(crate) supports: Vec<u32>,
    /// The atom of the goal.
    pub(crate) goal: u32,
}
