//! The known facts of every predicate, and their look-up by arguments.

use super::literal::{GroundArgument, GroundLiteral, RowMatch, argument_value};
use crate::native::pddl::{ARITY_LIMIT, Domain, PredicateId, TypeId};
use rustc_hash::FxHashMap;
use std::cell::Cell;
use std::collections::hash_map::Entry;

/// The largest number of facts and conditions that grounding may visit.
pub(super) const WORK_LIMIT: u64 = 30_000_000;

/// In place of an atom number: the fact is always true.
pub(crate) const STATIC: u32 = u32::MAX;
/// In place of an atom number: there is no such fact.
const UNKNOWN: u32 = u32::MAX - 1;

/// A fact with at most this many arguments fits a short key, together with its predicate.
const SHORT: usize = 3;

/// The facts of one predicate.
#[derive(Debug, Default)]
pub(crate) struct FactTable {
    pub(crate) arity: usize,
    /// Whether an effect can change facts of the predicate.
    pub(crate) fluent: bool,
    /// Arguments, `arity` values per row.
    rows: Vec<u16>,
    /// The atom of each row, ascending. Empty if the predicate is static.
    pub(crate) atoms: Vec<u32>,
    count: usize,
    /// If the predicate has one argument: the atom by object, or [`UNKNOWN`].
    unary: Vec<u32>,
    /// By argument position, if a join needs it: the rows by object.
    by: [Option<Vec<Vec<u32>>>; ARITY_LIMIT],
}

impl FactTable {
    fn new(arity: usize, objects: usize) -> Self {
        let unary = if arity == 1 {
            vec![UNKNOWN; objects]
        } else {
            Vec::new()
        };
        Self {
            arity,
            unary,
            ..Self::default()
        }
    }

    /// Returns the number of facts.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Returns the arguments of one fact.
    pub(crate) fn row(&self, row: usize) -> &[u16] {
        &self.rows[row * self.arity..(row + 1) * self.arity]
    }

    /// Returns the rows that have `object` at a position, or `None` if the position has no index.
    pub(super) fn rows_with(&self, position: usize, object: u16) -> Option<&[u32]> {
        self.by[position]
            .as_ref()
            .map(|by| &by[usize::from(object)][..])
    }

    fn push(&mut self, args: &[u16]) {
        for (position, arg) in args.iter().enumerate() {
            if let Some(by) = &mut self.by[position] {
                by[usize::from(*arg)].push(self.count as u32);
            }
        }
        self.rows.extend_from_slice(args);
        self.count += 1;
    }

    /// Builds the index of a position if there is none.
    pub(super) fn ensure_index(&mut self, position: usize, objects: usize) {
        if self.by[position].is_none() {
            let mut by = vec![Vec::new(); objects];
            for row in 0..self.count {
                by[usize::from(self.rows[row * self.arity + position])].push(row as u32);
            }
            self.by[position] = Some(by);
        }
    }
}

/// All facts and their look-up tables.
pub(super) struct Facts<'a> {
    domain: &'a Domain,
    object_types: Vec<TypeId>,
    /// By type: its objects, those of subtypes included.
    pub(super) by_type: Vec<Vec<u16>>,
    pub(super) tables: Vec<FactTable>,
    /// The atom of each fact with two or three arguments, or [`STATIC`] if it never changes.
    known: FxHashMap<u64, u32>,
    /// The same for facts with no argument or more than three.
    known_long: FxHashMap<u128, u32>,
    /// The number of facts and literals visited so far.
    work: Cell<u64>,
}

impl<'a> Facts<'a> {
    /// Returns empty tables for the predicates of a domain. `expected` is the number of facts for
    /// which memory is reserved.
    pub(super) fn new(domain: &'a Domain, object_types: Vec<TypeId>, expected: usize) -> Self {
        let mut by_type = vec![Vec::new(); domain.types.names.len()];
        for (number, narrow) in object_types.iter().enumerate() {
            for (wide, objects) in by_type.iter_mut().enumerate() {
                if domain.types.is_under(*narrow, wide as TypeId) {
                    objects.push(number as u16);
                }
            }
        }
        let tables = domain
            .predicates
            .iter()
            .map(|predicate| FactTable::new(predicate.arity, object_types.len()))
            .collect();
        Self {
            domain,
            object_types,
            by_type,
            tables,
            known: FxHashMap::with_capacity_and_hasher(expected, rustc_hash::FxBuildHasher),
            known_long: FxHashMap::default(),
            work: Cell::new(0),
        }
    }

