//! PDDL: a domain and a problem, parsed into types, facts, and actions whose conditions are in
//! disjunctive normal form.
//!
//! The parser follows Fast Downward's translator, which the Python stack uses:
//! - If a type is not declared, it is a type without objects (for example `location,` in
//!   `?l - location,`).
//! - Every type is a subtype of `object`.
//! - `(increase (total-cost) …)` is ignored.
//!
//! A `forall` condition becomes an [`Axiom`]: the condition holds if no counterexample exists.
//!
//! The parser refuses derived predicates, `either`, numeric effects other than the total cost, and
//! types used as predicates (the translator accepts these, but they are then never true).

mod condition;
mod domain;
mod list;
mod problem;
mod sexpr;
mod types;
mod variables;

pub(crate) use condition::{Axiom, ConditionBranch, Literal, PredicateId, Term, Test};
pub(crate) use domain::{ARITY_LIMIT, Action, ActionEffect, Domain};
pub(crate) use problem::PddlProblem;
pub(crate) use types::{Signatures, TypeId};
pub(crate) use variables::Slot;
