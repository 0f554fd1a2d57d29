//! The type hierarchy of a domain.

use crate::error::Fault;
use rustc_hash::{FxHashMap, FxHashSet};
use std::sync::{Arc, Mutex, PoisonError};

/// The largest number of types in a domain.
const TYPE_LIMIT: usize = 1000;

/// Index of a type in [`Types`].
pub(crate) type TypeId = u16;

/// Type signatures in the order in which they are visited.
pub(crate) type Signatures = Arc<[Box<[TypeId]>]>;

/// The type hierarchy.
#[derive(Debug, Default)]
pub(crate) struct Types {
    pub(crate) names: Vec<String>,
    ids: FxHashMap<String, TypeId>,
    /// By type, then by type: whether the second is the first or one of its supertypes.
    under: Vec<Vec<bool>>,
    /// By type: all its subtypes, sorted by name, as the text grammar visits them.
    below: Vec<Vec<TypeId>>,
    /// Results of [`Types::signatures`].
    found: Mutex<FxHashMap<Box<[TypeId]>, Signatures>>,
}

/// A declared type and the type it is based on.
pub(super) struct TypeDeclaration {
    pub(super) name: String,
    pub(super) base: String,
    /// The byte of the declaration in the domain text.
    pub(super) at: usize,
}

impl Types {
    /// Returns the type with this name.
    pub(crate) fn id(&self, name: &str) -> Option<TypeId> {
        self.ids.get(name).copied()
    }

    /// Returns whether every object of type `narrow` is also of type `wide`.
    pub(crate) fn is_under(&self, narrow: TypeId, wide: TypeId) -> bool {
        self.under[usize::from(narrow)][usize::from(wide)]
    }

    /// Returns the type signatures under which facts are looked up if a query names `types`, in the
    /// order in which TextWorld visits them. Returns `None` if there are more than `limit`.
    ///
    /// A signature can occur twice. TextWorld's breadth-first search marks the first generation
    /// only when it meets it again, and the planner passes all ancestors of a type as parents.
    pub(crate) fn signatures(&self, types: &[TypeId], limit: usize) -> Option<Signatures> {
        let mut known = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(signatures) = known.get(types) {
            return Some(signatures.clone());
        }
        let signatures: Signatures = self.search_signatures(types, limit)?.into();
        known.insert(types.into(), signatures.clone());
        Some(signatures)
    }

    fn search_signatures(&self, types: &[TypeId], limit: usize) -> Option<Vec<Box<[TypeId]>>> {
        let mut found: Vec<Box<[TypeId]>> = vec![types.into()];
        found.extend(self.narrower_signatures(types));
        let mut seen = FxHashSet::default();
        let mut next = 1;
        while next < found.len() {
            for signature in self.narrower_signatures(&found[next]) {
                if seen.insert(signature.clone()) {
                    found.push(signature);
                }
            }
            if found.len() > limit {
                return None;
            }
            next += 1;
        }
        Some(found)
    }

    /// Returns the signatures in which one type is replaced by one of its subtypes.
    fn narrower_signatures(&self, signature: &[TypeId]) -> Vec<Box<[TypeId]>> {
        let mut narrower = Vec::new();
        for (position, type_id) in signature.iter().enumerate() {
            for &below in &self.below[usize::from(*type_id)] {
                let mut next = signature.to_vec();
                next[position] = below;
                narrower.push(next.into_boxed_slice());
            }
        }
        narrower
    }

    /// Builds the hierarchy from the declarations of a domain, in their order.
    pub(super) fn build(declared: &[TypeDeclaration]) -> Result<Self, Fault> {
        let mut types = Self::default();
        let times_declared = types.declare_names(declared)?;
        let count = types.names.len();
        let mut bases: Vec<Vec<TypeId>> = vec![Vec::new(); count];
        for TypeDeclaration { name, base, at } in declared {
            let base = types.id(base).ok_or_else(|| {
                Fault::new(
                    *at,
                    format!("type {name:?} is based on the unknown type {base:?}"),
                )
            })?;
            bases[usize::from(types.ids[name])].push(base);
        }
        types.under = vec![vec![false; count]; count];
        types.below = vec![Vec::new(); count];
        for id in 0..count {
            let mut above = ancestors(&bases, id);
            // If a type is declared twice, it has no parents in TextWorld's hierarchy, which keeps
            // the first mention without a parent.
            if times_declared[id] == 1 {
                for base in (0..count).filter(|base| above[*base]) {
                    types.below[base].push(id as TypeId);
                }
            }
            above[id] = true;
            types.under[id] = above;
        }
        let names = &types.names;
        for below in &mut types.below {
            below.sort_by(|a, b| names[usize::from(*a)].cmp(&names[usize::from(*b)]));
        }
        Ok(types)
    }

    /// Assigns an id to `object` and to every declared name. Returns how often each was declared.
    fn declare_names(&mut self, declared: &[TypeDeclaration]) -> Result<Vec<usize>, Fault> {
        let mut times_declared: Vec<usize> = Vec::new();
        let declared_names = declared.iter().map(|declaration| declaration.name.as_str());
        for name in std::iter::once("object").chain(declared_names) {
            if let Some(id) = self.id(name) {
                times_declared[usize::from(id)] += 1;
                continue;
            }
            if self.names.len() == TYPE_LIMIT {
                return Err(Fault::new(
                    declared[0].at,
                    format!("more than {TYPE_LIMIT} types"),
                ));
            }
            self.ids.insert(name.to_owned(), self.names.len() as TypeId);
            self.names.push(name.to_owned());
            times_declared.push(1);
        }
        Ok(times_declared)
    }
}

/// Returns, by type, whether it is a direct or indirect base of `id`.
fn ancestors(bases: &[Vec<TypeId>], id: usize) -> Vec<bool> {
    let mut todo = bases[id].clone();
    let mut above = vec![false; bases.len()];
    while let Some(base) = todo.pop() {
        if !std::mem::replace(&mut above[usize::from(base)], true) {
            todo.extend(&bases[usize::from(base)]);
        }
    }
    above
}
