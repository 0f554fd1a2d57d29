//! Conditions: from negation normal form to disjunctive normal form.

use super::types::TypeId;
use super::variables::Slot;
use crate::error::Fault;

/// The largest number of alternatives of a condition in disjunctive normal form.
const BRANCH_LIMIT: usize = 512;
/// The largest number of literals in one alternative.
const LITERAL_LIMIT: usize = 1000;

/// Index of a predicate in `Domain::predicates`.
pub(crate) type PredicateId = u16;

/// A variable or the name of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Term {
    Slot(Slot),
    Name(Box<str>),
}

/// What a literal tests about its arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Test {
    Predicate(PredicateId),
    Equal,
    /// Always negated: "no counterexample exists".
    Axiom(usize),
}

/// A test or its negation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Literal {
    pub(crate) at: usize,
    pub(crate) negated: bool,
    pub(crate) test: Test,
    pub(crate) args: Vec<Term>,
}

/// One alternative of a condition: a conjunction over the frame and the variables of its `exists`.
#[derive(Debug, Clone, Default)]
pub(crate) struct ConditionBranch {
    pub(crate) variables: Vec<Slot>,
    pub(crate) literals: Vec<Literal>,
}

/// "A counterexample exists", for one `forall`. Its free variables are those of the surrounding
/// frame.
#[derive(Debug)]
pub(crate) struct Axiom {
    pub(crate) free: Vec<Slot>,
    pub(crate) slot_types: Vec<Option<TypeId>>,
    pub(crate) branches: Vec<ConditionBranch>,
}

/// A condition in negation normal form.
pub(super) enum Condition {
    All(Vec<Condition>),
    Any(Vec<Condition>),
    Exists(Vec<Slot>, Box<Condition>),
    Forall(Vec<Slot>, Box<Condition>),
    Literal(Literal),
}

/// Expands a condition into its alternatives. A `forall` becomes an axiom, whose number is its
/// index in `axioms` plus `first_axiom`.
pub(super) fn expand(
    condition: Condition,
    axioms: &mut Vec<Axiom>,
    first_axiom: usize,
    at: usize,
) -> Result<Vec<ConditionBranch>, Fault> {
    match condition {
        Condition::Literal(literal) => Ok(vec![ConditionBranch {
            variables: Vec::new(),
            literals: vec![literal],
        }]),
        Condition::All(parts) => {
            let mut branches = vec![ConditionBranch::default()];
            for part in parts {
                branches = with_all(branches, &expand(part, axioms, first_axiom, at)?, at)?;
            }
            Ok(branches)
        }
        Condition::Any(parts) => {
            let mut branches = Vec::new();
            for part in parts {
                branches.extend(expand(part, axioms, first_axiom, at)?);
                if branches.len() > BRANCH_LIMIT {
                    return Err(too_many_branches(at));
                }
            }
            Ok(branches)
        }
        Condition::Exists(slots, part) => {
            let mut branches = expand(*part, axioms, first_axiom, at)?;
            for branch in &mut branches {
                branch.variables.splice(0..0, slots.iter().copied());
            }
            Ok(branches)
        }
        Condition::Forall(slots, part) => {
            let counterexample = Condition::Exists(slots, Box::new(negate(*part)));
            let branches = expand(counterexample, axioms, first_axiom, at)?;
            let free = free_slots(&branches);
            let args = free.iter().map(|slot| Term::Slot(*slot)).collect();
            let test = Test::Axiom(first_axiom + axioms.len());
            axioms.push(Axiom {
                free,
                slot_types: Vec::new(),
                branches,
            });
            Ok(vec![ConditionBranch {
                variables: Vec::new(),
                literals: vec![Literal {
                    at,
                    negated: true,
                    test,
                    args,
                }],
            }])
        }
    }
}

fn negate(condition: Condition) -> Condition {
    match condition {
        Condition::All(parts) => Condition::Any(parts.into_iter().map(negate).collect()),
        Condition::Any(parts) => Condition::All(parts.into_iter().map(negate).collect()),
        Condition::Exists(slots, part) => Condition::Forall(slots, Box::new(negate(*part))),
        Condition::Forall(slots, part) => Condition::Exists(slots, Box::new(negate(*part))),
        Condition::Literal(literal) => Condition::Literal(Literal {
            negated: !literal.negated,
            ..literal
        }),
    }
}

/// Returns the conjunction of two lists of alternatives. If the right list has one alternative, it
/// is appended in place.
fn with_all(
    mut left: Vec<ConditionBranch>,
    right: &[ConditionBranch],
    at: usize,
) -> Result<Vec<ConditionBranch>, Fault> {
    let [only] = right else {
        return product(&left, right, at);
    };
    for branch in &mut left {
        branch.variables.extend(&only.variables);
        branch.literals.extend_from_slice(&only.literals);
        if branch.literals.len() > LITERAL_LIMIT {
            return Err(too_many_literals(at));
        }
    }
    Ok(left)
}

/// Returns the conjunction of every alternative on the left with every alternative on the right.
pub(super) fn product(
    left: &[ConditionBranch],
    right: &[ConditionBranch],
    at: usize,
) -> Result<Vec<ConditionBranch>, Fault> {
    if left.len() * right.len() > BRANCH_LIMIT {
        return Err(too_many_branches(at));
    }
    if longest(left) + longest(right) > LITERAL_LIMIT {
        return Err(too_many_literals(at));
    }
    let mut branches = Vec::with_capacity(left.len() * right.len());
    for a in left {
        for b in right {
            branches.push(ConditionBranch {
                variables: [&a.variables[..], &b.variables].concat(),
                literals: [&a.literals[..], &b.literals].concat(),
            });
        }
    }
    Ok(branches)
}

/// Returns the number of literals of the longest alternative.
fn longest(branches: &[ConditionBranch]) -> usize {
    branches
        .iter()
        .map(|branch| branch.literals.len())
        .max()
        .unwrap_or(0)
}

fn too_many_literals(at: usize) -> Fault {
    Fault::new(
        at,
        format!("a conjunction of more than {LITERAL_LIMIT} conditions"),
    )
}

fn too_many_branches(at: usize) -> Fault {
    Fault::new(
        at,
        format!("the condition expands into more than {BRANCH_LIMIT} alternatives"),
    )
}

fn free_slots(branches: &[ConditionBranch]) -> Vec<Slot> {
    let mut free = Vec::new();
    for branch in branches {
        for term in branch.literals.iter().flat_map(|literal| &literal.args) {
            if let Term::Slot(slot) = term
                && !branch.variables.contains(slot)
                && !free.contains(slot)
            {
                free.push(*slot);
            }
        }
    }
    free
}
