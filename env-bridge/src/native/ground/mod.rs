//! Grounding: from actions with variables to operators over numbered atoms.
//!
//! 1. A fixpoint finds every fact that can become true if negative conditions are ignored. It is
//!    semi-naive: each new fact is joined with the facts before it, so that every combination is
//!    met once.
//! 2. Each operator that the fixpoint found gets its conditions and effects as atom numbers. If
//!    something can never change, it is decided here and removed.
//!
//! Follows Fast Downward's translator where a player can notice the difference: an effect is
//! dropped if it repeats a condition, an operator is dropped if it has no effects, and an addition
//! takes precedence over a deletion. A `forall` and the goal become derived atoms. Each is true if
//! the number of its true conjunctions is not zero. This module contains nothing about text.

mod derived;
mod explore;
mod facts;
mod grounded;
mod grounder;
mod join;
mod literal;
mod operators;
mod prune;
mod rules;

use super::pddl::{Domain, PddlProblem};
use grounder::Grounder;
use operators::OperatorBuffers;

pub(crate) use facts::{FactTable, STATIC};
pub(crate) use grounded::{ALWAYS, GroundEffect, Grounded, Setting, setting};
pub(crate) use grounder::GroundFault;

/// Grounds a problem.
pub(crate) fn ground(domain: &Domain, problem: &PddlProblem) -> Result<Grounded, GroundFault> {
    let mut grounder = Grounder::new(domain, problem);
    grounder.add_initial_facts();
    let rules = grounder.rules()?;
    let operators = grounder.explore(&rules)?;
    grounder.grounded.fluents = grounder.atoms.len();
    grounder
        .grounded
        .initial
        .resize(grounder.atoms.len(), false);
    let mut buffers = OperatorBuffers::default();
    for (rule, frame) in operators.iter() {
        grounder.finish_operator(&rules[rule], frame, &mut buffers)?;
    }
    grounder.finish_goal()?;
    grounder.grounded.tables = std::mem::take(&mut grounder.facts.tables);
    Ok(grounder.grounded)
}