    /// Counts work. Returns `false` if the total exceeds [`WORK_LIMIT`].
    pub(super) fn spend(&self, work: usize) -> bool {
        self.work.set(self.work.get().saturating_add(work as u64));
        self.is_within_limit()
    }

    /// Returns whether the work so far is within [`WORK_LIMIT`].
    pub(super) fn is_within_limit(&self) -> bool {
        self.work.get() <= WORK_LIMIT
    }

    /// Returns the number of objects.
    pub(super) fn object_count(&self) -> usize {
        self.object_types.len()
    }

    /// Returns whether effects can change the facts of a predicate.
    pub(super) fn is_fluent(&self, predicate: PredicateId) -> bool {
        self.tables[usize::from(predicate)].fluent
    }

    fn has_type(&self, object: u16, wide: TypeId) -> bool {
        self.domain
            .types
            .is_under(self.object_types[usize::from(object)], wide)
    }

    /// Returns the atom of a fact under a frame, [`STATIC`] if it never changes, or `None` if there
    /// is no such fact.
    pub(super) fn find(
        &self,
        predicate: PredicateId,
        args: &[GroundArgument],
        frame: &[u16],
    ) -> Option<u32> {
        let mut values = [0; ARITY_LIMIT];
        for (slot, arg) in values.iter_mut().zip(args) {
            *slot = argument_value(*arg, frame)?;
        }
        self.look_up(predicate, &values[..args.len()])
    }

    fn look_up(&self, predicate: PredicateId, args: &[u16]) -> Option<u32> {
        if let [object] = args {
            let atom = self.tables[usize::from(predicate)].unary[usize::from(*object)];
            (atom != UNKNOWN).then_some(atom)
        } else if args.len() <= SHORT {
            self.known.get(&short_key(predicate, args)).copied()
        } else {
            self.known_long.get(&long_key(predicate, args)).copied()
        }
    }

    /// Adds a fact with its atom, which is ignored if the predicate is static. Returns the fact's
    /// row, or `None` if the fact was known.
    pub(super) fn add(&mut self, predicate: PredicateId, args: &[u16], atom: u32) -> Option<usize> {
        let fluent = self.is_fluent(predicate);
        let atom = if fluent { atom } else { STATIC };
        if !self.note(predicate, args, atom) {
            return None;
        }
        let table = &mut self.tables[usize::from(predicate)];
        let row = table.count;
        if fluent {
            table.atoms.push(atom);
        }
        table.push(args);
        Some(row)
    }

    /// Stores the atom of a fact. Returns `false` if the fact was known.
    fn note(&mut self, predicate: PredicateId, args: &[u16], atom: u32) -> bool {
        if let [object] = args {
            let known = &mut self.tables[usize::from(predicate)].unary[usize::from(*object)];
            if *known != UNKNOWN {
                return false;
            }
            *known = atom;
        } else if args.len() <= SHORT {
            match self.known.entry(short_key(predicate, args)) {
                Entry::Vacant(entry) => entry.insert(atom),
                Entry::Occupied(_) => return false,
            };
        } else {
            match self.known_long.entry(long_key(predicate, args)) {
                Entry::Vacant(entry) => entry.insert(atom),
                Entry::Occupied(_) => return false,
            };
        }
        true
    }

    /// Matches a literal against a fact, argument by argument, and binds the free slots. Returns
    /// `false` if an argument does not match.
    pub(super) fn bind(&self, matches: &[RowMatch], row: &[u16], frame: &mut [u16]) -> bool {
        matches
            .iter()
            .zip(row)
            .all(|(argument, object)| match *argument {
                RowMatch::Bound(slot) => frame[usize::from(slot)] == *object,
                RowMatch::Free(slot, wide) => {
                    frame[usize::from(slot)] = *object;
                    self.has_type(*object, wide)
                }
                RowMatch::Object(wanted) => wanted == *object,
                RowMatch::Never => false,
            })
    }
}

/// Returns whether both sides of an equality are the same object. Ignores whether the literal is
/// negated.
pub(super) fn are_equal(literal: &GroundLiteral, frame: &[u16]) -> bool {
    let left = argument_value(literal.args[0], frame);
    left.is_some() && left == argument_value(literal.args[1], frame)
}

fn short_key(predicate: PredicateId, args: &[u16]) -> u64 {
    args.iter()
        .fold(u64::from(predicate), |key, arg| key << 16 | u64::from(*arg))
}

fn long_key(predicate: PredicateId, args: &[u16]) -> u128 {
    args.iter().fold(u128::from(predicate), |key, arg| {
        key << 16 | u128::from(*arg)
    })
}
